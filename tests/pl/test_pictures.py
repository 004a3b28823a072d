"""The pictures show the numbers that they were given, legibly: no text over another or outside the figure."""

from itertools import combinations

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import infl
from infl.errors import FileError


@pytest.fixture(params=["rounds", "lock", "compare", "audit", "sites", "sites by class", "sites by long class"])
def picture(request, run, curve, comparison, attacks, khan_sites):
    for adata in khan_sites.values():
        adata.obs["region"] = "infiltrating lobular " + adata.obs["tumour_class"].astype(str)
    return {
        "rounds": lambda: infl.pl.rounds(run),
        "lock": lambda: infl.pl.lock(curve),
        "compare": lambda: infl.pl.compare(comparison),
        "audit": lambda: infl.pl.audit(attacks),
        "sites": lambda: infl.pl.sites(khan_sites),
        "sites by class": lambda: infl.pl.sites(khan_sites, "tumour_class"),
        "sites by long class": lambda: infl.pl.sites(khan_sites, "region"),
    }[request.param]()


def texts(ax):
    """Everything written on the figure of `ax`, with its box in pixels."""
    figure = ax.figure
    figure.canvas.draw()
    found = []
    for one in figure.axes:
        found += [one.xaxis.label, one.yaxis.label, *one.texts]
        for axis in (one.xaxis, one.yaxis):
            low, high = sorted(axis.get_view_interval())  # matplotlib keeps labels of ticks beyond it, undrawn
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [label for tick in ticks for label in (tick.label1, tick.label2)]
        found += one.get_legend().get_texts() if one.get_legend() else []
    return [(text.get_text(), text.get_window_extent()) for text in found if text.get_visible() and text.get_text()]


def test_nothing_is_cut_off_and_no_text_lies_on_another(picture):
    width, height = picture.figure.canvas.get_width_height()
    written = texts(picture)
    assert len(written) > 5
    for text, box in written:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text
    for (first, one), (second, other) in combinations(written, 2):
        assert not one.shrunk(0.9, 0.8).overlaps(other.shrunk(0.9, 0.8)), (first, second)


LONG = [f"infiltrating lobular carcinoma type {i}" for i in range(10)]


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"region": rng.choice(LONG, 400), "infl_prediction": rng.choice(LONG, 400)})
    return anndata.AnnData(obs=obs.set_index(obs.index.astype(str)))


@pytest.fixture
def drawings(run, curve, comparison, attacks, classes, khan):
    attacks["status"] = ["leak", "not promised", "holds", "holds", "not judged", "holds"]
    twelve = infl.pp.split_sites(khan, 12, stratify="tumour_class")
    return {
        "confusion": lambda **o: infl.pl.confusion(classes, "region", found="infl_prediction", **o),
        "compare": lambda **o: infl.pl.compare(comparison, **o),
        "audit": lambda **o: infl.pl.audit(attacks, **o),
        "rounds": lambda **o: infl.pl.rounds(run, **o),
        "lock": lambda **o: infl.pl.lock(curve, **o),
        "sites": lambda **o: infl.pl.sites(dict(sorted(twelve.items())), "tumour_class", **o),
    }


def check_texts(ax):
    width, height = ax.figure.canvas.get_width_height()
    written = texts(ax)
    for text, box in written:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text
    for (first, one), (second, other) in combinations(written, 2):
        assert not one.shrunk(0.9, 0.8).overlaps(other.shrunk(0.9, 0.8)), (first, second)


def test_ten_long_classes_are_legible_on_a_figure_of_their_own(drawings):
    check_texts(drawings["confusion"]())


def test_all_are_legible_in_a_grid_without_a_layout(drawings):
    _, grid = plt.subplots(2, 3, figsize=(18, 11))
    for ax, draw in zip(grid.flat, drawings.values(), strict=True):
        draw(ax=ax)
    check_texts(grid[0, 0])


def test_names_are_in_the_order_that_people_count_in(drawings, classes):
    ax = drawings["sites"]()
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"site_{i}" for i in range(1, 13)]
    classes.obs["region"] = [f"domain_{i % 11}" for i in range(400)]
    ax = infl.pl.confusion(classes, "region", found="infl_prediction")
    assert [label.get_text().split()[0] for label in ax.get_yticklabels()] == [f"domain_{i}" for i in range(11)]


def test_confusion_names_spots_or_cells(classes):
    assert infl.pl.confusion(classes, "region", found="infl_prediction").get_ylabel() == "region (cells)"
    classes.obsm["spatial"] = np.zeros((400, 2))
    assert infl.pl.confusion(classes, "region", found="infl_prediction").get_ylabel() == "region (spots)"


def test_all_save_show_and_return_figures(drawings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    for name, draw in drawings.items():
        figure = draw(return_fig=True, save=tmp_path / f"my_{name}.pdf")
        assert isinstance(figure, Figure) and figure.axes
    assert shown == []
    drawings["lock"](save=True, show=True)
    drawings["lock"](save="_v1.svg", show=False)
    drawings["lock"](save="plain")
    assert shown == [True]
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {f"my_{name}.pdf" for name in drawings} | {"lock.png", "lock_v1.svg", "plain.png"}
    before = plt.get_fignums()
    for wrong, why in (("a.h5ad", "is no name for a figure"), ("nowhere/a.png", "there is no folder nowhere")):
        with pytest.raises(FileError, match=why):
            drawings["lock"](save=wrong)
    assert plt.get_fignums() == before


def test_axes_are_named(picture):
    assert picture.get_xlabel()
    assert picture.get_ylabel() or picture.get_yticklabels()[0].get_text()


def test_draws_where_it_is_told(run, curve, comparison, attacks, khan_sites):
    _, grid = plt.subplots(1, 5)
    before = plt.get_fignums()
    drawn = [
        infl.pl.rounds(run, ax=grid[0]),
        infl.pl.lock(curve, ax=grid[1]),
        infl.pl.compare(comparison, ax=grid[2]),
        infl.pl.audit(attacks, ax=grid[3]),
        infl.pl.sites(khan_sites, ax=grid[4]),
    ]
    assert drawn == list(grid)
    assert plt.get_fignums() == before


# -- rounds -----------------------------------------------------------------------------------------------------------


# -- lock -------------------------------------------------------------------------------------------------------------


# -- compare ----------------------------------------------------------------------------------------------------------


# -- audit ------------------------------------------------------------------------------------------------------------


# -- sites ------------------------------------------------------------------------------------------------------------
