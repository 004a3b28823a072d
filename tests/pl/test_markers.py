"""Pictures of markers and of differences show what the tables say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import infl
from infl.errors import DataError


@pytest.fixture(scope="module")
def table():
    return infl.tl.de(infl.datasets.khan_sites(), "~ tumour_class", contrast="tumour_class[T.class_2]")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_a_volcano_counts_and_names_what_differs(table):
    ax = infl.pl.volcano(table, alpha=0.01, log_fc=1, n_names=4)
    differs = table[(table["adj_p_value"] < 0.01) & (table["log_fc"].abs() >= 1)]
    more, less = ((differs["log_fc"] > 0).sum(), (differs["log_fc"] < 0).sum())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [f"more ({more})", f"less ({less})", "neither"]
    named = [t.get_text() for t in ax.texts]
    assert named[0] == differs["variable"].iloc[0] and set(named) <= set(differs["variable"][:4]) and len(named) > 1
    assert sum(len(dots.get_offsets()) for dots in ax.collections) == len(table)


def test_p_values_of_nothing_and_of_zero(table):
    changed = table.copy()
    changed.loc[0, "p_value"], changed.loc[1, "p_value"] = 0.0, np.nan
    ax = infl.pl.volcano(changed)
    heights = np.concatenate([np.asarray(dots.get_offsets())[:, 1] for dots in ax.collections])
    assert heights.max() == 300 and len(heights) == len(table) - 1
    with pytest.raises(DataError, match="no feature of the table has a p-value"):
        infl.pl.volcano(table.assign(p_value=np.nan))


def test_spread_over_mean(table):
    ax = infl.pl.mean_variance(table)
    points = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(table["sigma"]))
    assert ax.get_ylabel() == "residual standard deviation" and ax.get_xscale() == "linear"
    counts = pd.DataFrame({"mean": [0.0, 5, 50], "dispersion": [np.nan, 0.5, 0.1]})
    ax = infl.pl.mean_variance(counts)
    assert len(ax.collections[0].get_offsets()) == 2 and ax.get_xscale() == "log"


@pytest.mark.parametrize("draw", [infl.pl.volcano, infl.pl.mean_variance])
def test_other_tables_are_refused(draw):
    with pytest.raises(DataError, match=r"this draws the table of infl\.tl\.de"):
        draw(pd.DataFrame({"x": [1]}))
    with pytest.raises(DataError, match="not str"):
        draw("table.csv")


def test_markers_have_a_row_for_each_group_and_site():
    sites = infl.datasets.khan_sites(3)
    sites["site_2"] = sites["site_2"][sites["site_2"].obs["tumour_class"] != "class_3"].copy()
    infl.tl.rank_genes_groups(sites, "tumour_class")
    ax = infl.pl.markers(sites, n_genes=2)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[0] == "class_1   site_1" and "class_3   site_2" not in labels and len(labels) == 11
    genes = [t.get_text() for t in ax.get_xticklabels()]
    first = sites["site_1"][sites["site_1"].obs["tumour_class"] == "class_1", genes[0]].X
    dots = ax.collections[0]
    assert dots.get_sizes()[0] == pytest.approx(60 * (np.asarray(first) > 0).mean())


def test_markers_before_they_are_found():
    with pytest.raises(
        DataError, match=r"uns\['rank_genes_groups'\] is missing at site_1: call infl.tl.rank_genes_groups"
    ):
        infl.pl.markers(infl.datasets.khan_sites(2))
