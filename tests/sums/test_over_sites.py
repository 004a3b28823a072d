"""Sums over sites: exact to the step asked for, with and without a seal, and only what fits any scale is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sums.conftest import KEY, grown

from infl.errors import DataError
from infl.sums import COUNT_SCALE, Scale, run_sums, sum_over_sites

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


def test_no_site_is_one_line():
    for added in (lambda: sum_over_sites({}, "test"), lambda: run_sums([grown()], {}, None)):
        with pytest.raises(DataError, match="there is no site to add over"):
            added()
