"""The figures of ``docs/guide/adapt.md`` and ``docs/guide/atlas.md``, from ``benchmarks/results/adapt.json`` and ``atlas.json``."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from _table import RESULTS
from _texts import rows_of

STATIC = RESULTS.parents[1] / "docs" / "_static"
ARMS = {
    "predict, names as they come": "as they come",
    "predict, harmonised by hand": "by hand",
    "adapt": "adapt",
}
MODELS = ("network", "network with a site coordinate", "linear", "linear, own moments")
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.55"
MARKERS = "osD^"


def adapt() -> None:
    """Draw each left-out study's accuracy by arm, a panel per model."""
    rows = rows_of("adapt")
    figure, axes = plt.subplots(1, len(MODELS), figsize=(10, 3), sharey=True, layout="constrained")
    for ax, model in zip(axes, MODELS, strict=True):
        found = [rows[f"stemcells, {model}: {arm}"] for arm in ARMS]
        for study, marker in zip(found[0]["by_site"], MARKERS, strict=True):
            values = [row["by_site"][study] for row in found]
            ax.plot(
                values, color="0.75", marker=marker, mfc=BLUE, mec=BLUE, markersize=4, label=study.replace("_", " ")
            )
        for place, row in enumerate(found):
            ax.plot([place - 0.25, place + 0.25], [row["measured"]] * 2, color="0.1", linewidth=2)
        ax.axhline(1 / 3, color=GREY, linestyle=":", linewidth=1)
        ax.set_xticks(range(len(ARMS)), list(ARMS.values()), rotation=20)
        ax.set_title(model, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("balanced accuracy, study left out")
    axes[0].legend(frameon=False, fontsize=7, title="left out", title_fontsize=7)
    axes[-1].text(2.3, 1 / 3 + 0.005, "guess", ha="right", va="bottom", fontsize=7, color=GREY)
    figure.savefig(STATIC / "adapt.png", dpi=150)


def atlas() -> None:
    """Draw how well cells of unseen classes are told, and what the file is worth to whom."""
    rows = rows_of("atlas")
    data = [what.split(",")[0] for what in rows if what.endswith("classifier, a class that no site had: AUROC")]
    figure, axes = plt.subplots(1, len(data) + 1, figsize=(10, 3.4), layout="constrained")
    for ax, name in zip(axes, data, strict=False):
        _unseen(ax, rows, name)
    axes[0].legend(frameon=False, fontsize=7, loc="upper left")
    _keys(axes[-1], rows)
    figure.savefig(STATIC / "atlas.png", dpi=150)


def _unseen(ax: Axes, rows: dict, name: str) -> None:
    what = f"{name}, classifier, a class that no site had: AUROC"
    ours, rival = rows[what]["by_class"], rows[f"{what} of the probability"]["by_class"]
    order = sorted(ours, key=lambda label: ours[label])
    for place, label in enumerate(order):
        ax.plot([rival[label], ours[label]], [place, place], color="0.8", zorder=0)
    ax.plot([rival[label] for label in order], range(len(order)), "s", color=ORANGE, markersize=4, label="probability")
    ax.plot([ours[label] for label in order], range(len(order)), "o", color=BLUE, markersize=5, label="novelty")
    ax.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    ax.set_yticks(range(len(order)), [label.replace("study_", "study ") for label in order], fontsize=7)
    ax.set_xlim(0, 1.02)
    ax.set_xlabel("AUROC", fontsize=9)
    ax.set_title(f"{name}, a class unseen", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _keys(ax: Axes, rows: dict) -> None:
    thief = "cells: a thief with the query and 30 labels"
    bars = {
        "right key": (rows["cells, classifier: balanced accuracy"], BLUE),
        "public tier (0.5)": (rows["cells: the same of a public tier that is calibrated to 0.5"], GREY),
        "no key": (rows["cells: balanced accuracy without the key"], ORANGE),
        "thief, locked file": (rows[f"{thief}: balanced accuracy with the locked file"], ORANGE),
        "thief, no file": (rows[f"{thief}: without it"], GREY),
        "thief, file unlocked": (rows[f"{thief}: with the file unlocked"], BLUE),
    }
    for place, (row, color) in enumerate(reversed(bars.values())):
        ax.barh(place, row["measured"], xerr=row["spread"], color=color, height=0.65, error_kw={"linewidth": 1})
    ax.axvline(rows["cells: balanced accuracy without the key"]["chance"], color="0.1", linestyle=":", linewidth=1)
    ax.set_yticks(range(len(bars)), list(reversed(bars)), fontsize=8)
    ax.set_xlabel("balanced accuracy", fontsize=9)
    ax.set_title("cells: the file", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    adapt()
    atlas()
