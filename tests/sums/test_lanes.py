"""Scales: exact to their step over their whole range; what they cannot hold is refused."""

import numpy as np
import pytest
import torch
from tests.sums.conftest import KEY

from infl.errors import SealError, SettingsError
from infl.sums import COUNT_SCALE, FINE_SCALE, UNIT_SCALE, sum_over_sites


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


def test_a_share_may_be_tensors():
    parts = {s: {"n": torch.tensor(2.0), "x": torch.tensor([1.0, 2.0])} for s in "ab"}
    total = sum_over_sites(parts, "test")
    assert total["n"] == 4
    assert total["x"].tolist() == [2, 4]


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
