"""Intervals cover what they say on data whose truth is known, and confirmation sets are read once."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.weightstats import ttost_paired

import _evidence
import infl
from _evidence import AlreadyReadError, Method, bootstrap, confirm, equivalence, over_resplits, over_units, paired

N_STUDIES = 400
"""Simulated studies; 95 % of so many are within 0.92 and 0.98 with a chance of 99 %."""


def of_units(rng: np.random.Generator, n_units: int, n_seeds: int, truth: float) -> np.ndarray:
    """Values of units that differ, with noise of seeds within each: (n_units, n_seeds)."""
    return truth + rng.normal(0, 1, size=(n_units, 1)) + rng.normal(0, 0.5, size=(n_units, n_seeds))


def coverage(interval, n_units: int, n_seeds: int) -> float:
    rng, truth = np.random.default_rng(0), 0.3
    found = [interval(of_units(rng, n_units, n_seeds, truth)) for _ in range(N_STUDIES)]
    return float(np.mean([e.low <= truth <= e.high for e in found]))


@pytest.mark.parametrize(("n_units", "n_seeds"), [(4, 5), (25, 3)])
def test_interval_over_units_covers_the_truth(n_units: int, n_seeds: int) -> None:
    assert 0.92 <= coverage(lambda v: over_units(v, "patient"), n_units, n_seeds) <= 0.98


@pytest.mark.parametrize(("n_units", "n_seeds"), [(8, 5), (25, 3)])
def test_hierarchical_bootstrap_covers_the_truth(n_units: int, n_seeds: int) -> None:
    """Percentiles of few units are known to be a little short of it."""
    assert 0.90 <= coverage(lambda v: bootstrap(v, "patient", n=800), n_units, n_seeds) <= 0.99


def test_seeds_taken_for_units_do_not_cover_the_truth() -> None:
    """The mistake that the module is against: 4 patients × 5 seeds are not 20 patients."""
    assert coverage(lambda v: over_units(v.ravel(), "seed"), 4, 5) < 0.8


def test_more_seeds_do_not_narrow_an_interval_over_units() -> None:
    values = of_units(np.random.default_rng(1), 5, 1, 0.0)
    assert over_units(np.repeat(values, 50, axis=1), "patient").low == pytest.approx(over_units(values, "patient").low)


def resplits(rng: np.random.Generator, n: int, n_splits: int, test_share: float) -> np.ndarray:
    """Held-out error of the mean of n numbers around 0, minus its expectation of 1 + 1/n_train, over random splits."""
    x, n_test = rng.normal(size=n), round(test_share * n)
    found = []
    for _ in range(n_splits):
        order = rng.permutation(n)
        test, train = x[order[:n_test]], x[order[n_test:]]
        found.append(((test - train.mean()) ** 2).mean() - (1 + 1 / len(train)))
    return np.array(found)


def test_correction_for_resplits_covers_where_their_spread_does_not() -> None:
    rng = np.random.default_rng(0)
    found = [resplits(rng, 60, 10, 0.3) for _ in range(N_STUDIES)]
    corrected = np.mean([e.low <= 0 <= e.high for e in (over_resplits(v, 0.3) for v in found)])
    plain = np.mean([e.low <= 0 <= e.high for e in (over_units(v, "resplit") for v in found)])
    assert plain < 0.85 and corrected >= 0.90


def test_correction_is_worked_out_by_hand() -> None:
    found = over_resplits([1.0, 2.0, 3.0], 0.25)
    assert found.error == pytest.approx((1 / 3 + 1 / 3) ** 0.5)  # sd is 1
    assert found.high - found.value == pytest.approx(4.302653 * found.error)


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "equal"), (0.06, "inconclusive"), (0.2, "different")])
def test_two_one_sided_tests_agree_with_statsmodels(shift: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    theirs = rng.normal(size=20)
    ours = theirs + shift + (noise := rng.normal(0, 0.05, size=20)) - noise.mean()
    found = equivalence(paired(ours, theirs, "patient"), 0.05)
    assert found.verdict == verdict
    assert found.p == pytest.approx(ttost_paired(ours, theirs, -0.05, 0.05)[0])


def test_equality_is_rarely_found_where_there_is_none() -> None:
    """At a true difference of just the margin, it is found in 5 % of studies at most."""
    rng = np.random.default_rng(0)
    found = [equivalence(over_units(of_units(rng, 10, 3, 1.0), "patient"), 1.0).verdict for _ in range(N_STUDIES)]
    assert 0.02 <= np.mean([v == "equal" for v in found]) <= 0.085


def test_what_was_not_shown_to_differ_is_not_equal() -> None:
    few = over_units([-0.3, 0.4, 0.1], "patient")
    assert few.low < 0 < few.high
    assert equivalence(few, 0.02).verdict == "inconclusive"
    assert not _evidence.no_worse(few, 0.02)


def test_noise_of_seeds_is_that_within_units() -> None:
    assert _evidence.noise_of_seeds(np.array([[0.0, 2.0], [10.0, 12.0]])) == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: bootstrap(np.zeros((4, 3)), "patient"), "4 patients are too few"),
        (lambda: over_units([0.5], "patient"), "one patient has no interval"),
        (lambda: paired(np.zeros(3), np.zeros(4), "patient"), "the same patients"),
        (lambda: equivalence(over_units([0.0, 1.0], "patient"), 0.0), "above 0"),
        (lambda: confirm("khan", Method("m", (), {})), "khan is a development set"),
        (lambda: _evidence.data_file("her2st two more"), "her2st two more is a confirmation set"),
    ],
)
def test_what_has_no_interval_or_is_not_to_confirm_with(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "m.py").write_text("def f(x):\n    return x + 1\n")
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "-q"], ["add", "m.py"], [*name, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_confirmation_set_is_read_once_for_each_change(repository: Path) -> None:
    log = repository / "log.json"

    def read(settings: dict, **more: str) -> None:
        confirm("her2st two more", Method("domains", ("m.py",), settings), log=log, root=repository, **more)

    read({"width": 8})
    with pytest.raises(AlreadyReadError, match="was read with this domains on 2"):
        read({"width": 8})
    (repository / "m.py").write_text("def f(x):  # another comment\n\n    return x + 1\n")
    with pytest.raises(AlreadyReadError):
        read({"width": 8})
    read({"width": 16})
    (repository / "m.py").write_text("def f(x):\n    return x + 2\n")
    read({"width": 8})
    read({"width": 8}, again="the machine broke off")
    entries = json.loads(log.read_text())
    assert len({entry["digest"] for entry in entries}) == 3 and len(entries) == 4
    assert [entry["commit"].endswith("+") for entry in entries] == [False, True, True, True]
    assert entries[-1]["again"] == "the machine broke off" and "again" not in entries[0]


def test_data_files_are_found_and_confirmation_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infl.settings, "data_dir", str(tmp_path))
    logged = []
    monkeypatch.setattr(_evidence, "confirm", lambda name, method, again: logged.append((name, method.name, again)))
    assert _evidence.data_file("khan") == tmp_path / "srbct_khan.h5ad"
    assert logged == []
    assert _evidence.data_file("her2st two more", Method("domains", (), {})).name == "her2st_labelled_two_more.h5ad"
    assert logged == [("her2st two more", "domains", "")]


def test_every_reading_in_the_repository_is_of_a_confirmation_set() -> None:
    entries = json.loads(_evidence.CONFIRMATIONS.read_text())
    assert all(_evidence.DATA_SETS[entry["set"]].kind == "confirmation" for entry in entries)
    assert len({(entry["set"], entry["digest"]) for entry in entries if "again" not in entry}) == sum(
        "again" not in entry for entry in entries
    )
