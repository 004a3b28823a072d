"""The pictures show the numbers that they were given, legibly: no text over another or outside the figure."""

from itertools import combinations
from types import SimpleNamespace

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import infl
from infl.errors import DataError, FileError, SettingsError
from infl.pl import colours

METHODS = {
    "pooled": 0.97,
    "alone": 0.78,
    "fedavg": 0.965,
    "infl": 0.965,
    "infl_wrong_key": 0.26,
    "infl_no_key": 0.25,
    "published": 0.91,
    "published_wrong_key": 0.52,
    "baseline": 0.95,
}
ATTACKS = [
    ("analytic_leak", "coordinator", "none", "rows_recovered", 0.93, 0.0, 0.93),
    ("analytic_leak", "coordinator", "published", "rows_recovered", 0.40, 0.0, 0.93),
    ("analytic_leak", "coordinator", "field + group", "rows_recovered", 0.0, 0.0, 0.93),
    ("no_key", "model thief", "field", "balanced_accuracy", 0.27, 0.25, 0.96),
    ("thief_fine_tuning", "model thief", "field", "balanced_accuracy", 0.61, 0.60, 0.88),
    ("membership", "model user", "field", "auroc", 0.57, 0.5, 0.58),
]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def run():
    rounds = np.arange(1, 21)
    history = pd.DataFrame(
        {
            "loss": 1.4 * np.exp(-rounds / 5) + 0.05,
            "val_loss": 1.5 * np.exp(-rounds / 5) + 0.2,
            "val_balanced_accuracy": 1 - 0.8 * np.exp(-rounds / 3),
            "val_macro_f1": 1 - 0.9 * np.exp(-rounds / 3),
            "n_sites": 5,
            "best": rounds == 18,
        },
        index=pd.Index(rounds, name="round"),
    )
    return SimpleNamespace(history=history, settings={"rounds": 20}, lock_curve=None)


@pytest.fixture
def curve():
    strength = np.linspace(0, 1, 6)
    fall = 0.25 + 0.7 * np.exp(-((3 * strength) ** 2))
    parts = {"no key": fall, "right key": np.full(6, 0.95), "wrong key": fall**1.1}
    table = pd.concat(
        [
            pd.DataFrame({"strength": strength, "who": who, "balanced_accuracy": y, "sd": 0.03})
            for who, y in parts.items()
        ]
    )
    table.attrs["chance"] = 0.25
    return table


@pytest.fixture
def comparison():
    table = pd.concat(
        [
            pd.DataFrame(
                {"method": METHODS.keys(), "metric": metric, "mean": values, "sd": 0.03, "n_seeds": 5, "seconds": 2.0}
            )
            for metric, values in (
                ("macro_f1", 0.5),
                ("balanced_accuracy", METHODS.values()),
                ("calibration_error", 0.1),
            )
        ],
        ignore_index=True,
    )
    table.attrs["chance"] = 0.25
    return table


@pytest.fixture
def attacks():
    return pd.DataFrame(ATTACKS, columns=["attack", "against", "protection", "metric", "value", "chance", "control"])


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


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# -- rounds -----------------------------------------------------------------------------------------------------------
def test_rounds_shows_metric_losses_and_the_round_that_was_kept(run):
    ax = infl.pl.rounds(run)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), run.history["val_balanced_accuracy"])
    assert legend(ax) == ["balanced accuracy", "training loss", "validation loss", "kept: round 18"]
    losses = ax.figure.axes[1]
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), run.history["loss"])
    assert losses.get_ylabel() == "loss (mean per sample)"


def test_rounds_of_another_metric(run):
    for name in ("macro_f1", "val_macro_f1"):
        np.testing.assert_array_equal(
            infl.pl.rounds(run, metric=name).lines[0].get_ydata(), run.history["val_macro_f1"]
        )
    with pytest.raises(DataError, match="no metric 'auroc'; it has 'val_balanced_accuracy', 'val_macro_f1'"):
        infl.pl.rounds(run, metric="auroc")


def test_rounds_draws_the_metric_that_the_task_reports_first(run):
    run.history.insert(2, "val_auroc", 0.5)
    assert infl.pl.rounds(run).get_ylabel() == "validation auroc"  # no task: the first
    run.settings["task"] = "classifier"
    assert infl.pl.rounds(run).get_ylabel() == "validation balanced accuracy"
    run.settings["task"] = "of another package"
    assert infl.pl.rounds(run).get_ylabel() == "validation auroc"


def test_rounds_without_validation(run):
    run.history = run.history[["loss"]]
    ax = infl.pl.rounds(run)
    assert legend(ax) == ["training loss"] and len(ax.figure.axes) == 1


def test_rounds_of_something_else(run):
    with pytest.raises(DataError, match=r"pl\.rounds draws a run that infl\.tl\.fit_federated returned, not int"):
        infl.pl.rounds(3)
    run.history = run.history[:0]
    with pytest.raises(DataError, match="the table is empty"):
        infl.pl.rounds(run)


# -- lock -------------------------------------------------------------------------------------------------------------
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


# -- compare ----------------------------------------------------------------------------------------------------------
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


# -- audit ------------------------------------------------------------------------------------------------------------
def marked(ax, colour):
    """Rows and places of the marks of one colour."""
    places = [
        c.get_offsets()
        for c in ax.collections[1:]
        if len(c.get_facecolor()) and to_hex(c.get_facecolor()[0]).upper() == colour
    ]
    return {int(y): x for x, y in np.concatenate(places)}


def test_audit_marks_what_learns_something(attacks):
    ax = infl.pl.audit(attacks)
    assert marked(ax, colours.VERMILION) == pytest.approx({0: 0.93, 1: 0.40, 5: 0.57})
    assert marked(ax, colours.BLUE) == pytest.approx({2: 0.0, 3: 0.27, 4: 0.61})
    assert legend(ax) == ["chance", "learns nothing", "learns something", "unprotected run"]


def test_audit_believes_the_table(attacks):
    attacks["status"] = ["at chance", "leaks"] * 3
    assert set(marked(infl.pl.audit(attacks), colours.VERMILION)) == {1, 3, 5}
    limits = attacks.drop(columns="status").assign(
        chance_low=attacks["chance"] - 0.5, chance_high=attacks["chance"] + 0.5
    )
    assert set(marked(infl.pl.audit(limits), colours.VERMILION)) == {0}


def test_audit_shows_what_was_not_promised_in_another_colour(attacks):
    attacks["status"] = ["holds", "leak", "not promised", "not judged", "holds", "not promised"]
    ax = infl.pl.audit(attacks)
    assert set(marked(ax, colours.VERMILION)) == {1}
    assert set(marked(ax, colours.ORANGE)) == {2, 5}
    assert {0, 4} == set(marked(ax, colours.BLUE))
    assert "learns something, nothing was promised" in legend(ax)
    assert "not judged" in legend(ax) and not [text for text in legend(ax) if "nothing:" in text or "shows" in text]


def test_audit_shows_what_is_undecided_with_its_interval(attacks):
    attacks["status"] = ["holds", "leak", "inconclusive", "cannot tell", "holds", "holds"]
    attacks["low"], attacks["high"] = attacks["value"] - 0.1, attacks["value"] + 0.2
    ax = infl.pl.audit(attacks)
    assert set(marked(ax, colours.GREY)) >= {2, 3}
    assert {0, 4, 5} == set(marked(ax, colours.BLUE))
    assert {"inconclusive", "cannot tell"} <= set(legend(ax))
    ends = [path.vertices for lines in ax.collections for path in lines.get_paths() if len(path.vertices) == 2]
    for y, value in enumerate(attacks["value"]):
        assert any(np.allclose(line, [[value - 0.1, y], [value + 0.2, y]]) for line in ends)


def test_audit_of_large_values_uses_a_scale_for_each_row(attacks):
    attacks.loc[0, ["metric", "value", "chance", "control"]] = ["mse", 12.0, 20.0, 4.0]  # lower is better
    attacks.loc[1, "control"] = np.nan
    ax = infl.pl.audit(attacks)
    assert ax.get_xlabel() == "0: chance, 1: unprotected run"
    assert marked(ax, colours.VERMILION)[0] == pytest.approx(0.5)


def test_audit_of_something_else(attacks):
    with pytest.raises(DataError, match=r"no column 'control': pl\.audit draws what infl\.tl\.audit returns"):
        infl.pl.audit(attacks.drop(columns="control"))


# -- sites ------------------------------------------------------------------------------------------------------------
def test_sites_shows_numbers_by_class(khan_sites):
    ax = infl.pl.sites(khan_sites, "tumour_class")
    widths = np.array([[patch.get_width() for patch in bars] for bars in ax.containers])  # (n_classes, n_sites)
    want = [adata.obs["tumour_class"].value_counts().sort_index().to_list() for adata in khan_sites.values()]
    np.testing.assert_array_equal(widths.T, want)
    assert [text.get_text() for text in ax.texts] == ["16", "17", "16", "17", "17"]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(khan_sites)
    assert legend(ax) == ["class_1", "class_2", "class_3", "class_4"]


def test_sites_draws_many_classes_as_the_largest_and_the_rest(khan_sites):
    for adata in khan_sites.values():
        adata.obs["type"] = [f"type_{i % 9}" for i in range(adata.n_obs)]
    ax = infl.pl.sites(khan_sites, "type")
    assert len(legend(ax)) == 7 and legend(ax)[-1] == "3 others"
    assert [text.get_text() for text in ax.texts] == ["16", "17", "16", "17", "17"]


def test_sites_that_lack_the_target(khan_sites):
    with pytest.raises(
        DataError, match=r"target 'tumor_class' is missing in obs of site_1; did you mean 'tumour_class'\?"
    ):
        infl.pl.sites(khan_sites, "tumor_class")
    with pytest.raises(DataError, match="give the sites' data by name"):
        infl.pl.sites({})
    with pytest.raises(SettingsError, match="pass site_key="):
        infl.pl.sites(khan_sites["site_1"])


def test_sites_shows_panels_and_moments(khan_sites):
    khan_sites["site_2"] = khan_sites["site_2"][:, :2000].copy()
    khan_sites["site_4"].var_names = ["new", *khan_sites["site_4"].var_names[1:]]
    for adata in khan_sites.values():
        adata.X = 1 + 0 * adata.X + np.random.default_rng(adata.n_obs).normal(size=adata.shape)
    khan_sites["site_3"].X = khan_sites["site_3"].X * 3 + 5
    _, features, mean, spread = infl.pl.sites(khan_sites).figure.axes
    widths = [[patch.get_width() for patch in bars] for bars in features.containers]
    assert widths == [[1999] * 5, [309, 1, 309, 308, 309], [0, 0, 0, 1, 0]]
    assert legend(features) == ["at all sites", "at some", "here only"]
    medians = [axes.lines[1].get_xdata() for axes in (mean, spread)]
    assert medians[0].argmax() == medians[1].argmax() == 2 and (np.delete(medians[0], 2) < 0).all()
    pooled = np.vstack([adata[:, "clone_5"].X for adata in khan_sites.values()])
    assert np.isclose(medians[0][2] * pooled.std() + pooled.mean(), 8, atol=0.7)


def test_sites_names_units_where_they_differ(khan_sites):
    assert "\n" not in infl.pl.sites(khan_sites).get_yticklabels()[0].get_text()
    khan_sites["site_1"].X = np.rint(np.exp(khan_sites["site_1"].X))
    written = [label.get_text() for label in infl.pl.sites(khan_sites).get_yticklabels()]
    assert written[:2] == ["site_1\nraw counts", "site_2\nscaled values"]


@pytest.mark.data_dir
def test_sites_of_several_modalities(breast):
    ax = infl.pl.sites(infl.pp.split_sites(breast, 3, stratify="subtype"), "subtype")
    assert legend(ax) == ["Basal", "Her2", "LumA"]
