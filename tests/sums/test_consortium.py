"""Sums over a consortium: each process holds one site, all see the total that one process with all of them sees."""

import numpy as np
import pytest
from tests.threads import Room, Seat, at_every_site

from infl.data.consortium import Consortium, agreed, alongside, members
from infl.errors import FederationError, SealError, SettingsError
from infl.keys import Keyring
from infl.sums import FINE_SCALE, FederatedSum, run_sums

KEY = Keyring.create()
SITES = {"a": np.array([0.1, 2.5]), "b": np.array([-7.25, 1e6]), "c": np.array([3.0, np.pi])}


def total(name="total", shapes=2):
    return FederatedSum(
        name=name,
        shapes={"x": (shapes,)},
        local=lambda x, state: {"x": x[:shapes] + state.get("x", 0) / 3},
        combine=lambda total, state: {**state, **total},
        says="sum of values",
        scale=FINE_SCALE,
        steps=3,
    )


def test_each_process_sees_the_total_of_all():
    expected = run_sums([total()], SITES, KEY)["x"]
    found, seats = at_every_site(lambda sites: run_sums([total()], sites, None)["x"], SITES, KEY)
    for site in SITES:
        np.testing.assert_array_equal(found[site], expected)
        assert len(seats[site].kinds) == 3


def test_no_share_leaves_unsealed():
    found, seats = at_every_site(lambda sites: run_sums([total()], sites, None), SITES, None)
    assert all(isinstance(error, SealError) for error in found.values())
    two = {site: SITES[site] for site in "ab"}
    found, more = at_every_site(lambda sites: run_sums([total()], sites, None), two, KEY)
    assert all(isinstance(error, SealError) for error in found.values())
    assert not any(seat.kinds for seat in [*seats.values(), *more.values()])


def test_what_is_sent_differs_from_one_exchange_to_the_next():
    def same_twice(sites):
        for _ in range(2):
            run_sums([total(shapes=1)], sites, None)

    _, seats = at_every_site(same_twice, SITES, KEY)
    first, second = (seats["a"].room.said[number]["a"][1] for number in (0, 3))
    assert first.high.shape == second.high.shape
    assert not np.array_equal(np.r_[first.low, first.high], np.r_[second.low, second.high])


@pytest.mark.parametrize("other", [total("another"), total(shapes=1)], ids=["kind", "packing"])
def test_a_site_that_adds_something_else_is_refused(other):
    found, _ = at_every_site(lambda sites: run_sums([other if "b" in sites else total()], sites, None), SITES, KEY)
    assert all(isinstance(error, FederationError) for error in found.values())


def test_an_error_at_one_site_ends_the_others():
    def breaks(sites):
        if "b" in sites:
            raise ValueError("no such column")
        return run_sums([total()], sites, None)

    found, _ = at_every_site(breaks, SITES, KEY)
    assert isinstance(found.pop("b"), ValueError)
    for error in found.values():
        assert isinstance(error, FederationError) and str(error).startswith("b left before")


def test_names_are_agreed_and_sites_known():
    found, _ = at_every_site(lambda sites: agreed(sites, "units", {s: s.upper() for s in sites}), SITES, KEY)
    assert all(names == {"a": "A", "b": "B", "c": "C"} for names in found.values())
    sites = Consortium({"a": 1}, Seat(Room(("a", "b", "c")), "a"), KEY)
    assert members(sites) == members(alongside(sites, {"a": 2})) == ("a", "b", "c")
    assert repr(sites) == "Consortium of a, b, c; here: a"
    with pytest.raises(SettingsError, match="d is no member of the consortium"):
        alongside(sites, {"d": 1})
