"""Sums over sites: exact to the step asked for, with and without a seal, and only what fits any scale is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infl.errors import DataError, SealError, SettingsError
from infl.keys import Keyring
from infl.sums import COUNT_SCALE, FINE_SCALE, UNIT_SCALE, FederatedSum, Scale, run_sums, sum_over_sites

KEY = Keyring.create()
values = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3)


@given(st.lists(values, min_size=1, max_size=5), st.sampled_from([-20, -40, -55]), st.booleans())
def test_sums_are_exact_to_the_step(rows, exponent, sealed):
    parts = {f"s{i}": {"x": np.array(row), "n": np.array(1.0)} for i, row in enumerate(rows)}
    total = sum_over_sites(parts, "test", KEY if sealed else None, scale={"x": Scale(exponent), "n": COUNT_SCALE})
    # half a step each, and the rounding of a float64 sum
    np.testing.assert_allclose(
        total["x"], np.sum(rows, axis=0), rtol=1e-15, atol=len(rows) * 2.0 ** (exponent - 1) + 1e-12
    )
    assert total["n"] == len(rows)


def test_large_and_small_values_of_one_array_keep_their_bits():
    parts = {s: {"x": np.array([1e-11, 1e25])} for s in "abc"}
    total = sum_over_sites(parts, "test", KEY, scale=FINE_SCALE)
    assert total["x"][0] == pytest.approx(3e-11, rel=0.03) and total["x"][1] == pytest.approx(3e25, rel=1e-15)


@pytest.mark.parametrize("value", [1e300, np.inf, np.nan])
@pytest.mark.parametrize("scale", [FINE_SCALE, UNIT_SCALE, COUNT_SCALE], ids=["fine", "unit", "count"])
def test_what_fits_no_scale_is_refused(value, scale):
    parts = {"a": {"x": np.array([value])}, "b": {"x": np.array([1.0])}}
    says = r"sums for test are beyond any scale: look for extreme values in the data \(1 of 2 sites have some\)"
    with pytest.raises(SealError, match=says):
        sum_over_sites(parts, "test", scale=scale)


@pytest.mark.parametrize(
    ("share", "found"),
    [
        ({"x": 1.0}, r"it has shape \(\)"),
        ({"x": [[1.0, 2.0]]}, r"it has shape \(1, 2\)"),
        ({"y": np.ones(3)}, "there is none"),
    ],
)
def test_a_share_of_another_size_is_refused_and_not_repeated(share, found):
    parts = {"a": {"x": np.ones(3)}, "b": share}
    with pytest.raises(
        SettingsError, match=rf"'x' is to be summed with shape \(3,\), and {found}: correct what computes it"
    ):
        sum_over_sites(parts, "test", KEY)


def test_what_is_said_of_an_array_that_is_not_summed_is_refused():
    with pytest.raises(SettingsError, match="scale: 'm' is not summed; the arrays are x, n"):
        sum_over_sites({"a": {"x": np.ones(2), "n": 1}}, "test", scale={"m": COUNT_SCALE})
    for option in ({"scale": {"m": COUNT_SCALE}}, {"sensitivity": {"m": 1}}):
        with pytest.raises(SettingsError, match=f"{next(iter(option))} of 'grown': 'm' is not summed"):
            grown(**option)


def test_no_site_is_one_line():
    for added in (lambda: sum_over_sites({}, "test"), lambda: run_sums([grown()], {}, None)):
        with pytest.raises(DataError, match="there is no site to add over"):
            added()


def grown(**options):
    """Return a sum that adds 1 for each site and step."""
    return FederatedSum(
        name="grown",
        shapes={"n": ()},
        local=lambda site, state: {"n": site},
        combine=lambda total, state: {**state, "n": state["n"] + int(total["n"])},
        says="numbers",
        **{"scale": COUNT_SCALE, **options},
    )


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


def test_no_value_that_a_coarser_scale_took_is_refused():
    parts = {s: {"x": np.array([3e42, 1e-11])} for s in "ab"}
    assert sum_over_sites(parts, "test", scale=FINE_SCALE)["x"][0] == 6e42


@pytest.mark.parametrize("value", [0.5, 100.25, -0.001])
def test_a_fraction_among_counts_is_refused(value):
    parts = {"a": {"n": np.array([3.0, value])}, "b": {"n": np.array([1.0, 2.0])}}
    says = f"'n' is added in whole numbers, and has {value}: give its sum a finer scale="
    with pytest.raises(SettingsError, match=says):
        sum_over_sites(parts, "test", KEY, scale=COUNT_SCALE)
    assert sum_over_sites(parts, "test", KEY, scale=FINE_SCALE)["n"] == pytest.approx([4.0, 2.0 + value], abs=1e-9)
