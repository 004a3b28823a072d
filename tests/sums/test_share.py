"""How much a network counts beside a simple method follows from sums over sites, and from nothing else."""

import numpy as np
import pytest

from infl.sums import run_sums
from infl.sums.share import share_moments, share_of_network, sure_share

GAINS, ROOMS = np.array([0.5, 0.4, 0.7, 0.2]), np.array([1.0, 0.8, 1.2, 0.5])
SITES = {"a": [0], "b": [1, 2], "c": [3]}


def share(of_site, kinds: int = 1) -> float:
    return float(
        run_sums([share_of_network(of_site, lambda rows, state: len(rows), kinds=kinds)], SITES, None)["share"]
    )


def of_rows(rows: list[int], state: object) -> np.ndarray:
    return share_moments(GAINS[rows], ROOMS[rows])[None]


def test_the_share_over_sites_is_that_of_all_units() -> None:
    assert share(of_rows) == pytest.approx(sure_share(*share_moments(GAINS, ROOMS)), abs=1e-5)
    assert 0 < share(of_rows) < GAINS.sum() / ROOMS.sum()  # its standard error is taken off


def test_records_stand_behind_every_number() -> None:
    helps = share_of_network(of_rows, lambda rows, state: len(rows), kinds=2)
    assert helps.behind([1, 2], {})["moments"].tolist() == [[2.0] * 6] * 2


def test_the_error_is_the_standard_error_of_a_ratio_of_means() -> None:
    ratio = GAINS.sum() / ROOMS.sum()
    error = (GAINS - ratio * ROOMS).std(ddof=1) * len(GAINS) ** 0.5 / ROOMS.sum()
    assert sure_share(*share_moments(GAINS, ROOMS)) == pytest.approx(ratio - error)


def test_a_step_that_does_not_surely_help_counts_for_nothing() -> None:
    assert sure_share(*share_moments(-GAINS, ROOMS)) == 0
    assert sure_share(*share_moments(np.zeros(4), np.zeros(4))) == 0
    alike, by_one = (sure_share(*share_moments(gains, np.ones(4))) for gains in ([0.375] * 4, [1.5, 0, 0, 0]))
    assert (alike, by_one) == (0.375, 0)  # the same in the mean


def test_the_kind_of_units_that_is_least_sure_decides_and_one_unit_says_nothing() -> None:
    def of_site(rows: list[int], state: object) -> np.ndarray:
        whole = share_moments([GAINS[rows].sum()], [ROOMS[rows].sum()])  # a site's rows are one unit
        return np.stack([whole, share_moments(GAINS[rows], ROOMS[rows])])

    by_site = sure_share(*share_moments([0.5, 1.1, 0.2], [1.0, 2.0, 0.5]))
    assert share(of_site, kinds=2) == pytest.approx(min(by_site, share(of_rows)), abs=1e-5)

    def alone(rows: list[int], state: object) -> np.ndarray:
        return np.stack([share_moments([1.0], [1.0]) * (rows == [0]), share_moments(GAINS[rows], ROOMS[rows])])

    assert share(alone, kinds=2) == pytest.approx(share(of_rows), abs=1e-5)
    assert sure_share(*share_moments([1.0], [1.0])) == 0
