"""The audit: it finds what is open, holds what is closed, and fails when a protection is switched off."""

import dataclasses
import sys
import types

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.bits import fixed_bytes

import infl
from infl import _tell
from infl.attacks import Attack, Attacker, AuditContext, Finding, file_statistics
from infl.errors import DataError, SettingsError
from infl.models.lock_schemes import FieldLock
from infl.nn.lock import Field
from infl.privacy.seal.masks import Stream
from infl.tl._audit import COLUMNS

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")
FIT = {"target": "tumour_class", "rounds": 8, "progress": False}
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def sites() -> dict[str, AnnData]:
    return infl.datasets.khan_sites()


@pytest.fixture(scope="module")
def fewer(sites: dict[str, AnnData]) -> dict[str, AnnData]:
    """Every eighth gene: what nothing protects is as open with them."""
    return {site: adata[:, ::8].copy() for site, adata in sites.items()}


@pytest.fixture(scope="module")
def default(sites: dict[str, AnnData]):
    with fixed_bytes("key and salts"):
        return infl.tl.fit_federated(sites, seed=0, **FIT)


def rows(table):
    return table.set_index("attack")["status"].to_dict()


@pytest.mark.long
def test_default_holds_where_it_promises(default, sites: dict[str, AnnData]) -> None:
    with fixed_bytes("runs of the audit"):  # an honest interval of 40 cohorts is too wide to tell for some keys
        table = infl.tl.audit(default, sites, attacks="quick", **QUIET)
    assert list(table) == list(COLUMNS)
    status = table.set_index("attack")["status"]
    assert status.pop("collusion") == "not promised"
    assert len(status["file_statistics"]) == 2
    assert set(status) == {"holds"}, pd.DataFrame(table)[
        ["attack", "low", "value", "high", "limit", "trials", "needed", "status"]
    ].to_string()
    assert table.attrs["passed"]
    assert (table["control"] > table["chance"]).all()
    infl.pl.audit(table)


def test_every_quick_attack_turns_red_or_open_without_protection(
    fewer: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the whole audit: the same attacks on a run with neither lock nor seal succeed."""
    monkeypatch.setattr(file_statistics, "N_COHORTS", 16)
    run = infl.tl.fit_federated(fewer, lock=None, seal="none", **FIT)
    attacks = ["analytic_leak", "ratio", "sealed_traffic", "importance_thief", "file_statistics"]
    table = infl.tl.audit(run, fewer, attacks=attacks, **QUIET)
    assert rows(table) == dict.fromkeys(attacks, "not promised")


def test_lock_alone_does_not_hide_updates(fewer: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(fewer, seal="none", **FIT)
    attacks = ["ratio", "no_key", "wrong_key"]
    table = infl.tl.audit(run, fewer, attacks=attacks, **QUIET).set_index("attack")
    assert table.loc["ratio", "status"] == "not promised"
    assert table.loc["ratio", "value"] > 0.8
    assert table.loc["wrong_key", "status"] == "holds"
    assert table.loc["no_key", "status"] == "holds"


def test_pairwise_seal_closes_collusion(fewer: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(fewer, seal="pairwise", **FIT | {"rounds": 2})
    table = infl.tl.audit(run, fewer, attacks="collusion", **QUIET)
    assert table["status"].tolist() == ["holds"]
    assert table["control"].iloc[0] > 0.99


@pytest.mark.long
def test_published_lock_is_shown_as_measured(sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(sites, lock="published", seal="none", local_epochs=10, **FIT)
    table = infl.tl.audit(run, sites, attacks=["wrong_key"], **QUIET)
    assert table["value"].iloc[0] > 0.6
    assert table["status"].tolist() == ["not promised"]


def test_a_seal_whose_masks_are_all_the_same_is_a_leak(
    fewer: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stream, "read", lambda self, n: np.ones(n, dtype=self._dtype))
    run = infl.tl.fit_federated(fewer, **FIT)
    table = infl.tl.audit(run, fewer, attacks=["analytic_leak", "sealed_traffic"], **QUIET)
    assert rows(table) == {"analytic_leak": "leak", "sealed_traffic": "leak"}
    assert not table.attrs["passed"]


@pytest.mark.long
def test_a_file_that_needs_no_key_is_a_leak(sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = infl.tl.fit_federated(sites, strength=0.0, **FIT)
    header = dataclasses.replace(open_file.model.header, strength=1.0)
    effective = open_file.model.stored

    class Pretending(type(open_file.model)):
        def effective(self, key, *, verify=True):
            return dict(effective)

    private = open_file.model.private_arrays(open_file.key)
    model = Pretending(header, effective, open_file.model.private)
    monkeypatch.setattr(Pretending, "private_arrays", lambda self, key: private if key is not None else {})
    red = infl.tl.audit(dataclasses.replace(open_file, model=model), sites, attacks=["wrong_key"], **QUIET)
    assert red["status"].tolist() == ["leak"]


def test_a_lock_that_does_nothing_is_seen_in_the_file(
    sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        FieldLock, "field", lambda self, secret, salt, **how: secret and Field(secret, salt, 0.0, **how)
    )
    monkeypatch.setattr(file_statistics, "N_COHORTS", 16)
    with fixed_bytes("a lock that does nothing"):
        run = infl.tl.fit_federated(sites, seed=0, **FIT)
        table = infl.tl.audit(run, sites, attacks=["file_statistics"], **QUIET)
    assert table["status"].iloc[0] == "leak" and "holds" not in set(table["status"]), pd.DataFrame(table).to_string()
    assert not table.attrs["passed"]


@pytest.mark.long
def test_attacks_that_take_longer(default, sites: dict[str, AnnData]) -> None:
    for name in ("known_model", "site_balance", "gradient_inversion"):
        table = infl.tl.audit(default, sites, attacks=[name], **QUIET)
        assert set(table["status"]) <= {"holds", "inconclusive"}, table.to_string()  # eight rounds, few trials


def test_bad_input(default, sites: dict[str, AnnData]) -> None:
    with pytest.raises(SettingsError, match="attack 'hope' is not known"):
        infl.tl.audit(default, sites, attacks=["hope"], **QUIET)
    with pytest.raises(SettingsError, match="give names of attacks"):
        infl.tl.audit(default, sites, attacks=[], **QUIET)
    with pytest.raises(SettingsError, match=r"what fit_federated returned, not LockedModel: .* infl\.tl\.lock_curve"):
        infl.tl.audit(default.model, sites, **QUIET)
    other = {s: a.copy() for s, a in sites.items()}
    other["site_1"].X = other["site_1"].X[::-1].copy()
    with pytest.raises(DataError, match="not the data of the run"):
        infl.tl.audit(default, other, attacks=["wrong_key"], **QUIET)
    other["site_9"] = other.pop("site_1")
    with pytest.raises(DataError, match="not the sites of the run: site_1"):
        infl.tl.audit(default, other, attacks=["wrong_key"], **QUIET)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"against": None}, "attack 'mine' has no against: set against in class Mine"),
        ({"question": None}, "attack 'mine' has no question: set question in class Mine"),
        ({"run": lambda attack, context: None}, "attack 'mine': run returns NoneType, and a list of Finding is needed"),
        ({"run": lambda attack, context: [0.9]}, "attack 'mine': run returns list, and a list of Finding is needed"),
    ],
)
def test_a_mistake_of_an_attacks_author_is_one_line(
    default, sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object], said: str
) -> None:
    right = {"name": "mine", "against": Attacker.THIEF, "question": "?", "applies": lambda attack, context: True}
    made = {
        name: value
        for name, value in ({"run": lambda attack, context: []} | right | wrong).items()
        if value is not None
    }
    module = types.ModuleType("mine_attacks")
    module.Mine = type("Mine", (Attack,), made)
    monkeypatch.setitem(sys.modules, "mine_attacks", module)
    monkeypatch.setitem(infl.attacks.ATTACKS, "mine", "mine_attacks:Mine")
    with pytest.raises(SettingsError, match=f"^{said}$"):
        infl.tl.audit(default, sites, attacks=["mine"], progress=False)


def test_attacks_that_do_not_apply(sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(sites, lock=None, **FIT | {"rounds": 2})
    with pytest.raises(
        SettingsError, match=r"wrong_key: no such attack applies to this run \(lock none, seal group\); attacks=None"
    ):
        infl.tl.audit(run, sites, attacks="wrong_key", **QUIET)
    with pytest.warns(infl.errors.InflWarning, match="wrong_key left out"):
        table = infl.tl.audit(run, sites, attacks=["no_key", "wrong_key"], **QUIET)
    assert table.attrs["left_out"] == ["wrong_key"]
    assert table["status"].tolist() == ["not promised"]


def test_numbers_are_numbers_where_no_attack_has_trials(default, sites: dict[str, AnnData]) -> None:
    table = infl.tl.audit(default, sites, attacks=["downgrade"], **QUIET)
    assert table[["value", "low", "high", "limit", "trials", "needed"]].dtypes.unique().tolist() == [np.dtype(float)]
    assert table[["trials", "needed"]].isna().all(axis=None)


def test_progress_is_shown_on_standard_error(default, sites: dict[str, AnnData], capsys: pytest.CaptureFixture) -> None:
    infl.tl.audit(default, sites, attacks=["wrong_key", "one_bit_key"], progress=True)
    out, err = capsys.readouterr()
    assert not out
    assert "attack" in err
    assert "2/2" in err


def test_an_attacks_own_fits_say_nothing(default, sites: dict[str, AnnData], capsys: pytest.CaptureFixture) -> None:
    kind = type(infl.attacks.load_attack("no_key"))
    run = kind.run

    def tells(self: Attack, context: AuditContext) -> list[Finding]:
        _tell.warning("a class of shadow records is at one site alone")
        return run(self, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "run", tells)
        infl.tl.audit(default, sites, attacks=["no_key"], **QUIET)
        assert not capsys.readouterr().err
        _tell.warning("said again")
    assert "said again" in capsys.readouterr().err


@pytest.mark.long
def test_run_under_differential_privacy_is_audited(sites: dict[str, AnnData]) -> None:
    pytest.importorskip("opacus")
    small = {s: a[:, ::16].copy() for s, a in sites.items()}
    privacy = infl.privacy.DP(epsilon=1.0, delta=1e-5)
    run = infl.tl.fit_federated(
        small, target="tumour_class", privacy=privacy, rounds=20, lr=0.01, width=16, n_blocks=0, **QUIET
    )
    names = ["membership", "importance_thief", "sealed_traffic", "audited_epsilon"]
    table = infl.tl.audit(run, small, attacks=names, **QUIET).set_index("attack")
    assert set(table["status"]) <= {"holds", "inconclusive"}, table[
        ["metric", "value", "chance", "control", "status"]
    ].to_string()
    audited = table.loc["audited_epsilon"]
    assert (audited["value"] <= audited["high"]).all()
    assert (audited["high"] == run.privacy["epsilon"]).all()
