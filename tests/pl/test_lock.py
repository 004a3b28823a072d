"""The picture of a lock has a line for each holder."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from tests.pl.conftest import legend

import infl
from infl.errors import DataError


def test_lock_draws_a_line_for_each_holder(curve):
    ax = infl.pl.lock(curve)
    assert legend(ax) == ["right key", "wrong key", "no key", "chance (0.25)"]
    for line in ax.lines[:3]:
        part = curve[curve["who"] == line.get_label()]
        np.testing.assert_array_equal(line.get_ydata(), part["balanced_accuracy"])
    assert len({to_hex(line.get_color()) for line in ax.lines[:3]}) == 3
    assert len({line.get_marker() for line in ax.lines[:3]}) == 3  # told apart without colour too


def test_lock_of_another_metric(curve):
    table = curve.rename(columns={"balanced_accuracy": "pearson"})
    assert infl.pl.lock(table).get_ylabel() == "pearson"
    with pytest.raises(DataError, match="no column 'auroc'"):
        infl.pl.lock(table, metric="auroc")


def test_lock_without_a_curve(run, curve):
    with pytest.raises(DataError, match=r"infl\.tl\.lock_curve makes the table to draw, this is"):
        infl.pl.lock(run)
    with pytest.raises(DataError, match=r"no column 'who': pl\.lock draws a table with the columns"):
        infl.pl.lock(curve.drop(columns="who"))
