"""The picture of regressions has a row for each coefficient and model, on the scale of ratios or of coefficients."""

import numpy as np
import pandas as pd
import pytest

import infl
from infl.errors import DataError


def table(shift: float) -> pd.DataFrame:
    middle = np.array([0.1, -0.3]) + shift
    return pd.DataFrame({"coefficient": middle, "lower": middle - 0.2, "upper": middle + 0.2}, index=["x", "arm"])


@pytest.mark.parametrize("ratio", [True, False])
def test_forest_has_a_row_for_each_coefficient_and_model(ratio):
    tables = {name: table(shift) for name, shift in (("a", 0.0), ("b", 0.5), ("c", -0.4), ("joint", 0.1))}
    tables["b"].loc["Intercept"] = 0.0  # has no row
    ax = infl.pl.forest(tables, ratio=ratio)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{term}   {name}" for term in ("x", "arm") for name in tables]
    ends = [
        np.sort(line.get_xdata())
        for line in ax.get_lines()
        if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"
    ]
    expected = tables["joint"].loc["x", ["lower", "upper"]].astype(float)
    np.testing.assert_allclose(ends[3], np.exp(expected) if ratio else expected)


@pytest.mark.parametrize("wrong", [{}, {"joint": pd.DataFrame({"x": [1.0]})}])
def test_forest_of_something_else(wrong):
    with pytest.raises(DataError, match="pl.forest draws the table|there is no table"):
        infl.pl.forest(wrong)
