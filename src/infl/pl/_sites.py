"""Who has how much of what."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from mudata import MuData

from infl.errors import DataError
from infl.pl._style import CYCLE, KEYED, PALE, axes, legend_above, rows
from infl.pp._columns import obs_column


def sites(sites: Mapping[str, AnnData | MuData], target: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw how many observations each site has, and of which class.

    Parameters
    ----------
    sites
        Objects by site name.
    target
        Column of ``obs`` with class labels. Of more than seven classes the smallest are drawn as one.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: a bar for each site, in parts by class, with its total at the end.

    Examples
    --------
    >>> import infl
    >>> infl.pl.sites(infl.datasets.khan_sites(), "tumour_class").get_xlabel()
    'observations'
    """
    if not isinstance(sites, Mapping) or not sites:
        raise DataError("pl.sites draws a dict of AnnData or MuData by site name; infl.pp.split_sites makes one")
    counts = _counts(sites, target)  # (n_sites, n_classes)
    ax = axes(ax, 6.2, 1.1 + 0.36 * len(counts))
    rows(ax, list(counts.index))
    left = np.zeros(len(counts))
    y = np.arange(len(counts))
    colours = [
        PALE if label == _rest_label(counts) else CYCLE[i % len(CYCLE)] for i, label in enumerate(counts.columns)
    ]
    for label, colour in zip(counts.columns, colours, strict=True):
        width = counts[label].to_numpy()
        ax.barh(
            y,
            width,
            left=left,
            height=0.72,
            color=KEYED if target is None else colour,
            edgecolor="white",
            linewidth=0.8,
        )
        left += width
    for at, total in zip(y, left, strict=True):
        ax.annotate(
            f"{int(total):,}", (total, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize="small"
        )
    ax.set_xlim(0, left.max() * 1.1)
    ax.set_xlabel("observations")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if target is not None:
        handles = [Patch(color=colour, label=str(label)) for label, colour in zip(counts.columns, colours, strict=True)]
        longest = max(len(str(label)) for label in counts.columns)
        legend_above(ax, handles, n_columns=min(len(handles), max(1, 60 // (longest + 7))))
    return ax


def _counts(sites: Mapping[str, AnnData | MuData], target: str | None) -> pd.DataFrame:
    if target is None:
        return pd.DataFrame({"": {site: adata.n_obs for site, adata in sites.items()}})
    columns = {
        site: obs_column(adata, target, where=site, role="target").astype(str).value_counts()
        for site, adata in sites.items()
    }
    counts = pd.DataFrame(columns).fillna(0).astype(int).T.sort_index(axis=1)
    counts = counts.reindex(list(sites))
    if counts.shape[1] <= len(CYCLE):
        return counts
    largest = counts.sum().nlargest(len(CYCLE) - 1).index
    rest = counts.drop(columns=largest)
    counts = counts[sorted(largest)].copy()
    counts[f"{rest.shape[1]} others"] = rest.sum(axis=1)
    counts.attrs["rest"] = counts.columns[-1]
    return counts


def _rest_label(counts: pd.DataFrame) -> str | None:
    return counts.attrs.get("rest")
