"""The picture of importance has the most important features on top, each with its standard error."""

import numpy as np
import pandas as pd
import pytest

import infl
from infl.errors import DataError


def table() -> pd.DataFrame:
    found = pd.DataFrame({"importance": [0.1, np.nan, 0.5, -0.2], "std": [0.05, np.nan, 0.1, 0.1]}, index=list("abcd"))
    found.attrs["method"] = "gradients"
    return found


def test_the_most_important_features_are_on_top() -> None:
    ax = infl.pl.importance(table(), n=2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["c", "a"]
    ends = [line.get_xdata() for line in ax.get_lines() if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    np.testing.assert_allclose(ends, [[0.4, 0.6], [0.05, 0.15]])
    assert "integrated gradients" in ax.get_xlabel()


@pytest.mark.parametrize("wrong", [pd.DataFrame({"x": [1.0]}), table().iloc[[1]], None])
def test_importance_of_something_else(wrong: pd.DataFrame) -> None:
    with pytest.raises(DataError, match=r"pl.importance draws the table of infl.tl.feature_importance"):
        infl.pl.importance(wrong)
