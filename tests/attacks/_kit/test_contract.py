"""What a finding means: the control first, then what leaks, then what holds, else how many trials would decide."""

import numpy as np
import pytest

from infl.attacks import Finding, Status, interval


def finding(**changes: object) -> Finding:
    base = {"metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.25, "control": 0.9}
    return Finding(**{**base, "promised": True, "margin": 0.2, "note": ""} | changes)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.BROKEN),
        ({"promised": False}, Status.NOT_PROMISED),
        ({"low": 0.24, "high": 0.44}, Status.HOLDS),
        ({"low": 0.24, "high": 0.46}, Status.INCONCLUSIVE),  # not shown to be near chance
        ({"low": 0.24, "high": 0.46, "promised": False}, Status.INCONCLUSIVE),
        ({"chance": 0.0, "value": 0.02, "low": -0.24, "high": 0.28, "margin": 0.25}, Status.INCONCLUSIVE),
        ({"chance": 0.0, "value": 0.02, "low": -0.24, "high": 0.28, "margin": 0.5}, Status.INCONCLUSIVE),
        ({"chance": 0.5, "value": 0.63, "low": 0.55, "high": 0.71}, Status.BROKEN),  # excludes chance
        ({"control": 0.3}, Status.NOT_JUDGED),
        (
            {"control": 0.3, "low": 0.24},
            Status.NOT_JUDGED,
        ),  # an attack that fails on the control never counts as a pass
        ({"control": float("nan")}, Status.NOT_JUDGED),
        ({"bound": 0.65}, Status.HOLDS),  # a promise that allows more than chance
        ({"bound": 0.55}, Status.INCONCLUSIVE),
        ({"bound": 0.65, "provable": 0.64}, Status.CANNOT_TELL),
        ({"bound": 0.65, "provable": 0.65}, Status.HOLDS),
        ({"bound": 0.35, "provable": 0.3}, Status.BROKEN),  # what is shown is shown
        ({"bound": 0.35}, Status.BROKEN),
    ],
)
def test_status(changes: dict[str, object], status: Status) -> None:
    assert finding(**changes).status is status


WIDE = {"chance": 0.0, "value": 0.02, "low": -0.24, "high": 0.28, "trials": 6}


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({"high": 0.1}, True),
        ({}, False),
        ({"promised": False}, True),
        ({"low": 0.19}, False),
        ({"control": 0.1}, False),
    ],
)
def test_what_is_undecided_passes_only_where_nothing_was_promised(changes: dict[str, object], passed: bool) -> None:
    assert finding(**WIDE | changes).passed is passed


def test_undecided_findings_say_how_many_trials_would_decide() -> None:
    undecided = finding(**WIDE)
    assert undecided.needed == 10  # t(9) · 0.2477 / √10 = 0.177 ≤ 0.18 < 0.190 = t(8) · 0.2477 / √9
    assert "Undecided by 6 trials, up to a limit of 0.2: it takes about 10." in undecided.said
    decided = finding(**WIDE | {"high": 0.1})
    assert decided.needed is None and decided.said == decided.note
    assert finding(**WIDE | {"trials": None}).needed is None


def test_so_many_trials_do_decide() -> None:
    """Over simulated audits with the spread that was seen, most are decided by as many trials as were asked for."""
    rng, undecided = np.random.default_rng(0), finding(**WIDE)
    spread = 0.26 * 6**0.5 / 2.5706  # of one trial: t(5) is 2.5706
    again = [finding(**WIDE | interval(rng.normal(0.02, spread, undecided.needed))).status for _ in range(200)]
    few = [finding(**WIDE | interval(rng.normal(0.02, spread, 6))).status for _ in range(200)]
    assert again.count(Status.HOLDS) > 100 > few.count(Status.HOLDS)


def test_an_attack_that_cannot_tell_says_what_it_could_show() -> None:
    weak = finding(bound=8.0, provable=5.5, value=1.4, low=1.4, high=8.0, chance=0.0, control=5.0)
    assert weak.status is Status.CANNOT_TELL and not weak.passed
    assert weak.said.endswith("It could show 5.5 at most, less than the 8 that is promised.")
