"""The picture of survival has curves and numbers at risk."""

import numpy as np
import pytest
from tests.tl.test_survival import dealt, drawn

import infl
from infl.errors import DataError
from infl.tl import survival


def test_picture_has_curves_and_numbers_at_risk():
    found = survival(dealt(drawn(200, 4), np.arange(200) % 3), "months", "died", "arm")
    ax = infl.pl.survival(found.curves, xlabel="months")
    lines = {line.get_color(): line.get_ydata() for line in ax.get_lines()}
    assert len(lines) == 2
    for drawn_, group in zip(lines.values(), found.groups, strict=True):
        np.testing.assert_array_equal(drawn_[1:], found.curves.survival[found.curves.group == group])
    first = ax.get_xticklabels()[0].get_text().split("\n")
    assert first == ["0", *found.curves.groupby("group", sort=False).at_risk.first().astype(str)]
    with pytest.raises(DataError, match="pl.survival draws the curves"):
        infl.pl.survival(found)
