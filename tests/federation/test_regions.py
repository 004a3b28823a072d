"""Coordinators in a tree: the same sums to the bit, and nothing more for any of them to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.federation.conftest import TappedTransport, make_sites

from infl.errors import FederationError, SealError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Transport
from infl.federation.local import Outcome, run_in_process
from infl.federation.messages import Answer, Plan, Reply, Subtotal
from infl.federation.regions import Region, Regions
from infl.federation.wire import decode, encode
from infl.keys import Keyring
from infl.models import Classifier

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")
NORTH, SOUTH, EAST = ("site_1", "site_4"), ("site_2", "site_6"), ("site_3", "site_5", "site_7")


@pytest.fixture
def seven_sites() -> dict[str, AnnData]:
    return make_sites(7)


@dataclass
class Line:
    """What passes between a coordinator and those below it, as bytes and back; kept in the order of arrival."""

    inner: Transport
    passed: list[Reply] = field(default_factory=list)
    change: Callable[[Reply], Reply] = lambda reply: reply

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        for reply in self.inner.ask(cohort, plan_for):
            self.passed.append(self.change(decode(encode(reply))))
            yield self.passed[-1]

    def holder(self, site: str) -> str:
        return self.inner.holder(site)


def flat(line: Transport) -> Transport:
    return line


def two_levels(line: Transport) -> Transport:
    """North and east report to a region above them; what goes up goes over a line."""
    inner = Regions([Region("north", NORTH, line), Region("east", EAST, line)])
    above = Region("north and east", (*NORTH, *EAST), Line(inner))
    return Line(Regions([Region("south", SOUTH, line), above]))


def fitted(
    sites: dict[str, AnnData], wrap: Callable[[Transport], Transport], *, key: Keyring | None = None, **settings: object
) -> Outcome:
    task, key = Classifier(target="label", width=8, n_blocks=1), key or Keyring.create()
    agreement = Agreement.new(task, task.agree(sites), sites, key, **{"rounds": 2, "seed": 1, **settings})
    return run_in_process(agreement, task, sites, key, wrap=wrap)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"seal": "pairwise"},
        {"seal": "none", "lock": None},
        {"bits": 5},
        {"participation": 0.5, "aggregation": "fedadam"},
    ],
)
def test_a_fit_over_regions_is_that_without_them_to_the_bit(
    seven_sites: dict[str, AnnData], settings: dict[str, object]
) -> None:
    one, tree = (fitted(seven_sites, wrap, **settings) for wrap in (flat, two_levels))
    assert torch.equal(one.replica.theta, tree.replica.theta)
    assert one.run.history.equals(tree.run.history)


@pytest.mark.parametrize("seal", ["group", "pairwise"])
def test_a_site_that_its_region_loses_costs_itself_only(seven_sites: dict[str, AnnData], seal: str) -> None:
    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and plan.round == 2 and reply.site == "site_3" else reply

    one, tree = (
        fitted(seven_sites, lambda line, wrap=wrap: wrap(TappedTransport(line, lose)), seal=seal)
        for wrap in (flat, two_levels)
    )
    assert tree.run.history["n_sites"].tolist() == [7, 6]
    assert torch.equal(one.replica.theta, tree.replica.theta)


def test_a_region_that_is_lost_is_lost_with_its_sites(seven_sites: dict[str, AnnData]) -> None:
    def without_north(line: Transport) -> Transport:
        return Regions([Region("south", SOUTH, line), Region("east", EAST, line)])

    with pytest.raises(FederationError, match=r"only 5 of 7 .* missing: site_1, site_4"):
        fitted(seven_sites, without_north)


@pytest.mark.parametrize("seal", ["none", "group", "pairwise"])
def test_a_region_sees_of_its_sites_what_one_coordinator_sees_and_of_others_nothing(
    seven_sites: dict[str, AnnData], seal: str
) -> None:
    lines: dict[str, Line] = {}

    def tree(line: Transport) -> Transport:
        for name in ("north", "south", "east", "top"):
            lines[name] = Line(line)
        regions = [Region(n, s, lines[n]) for n, s in (("north", NORTH), ("south", SOUTH), ("east", EAST))]
        lines["top"].inner = Regions(regions)
        return lines["top"]

    fitted(seven_sites, tree, seal=seal, lock=None)
    for name, members in (("north", NORTH), ("south", SOUTH), ("east", EAST)):
        assert {reply.site for reply in lines[name].passed} == set(members)
        assert {type(reply).__name__ for reply in lines[name].passed} <= {"Answer", "Key", "Reveal"}
    assert not any(isinstance(reply, Answer) for reply in lines["top"].passed)  # and the top no single site's
    answers = {(r.seq, r.site): r for n in ("north", "south", "east") for r in lines[n].passed if isinstance(r, Answer)}
    for part in lines["top"].passed:
        if isinstance(part, Subtotal):
            added = np.sum([answers[part.seq, s].words.high for s in part.sites], axis=0, dtype=np.uint64)
            np.testing.assert_array_equal(part.words.high, added)


@pytest.mark.parametrize(("seal", "readable"), [("none", True), ("group", False), ("pairwise", False)])
def test_what_a_region_sends_on_is_noise_to_whoever_has_no_key(
    seven_sites: dict[str, AnnData], seal: str, readable: bool
) -> None:
    """Without a seal the control: a sum of updates is small, so its words are near 0 modulo 2³²."""
    top: list[Line] = []

    def tree(line: Transport) -> Transport:
        parts = [Region(n, s, line) for n, s in (("north", NORTH), ("south", SOUTH), ("east", EAST))]
        top.append(Line(Regions(parts)))
        return top[0]

    fitted(seven_sites, tree, seal=seal, lock=None)
    trained = [r for r in top[0].passed if isinstance(r, Subtotal) and len(r.words.low)]
    assert len(trained) == 6
    for part in trained:
        size = np.abs(part.words.low.view(np.int32).astype(float))
        assert (np.median(size) < 2**25) == readable
        if not readable:
            assert abs(np.mean(size) / 2**30 - 1) < 0.2  # uniform


@pytest.mark.parametrize("seal", ["group", "pairwise"])
def test_a_site_does_not_open_the_sum_of_one_region_as_that_of_all(seven_sites: dict[str, AnnData], seal: str) -> None:
    """The region above keeps a part back, and says that all are in the sum."""

    def keep_back(reply: Reply) -> Reply:
        if isinstance(reply, Subtotal) and reply.site == "south":
            nothing = replace(
                reply.words, low=reply.words.low * 0, high=reply.words.high * 0, of_all=reply.words.of_all * 0
            )
            return replace(reply, words=nothing)
        return reply

    def tree(line: Transport) -> Transport:
        parts = [Region(n, s, line) for n, s in (("north", NORTH), ("south", SOUTH), ("east", EAST))]
        return Line(Regions(parts), change=keep_back)

    with pytest.raises(SealError, match="round rejected"):
        fitted(seven_sites, tree, seal=seal)


def test_a_region_that_adds_a_site_twice_is_noticed(seven_sites: dict[str, AnnData]) -> None:
    def twice(line: Transport) -> Transport:
        def double(reply: Reply) -> Reply:
            if isinstance(reply, Subtotal) and reply.site == "south":
                return replace(reply, words=replace(reply.words, high=reply.words.high * 2))
            return reply

        parts = [Region(n, s, line) for n, s in (("north", NORTH), ("south", SOUTH), ("east", EAST))]
        return Line(Regions(parts), change=double)

    with pytest.raises(SealError, match="round rejected"):
        fitted(seven_sites, twice)


def test_a_region_that_speaks_for_others_is_refused(seven_sites: dict[str, AnnData]) -> None:
    def claim(reply: Reply) -> Reply:
        return replace(reply, sites=NORTH) if isinstance(reply, Subtotal) and reply.site == "south" else reply

    def tree(line: Transport) -> Transport:
        parts = [Region(n, s, line) for n, s in (("north", NORTH), ("south", SOUTH), ("east", EAST))]
        return Line(Regions(parts), change=claim)

    with pytest.raises(FederationError, match="an answer of 'south' to exchange 0 was not asked for; refused"):
        fitted(seven_sites, tree)


def test_a_site_is_in_one_region_and_what_is_in_none_is_lost() -> None:
    class Nobody:
        def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
            yield from ()

        def holder(self, site: str) -> str:
            return "shared"

    with pytest.raises(SettingsError, match="'b' is in two regions, 'north' and 'south': leave it in one"):
        Regions([Region("north", ("a", "b"), Nobody()), Region("south", ("b",), Nobody())])
    regions = Regions([Region("north", ("a",), Nobody())])
    assert (regions.holder("a"), regions.holder("z")) == ("shared", "z")
    plan = Plan("run", 0, "count", 0, 0, ("a", "z"), (0, 2, 0), "", 1, "", ())
    assert list(regions.ask(("a", "z"), lambda site: plan)) == []
