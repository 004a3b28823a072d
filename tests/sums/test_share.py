"""How much a network counts beside a simple method follows from sums over sites, and from nothing else."""

import numpy as np
import pytest

from infl.sums import run_sums
from infl.sums.share import share_of_network, sure_share

GAINS, ROOMS = np.array([0.5, 0.4, 0.7, 0.2]), np.array([1.0, 0.8, 1.2, 0.5])


def moments(gain: np.ndarray, room: np.ndarray) -> np.ndarray:
    return np.array([gain.sum(), room.sum(), (gain**2).sum(), (gain * room).sum(), (room**2).sum()])


@pytest.mark.parametrize("counted", [False, True])
def test_the_share_over_sites_is_that_of_all_records(counted: bool) -> None:
    def of_site(rows: list[int], state: object) -> np.ndarray:
        found = moments(GAINS[rows], ROOMS[rows])
        return np.array([len(rows), *found]) if counted else found

    helps = share_of_network(of_site, lambda rows, state: len(rows), counted=counted)
    found = run_sums([helps], {"a": [0], "b": [1, 2], "c": [3]}, None)["share"]
    assert float(found) == pytest.approx(sure_share(*moments(GAINS, ROOMS)), abs=1e-5)
    assert 0 < float(found) < GAINS.sum() / ROOMS.sum()  # its standard error is taken off
    assert helps.behind([1, 2], {})["moments"].tolist() == [2.0] * (5 + counted)


def test_a_step_that_does_not_surely_help_counts_for_nothing() -> None:
    assert sure_share(*moments(-GAINS, ROOMS)) == 0
    assert sure_share(*moments(np.zeros(4), np.zeros(4))) == 0
    alike, by_one = (sure_share(*moments(np.array(gains), np.ones(4))) for gains in ([0.375] * 4, [1.5, 0, 0, 0]))
    assert alike == 0.375 and 0 < by_one < 0.1  # the same in the mean
