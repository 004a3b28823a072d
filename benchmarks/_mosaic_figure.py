"""Draw docs/_static/mosaic.png: domains of three sections, true and found, and imputed proteins against hidden ones."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap

import infl
from infl.models.mosaic.modalities import KINDS
from infl.pl.colours import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from mosaic import fit, folds, without

COLOURS = ListedColormap([SKY, ORANGE, GREEN, PURPLE, VERMILION])


def main() -> None:
    full = infl.datasets.spamosaic_sim()
    held = folds(full["s1"], 0) == 0
    sites = without(held)
    fit(sites, 0)
    true = pd.concat([m.obs["domain"].astype(int) for m in full.values()])
    found = pd.concat([m.obs["infl_domain"].astype(int) for m in sites.values()])
    names = pd.crosstab(found, true.loc[found.index]).idxmax(axis=1)  # colours alone; numbers stay the model's
    fig, grid = plt.subplots(2, 4, figsize=(10.5, 5.2), layout="constrained", width_ratios=[1, 1, 1, 1.25])
    for column, (site, what) in enumerate({"s1": "RNA and protein", "s2": "RNA", "s3": "protein"}.items()):
        xy = full[site].obsm["spatial"]
        rows = {
            "simulated domain": full[site].obs["domain"].astype(int),
            "found": sites[site].obs["infl_domain"].astype(int).map(names),
        }
        for row, (label, values) in enumerate(rows.items()):
            ax = grid[row, column]
            ax.scatter(*xy.T, c=values, cmap=COLOURS, vmin=-0.5, vmax=4.5, s=9, marker="s", linewidths=0)
            ax.set(aspect="equal", xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if column == 0:
                ax.set_ylabel(label)
            if row == 0:
                ax.set_title(f"{site}: {what}", fontsize=10)
    measured = KINDS["clr"](full["s1"]["adt"].X.toarray().astype(float), False)[held]
    guess = sites["s1"]["infl_adt"].X
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(guess.T, measured.T, strict=True)])
    order = np.argsort(-r)
    grid[0, 3].scatter(np.arange(1, len(r) + 1), r[order], s=10, color=BLUE, linewidths=0)
    grid[0, 3].set(
        xlabel="proteins, best first", ylabel="Pearson correlation", ylim=(0, 1), title="hidden blocks of s1"
    )
    best = order[0]
    grid[1, 3].scatter(measured[:, best], guess[:, best], s=9, color=BLUE, alpha=0.5, linewidths=0)
    grid[1, 3].plot([0, measured[:, best].max()], [0, measured[:, best].max()], color=GREY, linewidth=1)
    grid[1, 3].set(xlabel=f"measured {full['s1']['adt'].var_names[best]} (log-ratio)", ylabel="imputed")
    for ax in grid[:, 3]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.title.set_fontsize(10)
    fig.savefig(Path(__file__).parents[1] / "docs/_static/mosaic.png", dpi=150)


if __name__ == "__main__":
    main()
