"""What stays at a site, and when it begins to count."""

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch

from infl.federation.state import Own, SiteState


def own(value: float) -> Own:
    return Own(torch.full((2,), value), torch.full((3,), -value), excess=value)


def shown(state: SiteState) -> dict[str, Any]:
    after = None if state.after is None else (*state.after[:2], state.after[2].weights[0].item())
    return {
        "now": state.now.weights[0].item(),
        "best": (state.best[0], state.best[1].weights[0].item()),
        "after": after,
    }


def test_a_round_counts_from_the_next_exchange_on_and_a_judged_one_is_kept() -> None:
    state = SiteState(own(0))
    for number in (1, 2, 3):
        seq = number + 2
        state.settle(seq, "train", best_round=max(number - 2, 0))  # the sum before judged the round before it
        assert shown(state)["now"] == number - 1
        state.note(seq, number, own(number))
        state.settle(seq, "train", best_round=max(number - 2, 0))  # asked for again
        assert shown(state)["now"] == number - 1 and shown(state)["best"][1] == max(number - 2, 0)
    state.settle(6, "judge", best_round=2)
    assert shown(state) == {"now": 3.0, "best": (2, 2.0), "after": None}
    state.settle(7, "temperature", best_round=2)
    assert shown(state)["now"] == 2.0  # final sums are of the best round


def test_what_is_not_in_the_sum_leaves_nothing() -> None:
    state = SiteState(own(0))
    state.note(3, 1, own(1))
    state.settle(4, "train", best_round=0, absent=True)
    assert shown(state) == {"now": 0.0, "best": (0, 0.0), "after": None}
    state.note(4, 2, own(2))
    state.leave_out()
    state.settle(5, "train", best_round=0)
    assert shown(state)["now"] == 0.0


@pytest.mark.parametrize(("best_round", "expected"), [(1, 0.0), (2, 2.0), (5, 2.0)])
def test_a_site_that_was_away_keeps_for_the_best_round_what_it_had_then(best_round: int, expected: float) -> None:
    """It answered round 2, and comes back in round 8; since round 2 its own weights are those of round 2."""
    state = SiteState(own(0))
    state.note(4, 2, own(2))
    state.settle(10, "train", best_round=best_round)
    assert shown(state)["best"] == (best_round, expected) and shown(state)["now"] == 2.0


@pytest.mark.parametrize("under_way", [False, True])
def test_what_is_kept_on_disk_comes_back(under_way: bool) -> None:
    state = SiteState(own(1))
    state.note(3, 1, own(2))
    state.settle(4, "train", best_round=1)
    if under_way:
        state.note(4, 2, own(3))
    again = SiteState(own(0))
    again.restore({name: np.array(value) for name, value in state.arrays().items()}, state.facts())
    assert shown(again) == shown(state) and again.now.excess == state.now.excess == 2
    assert again.now.control.equal(state.now.control) and again.best[1].excess == state.best[1].excess
    if under_way:
        assert again.after is not None and again.after[2].excess == 3


def test_a_site_that_keeps_nothing_writes_no_arrays() -> None:
    state = SiteState(Own(torch.empty(0), torch.empty(0)))
    assert state.arrays() == {}
    again = SiteState(own(0))
    again.restore({}, state.facts())
    assert len(again.now.weights) == len(again.now.control) == 0


def test_a_site_begins_at_the_mean_and_what_it_keeps_is_not_altered() -> None:
    begun = Own(torch.zeros(1), torch.empty(0))
    assert begun.excess == 0
    with pytest.raises(FrozenInstanceError):
        begun.excess = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("seq", [3, 3000])
def test_a_round_that_is_asked_for_again_starts_where_it_did(seq: int) -> None:
    state = SiteState(own(0))
    state.note(seq, 1, own(1))
    state.settle(int(str(seq)), "train", best_round=0)
    assert shown(state) == {"now": 0.0, "best": (0, 0.0), "after": (seq, 1, 1.0)}
