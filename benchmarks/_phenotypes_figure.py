"""The figure of ``docs/phenotypes.md``, from ``benchmarks/results/phenotypes.json``: each split's value by method."""

from __future__ import annotations

import json

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from _table import RESULTS

PANELS = {
    "protein": ("r2", "R², ER-alpha from RNA"),
    "gbsg2": ("concordance", "concordance, GBSG2"),
    "rossi": ("concordance", "concordance, Rossi"),
    "gse7390": ("concordance", "concordance, GSE7390"),
}
METHODS = {"infl": "federated", "pooled": "pooled", "baseline": "ridge", "cox": "tl.cox"}


def main() -> None:
    """Draw it."""
    rows = {row["what"]: row for row in json.loads((RESULTS / "phenotypes.json").read_text())["rows"]}
    figure, axes = plt.subplots(1, len(PANELS), figsize=(10, 2.8), layout="constrained")
    for ax, (name, (metric, title)) in zip(axes, PANELS.items(), strict=True):
        shown = [method for method in METHODS if f"{name}, {method}: {metric}" in rows]
        values = np.array([rows[f"{name}, {method}: {metric}"]["by_seed"] for method in shown])
        ax.plot(values, color="0.8", linewidth=0.8)
        for number, own in enumerate(values):
            ax.plot(np.full(len(own), number), own, "o", color="C0", markersize=3, alpha=0.6)
            ax.plot([number - 0.25, number + 0.25], [own.mean()] * 2, color="0.1", linewidth=2)
        ax.set_xticks(range(len(shown)), [METHODS[method] for method in shown], rotation=30, ha="right")
        ax.set_title(title, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS.parents[1] / "docs" / "_static" / "phenotypes.png", dpi=150)


if __name__ == "__main__":
    main()
