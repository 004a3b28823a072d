"""Pictures of what :func:`infl.tl.de` and :func:`infl.tl.rank_genes_groups` found."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy import sparse

from infl._parameters import LAYER, OTHER_COLUMN, Real, Whole
from infl.data.labels import label_text
from infl.data.sites import as_sites
from infl.errors import DataError
from infl.pl._style import axes, legend_above, need_columns, picture, rows
from infl.pl.colours import BLACK, BLUE, GREY, PALE, REFERENCE_COLOUR, VERMILION

_TABLE = "this draws the table of infl.tl.de"
_LEAST = 1e-300  # a p-value that underflowed is drawn here
_WIDEST = 60.0  # area of a dot that stands for all observations


@picture(alpha=Real(0, 1, open="both"), log_fc=Real(0), n_names=Whole(0))
def volcano(
    table: pd.DataFrame, *, alpha: float = 0.05, log_fc: float = 0.0, n_names: int = 8, ax: Axes | None = None
) -> Axes:
    """Draw differences of features over their p-values.

    Parameters
    ----------
    table
        What :func:`infl.tl.de` returned.
    alpha
        Features with a corrected p-value below it are coloured.
    log_fc
        Least size of the difference of those.
    n_names
        How many of them are named at most, smallest p-value first, where there is room.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: a point for each feature, differences to the right of 0 in one colour, to the left in another.

    Examples
    --------
    >>> import infl
    >>> table = infl.tl.de(infl.datasets.khan_sites(), "~ tumour_class", contrast="tumour_class[T.class_2]")
    >>> infl.pl.volcano(table).get_ylabel()
    '−log10 p'
    """
    need_columns(table, ["variable", "log_fc", "p_value", "adj_p_value"], _TABLE)
    known = table[table["p_value"].notna()]
    if known.empty:
        raise DataError(f"no feature of the table has a p-value: {_TABLE}")
    ax = axes(ax, 5.2, 4.2)
    x, y = known["log_fc"].to_numpy(), -np.log10(np.maximum(known["p_value"].to_numpy(), _LEAST))
    differs = ((known["adj_p_value"] < alpha) & (known["log_fc"].abs() >= log_fc)).to_numpy()
    parts = {f"more ({(differs & (x > 0)).sum()})": (differs & (x > 0), VERMILION, "^")}
    parts |= {f"less ({(differs & (x < 0)).sum()})": (differs & (x < 0), BLUE, "v"), "neither": (~differs, PALE, "o")}
    for of, colour, marker in parts.values():
        ax.scatter(x[of], y[of], s=14, color=colour, marker=marker, linewidths=0, zorder=1 if colour == PALE else 2)
    if log_fc:
        for bound in (-log_fc, log_fc):
            ax.axvline(bound, color=GREY, linewidth=1, linestyle="--", zorder=0)
    ax.margins(0.08)
    ax.set(xlabel="log2 fold change", ylabel="−log10 p")
    _name(ax, x, y, known["variable"].astype(str).to_numpy(), np.flatnonzero(differs)[:n_names])
    handles = [Line2D([], [], color=c, marker=m, linestyle="none", label=name) for name, (_, c, m) in parts.items()]
    legend_above(ax, handles, n_columns=3)
    return ax


def _name(ax: Axes, x: np.ndarray, y: np.ndarray, names: np.ndarray, chosen: np.ndarray) -> None:
    """Write names beside points, outwards of 0 if there is room, each where no name stands yet."""
    ax.autoscale_view()
    at = ax.transData.transform(np.column_stack([x, y]))
    taken: list[tuple[float, float, float]] = []
    for i in chosen:
        side = 1 if x[i] >= 0 else -1
        long = 6.5 * len(names[i]) * ax.figure.dpi / 72
        side = side if ax.bbox.x0 < at[i, 0] + side * long < ax.bbox.x1 else -side
        width = side * long
        low, high = sorted((at[i, 0], at[i, 0] + width))
        height = 9 * ax.figure.dpi / 72
        if any(low < right and high > left and abs(at[i, 1] - up) < height for left, right, up in taken):
            continue
        taken.append((low, high, at[i, 1]))
        ax.annotate(
            names[i], (x[i], y[i]), (4 * side, 0), textcoords="offset points", fontsize=8, va="center", parse_math=False,
            ha="left" if side > 0 else "right",
        )  # fmt: skip


@picture()
def mean_variance(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how the spread of features follows their mean: residual standard deviations, or dispersions of counts.

    Parameters
    ----------
    table
        What :func:`infl.tl.de` returned.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: a point for each feature, and medians of features of like means as a line.

    Examples
    --------
    >>> import infl
    >>> table = infl.tl.de(infl.datasets.khan_sites(), "~ tumour_class", contrast="tumour_class[T.class_2]")
    >>> infl.pl.mean_variance(table).get_xlabel()
    'mean'
    """
    counts = isinstance(table, pd.DataFrame) and "dispersion" in table
    spread = "dispersion" if counts else "sigma"
    need_columns(table, ["mean", spread], _TABLE)
    known = table[(table["mean"] > 0) & (table[spread] > 0)] if counts else table[table[spread].notna()]
    if known.empty:
        raise DataError(f"no feature of the table has a spread: {_TABLE}")
    ax = axes(ax, 5.2, 3.8)
    ordered = known.sort_values("mean")
    ax.scatter(ordered["mean"], ordered[spread], s=8, color=PALE, linewidths=0)
    parts = np.array_split(np.arange(len(ordered)), max(1, min(30, len(ordered) // 20)))
    line = [(ordered["mean"].iloc[part].median(), ordered[spread].iloc[part].median()) for part in parts]
    ax.plot(*zip(*line, strict=True), color=BLACK, linewidth=1.5, label="medians of like means")
    if counts:
        ax.set(xscale="log", yscale="log")
    label = "mean of normalised counts" if counts else "mean"
    ax.set(xlabel=label, ylabel="dispersion" if counts else "residual standard deviation")
    legend_above(ax, ax.get_legend_handles_labels()[0])
    return ax


@picture(n_genes=Whole(1), layer=LAYER, site_key=OTHER_COLUMN)
def markers(
    sites: Mapping[str, AnnData] | AnnData,
    *,
    n_genes: int = 3,
    key_added: str = "rank_genes_groups",
    layer: str | None = None,
    site_key: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the markers of each group at each site: how many observations show one, and its mean there.

    Each row is of one site, computed there. Look at sites that are yours to see.

    Parameters
    ----------
    sites
        AnnData by site name, after :func:`infl.tl.rank_genes_groups`.
    n_genes
        Markers of each group.
    key_added
        Field in ``uns``.
    layer
        Layer to use instead of ``X``.
    site_key
        Column of ``obs`` with each row's site, where `sites` is one object instead of a dict.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: a row for each group and site, a column for each marker.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites(2)
    >>> infl.tl.rank_genes_groups(sites, "tumour_class")
    >>> len(infl.pl.markers(sites, n_genes=2).get_xticklabels())
    8
    """
    parts = as_sites(sites, site_key)
    for site, adata in parts.items():
        if key_added not in adata.uns:
            raise DataError(f"uns[{key_added!r}] is missing at {site}: call infl.tl.rank_genes_groups(sites, …) first")
    found = next(iter(parts.values())).uns[key_added]
    groups, groupby = list(found["names"].dtype.names), found["params"]["groupby"]
    genes = list(dict.fromkeys(str(name) for group in groups for name in found["names"][group][:n_genes]))
    cells = {
        (group, site): _shown(adata, groupby, group, genes, layer) for group in groups for site, adata in parts.items()
    }
    lines = [name for name, values in cells.items() if values is not None]
    values = np.array([cells[name] for name in lines])  # (rows, 2, genes)
    ax = axes(ax, 2.6 + 0.3 * len(genes), 1.6 + 0.24 * len(lines))
    rows(ax, [f"{group}   {site}" for group, site in lines])
    x, y = np.meshgrid(np.arange(len(genes)), np.arange(len(lines)))
    top = np.maximum(values[:, 1].max(axis=0), 1e-12)
    dots = ax.scatter(
        x,
        y,
        s=_WIDEST * values[:, 0],
        c=values[:, 1] / top,
        cmap="Blues",
        vmin=0,
        vmax=1,
        edgecolors=GREY,
        linewidths=0.4,
    )
    ax.set_xticks(range(len(genes)), genes, rotation=90, parse_math=False)
    ax.set_xlim(-0.6, len(genes) - 0.4)
    ax.figure.colorbar(dots, ax=ax, label="mean, share of the largest", shrink=0.6, pad=0.02)
    shares = (0.25, 0.5, 1.0)
    handles = [
        ax.scatter([], [], s=_WIDEST * share, color=REFERENCE_COLOUR, linewidths=0, label=f"{share:.0%}")
        for share in shares
    ]
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        ncols=3,
        frameon=False,
        title="observations above 0",
    )
    return ax


def _shown(adata: AnnData, groupby: str, group: str, genes: list[str], layer: str | None) -> np.ndarray | None:
    """Share of observations above 0, and mean, of some features in a group of a site, (2, genes); None where it has nobody."""
    chosen = (label_text(adata.obs[groupby]) == group).to_numpy()
    if not chosen.any():
        return None
    part = adata[chosen, genes]
    x = part.X if layer is None else part.layers[layer]
    x = x.toarray() if sparse.issparse(x) else np.asarray(x)
    return np.stack([(x > 0).mean(axis=0), x.mean(axis=0)])
