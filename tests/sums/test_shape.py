"""A sum of several steps: named by its steps, each from the state after the one before."""

from dataclasses import replace

import numpy as np
import pytest
from tests.sums.conftest import KEY, grown

from infl.errors import SettingsError
from infl.sums import COUNT_SCALE, run_sums, sum_over_sites


def test_what_is_said_of_an_array_that_is_not_summed_is_refused():
    with pytest.raises(SettingsError, match="scale: 'm' is not summed; the arrays are x, n"):
        sum_over_sites({"a": {"x": np.ones(2), "n": 1}}, "test", scale={"m": COUNT_SCALE})
    for option in ({"scale": {"m": COUNT_SCALE}}, {"sensitivity": {"m": 1}}):
        with pytest.raises(SettingsError, match=f"{next(iter(option))} of 'grown': 'm' is not summed"):
            grown(**option)


def test_steps_begin_with_the_state_after_the_step_before():
    assert run_sums([grown(steps=4), grown()], {"a": 1, "b": 2}, KEY, state={"n": 0})["n"] == 15


def test_steps_end_when_the_state_says_so():
    sums = [grown(steps=40, until=lambda state: state["n"] >= 5)]
    assert run_sums(sums, {"a": 1, "b": 1, "c": 1}, KEY, state={"n": 0})["n"] == 6


def test_the_last_step_has_an_end_of_its_own():
    sums = [grown(steps=3, finish=lambda total, state: {"end": state["n"], "last": int(total["n"])})]
    assert run_sums(sums, {"a": 1}, None, state={"n": 0}) == {"end": 2, "last": 1}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["grown"]),
        ({"steps": 2}, ["grown 1", "grown 2"]),
        ({"called": "{name} {step}"}, ["grown 1"]),
        ({"steps": 2, "called": "of_{index}"}, ["of_0", "of_1"]),
    ],
)
def test_exchanges_are_named_by_their_step(options, names):
    assert grown(**options).exchanges == names


def test_a_sum_whose_end_returns_no_state_is_named():
    with pytest.raises(SettingsError, match="^the sum 'grown': combine returns NoneType, and the state is a dict$"):
        run_sums([replace(grown(), combine=lambda total, state: None)], {"a": 1}, None, state={"n": 0})
