"""Sums over sites: exact to the step asked for, with and without a seal, and only what fits any scale is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infl.errors import SealError
from infl.federation.sums import sum_over_sites
from infl.keys import Keyring

KEY = Keyring.create()
values = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3)


@given(st.lists(values, min_size=1, max_size=5), st.sampled_from([-20, -40, -55]), st.booleans())
def test_sums_are_exact_to_the_step(rows, exponent, sealed):
    parts = {f"s{i}": {"x": np.array(row), "n": np.array(1.0)} for i, row in enumerate(rows)}
    total = sum_over_sites(parts, "test", KEY if sealed else None, exponents={"x": exponent})
    # half a step each, or half of the coarsest step that a range of 2⁵⁹ makes necessary
    allowed = len(rows) * max(2.0 ** (exponent - 1), 2.0**-42)
    np.testing.assert_allclose(total["x"], np.sum(rows, axis=0), rtol=0, atol=allowed + 1e-12)
    assert total["n"] == len(rows)


def test_a_scale_that_is_too_fine_is_widened_and_what_fits_keeps_its_own():
    parts = {s: {"small": np.array([1e-12]), "large": np.array([1e15])} for s in "abc"}
    total = sum_over_sites(parts, "test", KEY, exponents={"small": -58, "large": -58})
    np.testing.assert_allclose(total["small"], 3e-12, rtol=1e-5)
    np.testing.assert_allclose(total["large"], 3e15, rtol=1e-15)


def test_what_fits_no_scale_is_refused():
    with pytest.raises(SealError, match="sums for test are beyond any scale: look for extreme values in the data"):
        sum_over_sites({"a": {"x": np.array([1e300])}}, "test")
