"""The picture of a comparison has a row for each method."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from tests.pl.conftest import METHODS, legend

import infl
from infl.errors import DataError
from infl.pl import colours


def dots(ax):
    """Colour and place of each mean, by row."""
    return {int(bar[0].get_ydata()[0]): (to_hex(bar[0].get_color()), bar[0].get_xdata()[0]) for bar in ax.containers}


def test_compare_has_a_row_a_method_in_the_colour_of_its_family(comparison):
    ax = infl.pl.compare(comparison)
    drawn = dots(ax)
    assert [drawn[i][1] for i in range(9)] == list(METHODS.values())
    drawn_in = [drawn[i][0].upper() for i in range(9)]
    grey, blue, red = colours.GREY.upper(), colours.BLUE, colours.VERMILION
    assert drawn_in == [grey, grey, grey, blue, red, red, blue, red, grey]
    assert ax.get_yticklabels()[4].get_text() == "infl, wrong key"
    assert "chance" in legend(ax)
    assert ax.get_xlabel() == "balanced accuracy (mean ± sd of 5 seeds)"


def test_compare_of_another_metric_has_no_line_at_the_chance_of_an_accuracy(comparison):
    ax = infl.pl.compare(comparison, metric="calibration_error")
    assert "chance" not in legend(ax)
    assert ax.get_xlabel().endswith("lower is better)") and ax.get_xlim()[0] == 0 and ax.get_xlim()[1] < 0.5
    comparison.attrs["chance"] = {"macro_f1": 0.2}
    assert "chance" in legend(infl.pl.compare(comparison, metric="macro_f1"))
    with pytest.raises(
        DataError, match="no metric 'auroc'; it has 'macro_f1', 'balanced_accuracy', 'calibration_error'"
    ):
        infl.pl.compare(comparison, metric="auroc")


def test_compare_takes_methods_that_it_does_not_know_and_one_seed(comparison):
    table = comparison.assign(method="my_method", sd=np.nan, n_seeds=1)[:1]
    ax = infl.pl.compare(table)
    assert ax.get_yticklabels()[0].get_text() == "my method"
    assert "nan" not in " ".join(text.get_text() for text in ax.texts)
    with pytest.raises(DataError, match=r"no column 'sd': pl\.compare draws what infl\.tl\.compare returns"):
        infl.pl.compare(comparison.drop(columns="sd"))
    with pytest.raises(DataError, match=r"pl\.compare draws what infl\.tl\.compare returns, not dict"):
        infl.pl.compare({})
