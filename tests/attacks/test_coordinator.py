"""A coordinator that deviates: refused by real sites, and each attack works on a double that lacks the check."""

import importlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from anndata import AnnData

import infl
from infl.attacks import AuditContext, Finding, Status, load_attack
from infl.attacks.coordinator import sums
from infl.attacks.coordinator.visible import difference
from infl.deploy.policy import Policy
from infl.errors import SealError
from infl.federation.agreement import Agreement
from infl.federation.membership import Membership
from infl.federation.site import Site
from infl.models import Classifier
from infl.models.options import Kind, Text
from infl.models.registry import TASKS

from .conftest import attacked

PLANS = ("replayed_round", "extra_rounds", "chosen_scale", "early_end", "differencing")
REFUSED = (
    *PLANS,
    "code_in_offer",
    "code_in_file",
    "downgrade",
    "data_probe",
    "split_view",
    "refusal_oracle",
)


pytestmark = pytest.mark.slow
SEVERAL_RUNS = {"split_view", "refusal_oracle", "data_probe", "code_in_offer", "code_in_file"}
"""Lies that take a consortium each: what a site without the check does with them takes long."""


def long_where_several(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.long] if name in SEVERAL_RUNS else []) for name in names]


SMALL = {"genes": 32, "rounds": 2, "width": 16, "n_blocks": 1}
"""What stations refuse does not hang on the size of a model."""


@pytest.fixture(scope="module")
def default() -> AuditContext:
    return attacked(**SMALL)


@pytest.fixture(scope="module")
def pairwise() -> AuditContext:
    return attacked(seal="pairwise", **SMALL)


def found(name: str, context: AuditContext) -> Finding:
    attack = load_attack(name)
    assert attack.applies(context)
    (finding,) = attack.run(context)
    return finding


@pytest.mark.parametrize("name", [*REFUSED, "ghost_members"])
def test_is_refused(name: str, default: AuditContext) -> None:
    finding = found(name, default)
    assert (finding.status, finding.value) == (Status.HOLDS, 0.0), finding.note
    assert finding.control > 0.9 or name == "refusal_oracle"


@pytest.mark.parametrize(
    "name", ["replayed_round", *(pytest.param(name, marks=pytest.mark.long) for name in ("downgrade", "data_probe"))]
)
def test_is_refused_in_a_private_run(name: str) -> None:
    """Between machines no hospital gives a share of the noise under a group's seal, so these attack the pairwise one."""
    private = attacked(privacy=infl.privacy.DP(epsilon=8.0, delta=1e-3), **SMALL | {"n_blocks": 0})
    finding = found(name, private)
    assert (finding.status, finding.value) == (Status.HOLDS, 0.0), finding.note


@pytest.mark.parametrize("name", long_where_several([*PLANS, "split_view", "refusal_oracle", "ghost_members"]))
def test_is_refused_under_the_pairwise_seal(name: str, pairwise: AuditContext) -> None:
    finding = found(name, pairwise)
    assert (finding.status, finding.value) == (Status.HOLDS, 0.0), finding.note


# -- controls: what a site without the check does ------------------------------------------------------------------------
Patch = Callable[[pytest.MonkeyPatch], None]


def without(place: object, name: str, returns: Any = None) -> Patch:
    return lambda patch: patch.setattr(place, name, lambda *a, **k: returns)


def does_as_it_is_told(patch: pytest.MonkeyPatch) -> None:
    without(Site, "_check_due")(patch)


def believes_words(patch: pytest.MonkeyPatch) -> None:
    """What is offered is compared with nothing."""
    for place, name in (
        (Policy, "check"),
        (Agreement, "_check_key"),
        (importlib.import_module("infl.federation.site"), "check_agreed"),
    ):
        without(place, name)(patch)


def keeps_no_history(patch: pytest.MonkeyPatch) -> None:
    without(importlib.import_module("infl.federation.replica"), "linked", "")(patch)


def refuses_what_is_large(patch: pytest.MonkeyPatch) -> None:
    """A site that says nothing when a sum of its own is out of some range."""
    usual = Site._values

    def values(self: Site, plan: Any) -> Any:
        update, arrays, weight = usual(self, plan)
        if any(np.abs(array).max(initial=0) > 1e6 for array in (update, *map(np.asarray, arrays.values()))):
            raise SealError("out of range")
        return update, arrays, weight

    patch.setattr(Site, "_values", values)


def asks_nobody(patch: pytest.MonkeyPatch) -> None:
    without(Policy, "read", Policy(ask=False, targets=["tumour_class"], panels=["*"], seals=["group"]))(patch)


def knows_no_members(patch: pytest.MonkeyPatch) -> None:
    """Whoever has the ring is taken for a member, as its name says."""
    patch.setattr(Membership, "of", classmethod(lambda cls, site, identity, sites, trail: cls(identity, None)))


@dataclass(frozen=True)
class Careless(Classifier):
    """A task that follows an import path wherever it comes from."""

    name: ClassVar[str] = "careless"
    backbone: str = ""
    parameters: ClassVar[dict[str, Kind]] = Classifier.parameters | {"backbone": Text()}

    def __post_init__(self) -> None:
        super().__post_init__()
        module, _, function = self.backbone.partition(":")
        if function:
            getattr(importlib.import_module(module), function)()


def follows_paths(patch: pytest.MonkeyPatch) -> None:
    sys.modules["careless_task"] = sys.modules[__name__]
    patch.setitem(TASKS, "careless", "careless_task:Careless")


CONTROLS: dict[str, Patch] = {
    **dict.fromkeys(PLANS, does_as_it_is_told),
    "downgrade": believes_words,
    "split_view": keeps_no_history,
    "refusal_oracle": refuses_what_is_large,
    "data_probe": asks_nobody,
    "ghost_members": knows_no_members,
    "code_in_offer": follows_paths,
    "code_in_file": follows_paths,
}


@pytest.mark.parametrize("name", long_where_several(CONTROLS))
def test_works_on_a_site_without_the_check(name: str, default: AuditContext, monkeypatch: pytest.MonkeyPatch) -> None:
    CONTROLS[name](monkeypatch)
    finding = found(name, default)
    assert finding.status is Status.BROKEN, finding.note
    assert finding.value > 0


# -- what is limited, not refused ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("seal", ["default", pytest.param("pairwise", marks=pytest.mark.long)])
def test_a_crafted_model_reads_patients_out_of_a_sum(
    seal: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = request.getfixturevalue(seal)
    finding = found("crafted_model", context)
    assert finding.status is Status.NOT_PROMISED and "limited by" in finding.note
    assert 0.2 < finding.value <= finding.control
    monkeypatch.setattr(sums, "crafted", lambda site, rng: site.replica.theta.numpy())
    assert found("crafted_model", context).value == 0.0  # an honest model's sum gives no profile


def test_difference_of_what_is_seen() -> None:
    assert difference([], []) == 0.0
    assert difference([(1,)], [(1,)]) == 0.0
    assert difference([(1,)], [(1,), (2,)]) == 0.5


def test_a_consortium_is_set_up_from_odd_data() -> None:
    """Columns that no file takes, names that enrolment does not take, more observations than are used."""
    sites: dict[str, AnnData] = {f"St. {s}, ward 1": a[:, ::64].copy() for s, a in infl.datasets.khan_sites().items()}
    for adata in sites.values():
        adata.obs["odd"] = [{"x": 1}] * adata.n_obs
        adata.uns["odd"] = object()
    run = infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)
    assert found("early_end", AuditContext(run, sites)).status is Status.HOLDS
    assert replace(found("early_end", AuditContext(run, sites)), value=1.0, low=1.0).status is Status.BROKEN
