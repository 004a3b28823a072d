"""What a run is: which specifications can be constructed, and what follows from them."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from anndata import AnnData

from infl.errors import DataError, KeyringError, SettingsError
from infl.federation.agreement import MAX_PAIRWISE, Agreement, check_classes
from infl.keys import Keyring
from infl.models import Classifier

TASK = Classifier(target="label", width=8, n_blocks=1)


@pytest.fixture
def agreement(small_sites: dict[str, AnnData]) -> Agreement:
    return Agreement.new(TASK, TASK.agree(small_sites), small_sites, Keyring.create())


def many(agreement: Agreement, n: int, **changes: Any) -> Agreement:
    return replace(agreement, sites=tuple(f"s{i}" for i in range(n)), **changes)


def test_what_was_agreed_cannot_be_altered(agreement: Agreement) -> None:
    with pytest.raises(FrozenInstanceError):
        agreement.min_sites = 1  # type: ignore[misc]


@pytest.mark.parametrize("changes", [{"seal": "none"}, {"lock": "none", "strength": 0.0}, {}])
@pytest.mark.parametrize("missing", [{"fingerprint": ""}, {"key_version": 0}])
def test_a_seal_or_a_lock_needs_a_key(agreement: Agreement, changes: dict[str, Any], missing: dict[str, Any]) -> None:
    with pytest.raises(KeyringError, match="need a key, and none is named"):
        replace(agreement, **changes, **missing)


def test_without_seal_and_lock_no_key_is_needed(agreement: Agreement) -> None:
    bare = replace(agreement, seal="none", lock="none", strength=0.0, fingerprint="", key_version=0)
    assert Agreement.from_json(bare.to_json()) == bare


def test_a_new_run_without_a_key_names_none(small_sites: dict[str, AnnData]) -> None:
    bare = Agreement.new(TASK, TASK.agree(small_sites), small_sites, None, lock=None, seal="none")
    assert (bare.key_version, bare.fingerprint) == (0, "")


def test_as_many_sites_as_a_sum_needs_are_enough(agreement: Agreement) -> None:
    assert replace(agreement, min_sites=4).cohort_size == 4
    with pytest.raises(SettingsError, match="there are only 4 sites"):
        replace(agreement, min_sites=5)
    assert replace(agreement, participation=0.75).cohort_size == 3
    with pytest.raises(SettingsError, match="asks 2 of 4 sites per round"):
        replace(agreement, participation=0.5)
    assert many(agreement, 3, participation=0.01, min_sites=1).cohort_size == 1


def test_the_pairwise_seal_is_for_a_hundred_sites(agreement: Agreement) -> None:
    assert many(agreement, MAX_PAIRWISE, seal="pairwise").quorum == 67
    with pytest.raises(SettingsError, match="for at most 100 sites, and there are 101"):
        many(agreement, MAX_PAIRWISE + 1, seal="pairwise")
    assert many(agreement, MAX_PAIRWISE + 1).quorum == 3


@pytest.mark.parametrize(
    ("n", "settings", "quorum", "said"),
    [
        (6, {}, 3, ""),
        (6, {"seal": "pairwise"}, 5, "at least 5 of the 6 sites: a round waits when more than 1 is away"),
        (9, {"seal": "pairwise", "participation": 2 / 3}, 5, "at least 5 of the 6 sites"),
        (6, {"seal": "pairwise", "min_sites": 6}, 6, "all 6 sites only"),
        (3, {"seal": "pairwise"}, 3, "all 3 sites only: the run waits whenever one is away"),
    ],
)
def test_how_many_sites_open_a_sum(
    agreement: Agreement, n: int, settings: dict[str, Any], quorum: int, said: str
) -> None:
    run = many(agreement, n, **settings)
    assert run.quorum == quorum and said in run.tolerance() and bool(said) == bool(run.tolerance())


def test_the_digest_is_of_everything_and_the_panels_of_names_alone(agreement: Agreement) -> None:
    panel = {**agreement.panel, "classes": ["a", "b", "c", "d"]}
    others = [replace(agreement, rounds=21), replace(agreement, seed=1), replace(agreement, panel=panel)]
    assert len({agreement.digest, *(other.digest for other in others)}) == 4
    assert [other.panel_digest == agreement.panel_digest for other in others] == [True, True, False]
    turned = replace(agreement, panel=dict(reversed(agreement.panel.items())))
    assert turned.panel_digest == agreement.panel_digest and turned.digest == agreement.digest


def test_results_say_all_but_the_names_of_features(agreement: Agreement) -> None:
    assert {"panel", "init", "bits", *agreement.settings()} == set(Agreement.__dataclass_fields__)
    assert replace(agreement, init="ab" * 32).settings()["init"] == "ab" * 32  # fresh weights are not told of
    assert "panel" not in agreement.settings() and agreement.settings()["options"] == agreement.options


@pytest.mark.parametrize(
    ("panel", "said"),
    [
        ({"classes": ["a"]}, "'a' is the only class"),
        ({"classes": []}, "no observation has a label"),
        ({"tasks": {"grade": ["low"], "stage": []}}, "'low' is the only class"),
        ({"tasks": {"grade": []}}, "no observation has a label"),
        ({"classes": ["a", "b"]}, ""),
        ({"tasks": {"grade": ["low"], "stage": ["I", "II"]}}, ""),
        ({"features": ["g1"]}, ""),
    ],
)
def test_labels_tell_something_apart(panel: dict[str, Any], said: str) -> None:
    if not said:
        check_classes(panel)
        return
    with pytest.raises(DataError, match=said):
        check_classes(panel)
