"""Where sites differ."""

from collections import Counter
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from mudata import MuData

from infl._parameters import OTHER_COLUMN
from infl.data.check import check_values, measured, tables
from infl.data.columns import obs_column
from infl.data.labels import label_text
from infl.data.sites import as_sites
from infl.data.units import units_of
from infl.errors import DataError
from infl.pl._style import axes, legend_above, natural, picture, rows
from infl.pl.colours import BLACK, BLUE, CYCLE, ORANGE, PALE, REFERENCE_COLOUR, SKY, WITH_KEY_COLOUR
from infl.pp._matrix import SiteMatrix, presence
from infl.pp._moments import federated_moments


@picture(target=OTHER_COLUMN)
def sites(
    sites: Mapping[str, AnnData | MuData] | AnnData | MuData,
    target: str | None = None,
    *,
    site_key: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw where sites differ, before anything is fitted: sizes and labels, panels, and moments of features.

    Four panels share the sites as rows. *Observations*, by class. *Features*: how many all sites measure, some, or this
    one alone. *Mean* and *spread* of the features that all sites measure, relative to all sites together: a dot is the
    median feature, a thick line half of them, a thin line 90 %. A site whose dot is off the line of 0 (of 1) has other
    units, another machine or other patients; sites with other units than the rest have them below their names.

    Parameters
    ----------
    sites
        Objects by site name.
    target
        Column of ``obs`` with class labels. Of more than seven classes the smallest are drawn as one.
    site_key
        Column of ``obs`` with each row's site, where `sites` is one object instead of a dict.
    ax
        Where to draw the first panel, alone; default: a new figure with all four.

    Returns
    -------
    The axes of the first panel: a bar for each site, in parts by class, with its total at the end. ``.figure.axes`` are
    all of them.

    Raises
    ------
    infl.errors.DataError
        The target is missing, or values are not finite; where.

    Examples
    --------
    >>> import infl
    >>> [ax.get_xlabel() for ax in infl.pl.sites(infl.datasets.khan_sites(), "tumour_class").figure.axes]
    ['observations', 'features', 'mean (SD of all)', 'SD / SD of all']
    """
    at = as_sites(sites, site_key)
    sites = {name: at[name] for name in natural(at)}
    for name, adata in sites.items():
        if not adata.n_obs:
            raise DataError(f"{name} has no observations: leave it out")
    counts = _counts(sites, target)  # (n_sites, n_classes)
    if ax is not None:
        return _draw_counts(axes(ax, 0, 0), counts, target)
    shared = _shared(sites)
    mean, spread = _moments(sites)
    _, grid = plt.subplots(
        1,
        4,
        figsize=(11.5, 1.6 + 0.42 * len(counts)),
        layout="constrained",
        sharey=True,
        width_ratios=[1.5, 1, 1, 1],
    )
    _draw_counts(axes(grid[0], 0, 0), counts, target, room=42)
    _draw_bars(axes(grid[1], 0, 0), shared, [BLUE, SKY, ORANGE])
    grid[1].set_xlabel("features")
    handles = [Patch(color=c, label=label) for c, label in zip([BLUE, SKY, ORANGE], shared.columns, strict=True)]
    legend_above(grid[1], [h for h, label in zip(handles, shared.columns, strict=True) if shared[label].any()], 3)
    for one, values, same, label in ((grid[2], mean, 0, "mean (SD of all)"), (grid[3], spread, 1, "SD / SD of all")):
        _draw_quantiles(axes(one, 0, 0), values, same)
        one.set_xlabel(label)
    for one in grid[1:]:
        one.spines["left"].set_visible(False)
        one.tick_params(axis="y", length=0)
    units = {site: ", ".join(dict.fromkeys(_units(adata))) for site, adata in sites.items()}
    if len(set(units.values())) > 1:
        grid[0].set_yticks(range(len(counts)), [f"{site}\n{units[site]}" for site in counts.index])
    return grid[0]


def _draw_counts(ax: Axes, counts: pd.DataFrame, target: str | None, room: int = 60) -> Axes:
    """Stacked bars; a line of the legend has room for this many characters."""
    rows(ax, list(counts.index))
    colours = [
        PALE if label == _rest_label(counts) else CYCLE[i % len(CYCLE)] for i, label in enumerate(counts.columns)
    ]
    _draw_bars(ax, counts, [WITH_KEY_COLOUR] if target is None else colours)
    ax.set_xlabel("observations")
    if target is not None:
        handles = [Patch(color=colour, label=str(label)) for label, colour in zip(counts.columns, colours, strict=True)]
        longest = max(len(str(label)) for label in counts.columns)
        legend_above(ax, handles, n_columns=min(len(handles), max(1, room // (longest + 7))))
    return ax


def _draw_bars(ax: Axes, numbers: pd.DataFrame, colours: Sequence[str]) -> None:
    """A bar for each row, in parts by column, with its total at the end."""
    left = np.zeros(len(numbers))
    y = np.arange(len(numbers))
    for label, colour in zip(numbers.columns, colours, strict=True):
        width = numbers[label].to_numpy()
        ax.barh(y, width, left=left, height=0.72, color=colour, edgecolor="white", linewidth=0.8)
        left += width
    for at, total in zip(y, left, strict=True):
        ax.annotate(
            f"{int(total):,}", (total, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize="small"
        )
    ax.set_xlim(0, max(left.max(), 1) * 1.18)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _draw_quantiles(ax: Axes, values: pd.DataFrame, same: float) -> None:
    """For each row, where 90 % of its values lie, half of them, and the median."""
    ax.axvline(same, color=REFERENCE_COLOUR, linewidth=0.8, linestyle=":", zorder=0)
    y = np.arange(len(values))
    if values.shape[1]:
        low, lower, middle, upper, high = values.quantile([0.05, 0.25, 0.5, 0.75, 0.95], axis=1).to_numpy()
        ax.hlines(y, low, high, color=BLACK, linewidth=1)
        ax.hlines(y, lower, upper, color=BLACK, linewidth=4)
        ax.plot(middle, y, "o", color="white", markeredgecolor=BLACK, markersize=6)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _shared(sites: Mapping[str, AnnData | MuData]) -> pd.DataFrame:
    """Numbers of features by site: measured by all, by some, or there alone."""
    names = {
        site: {(modality, name) for modality, table in tables(adata).items() for name in measured(table)}
        for site, adata in sites.items()
    }
    times = Counter(name for own in names.values() for name in own)
    rows = {}
    for site, own in names.items():
        n = np.array([times[name] for name in own])
        by_all = int((n == len(sites)).sum())
        alone = int((n == 1).sum()) if len(sites) > 1 else 0
        rows[site] = {"at all sites": by_all, "at some": len(own) - by_all - alone, "here only": alone}
    return pd.DataFrame(rows).T


def _moments(sites: Mapping[str, AnnData | MuData]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and SD of each feature at each site (n_sites, n_features), relative to those of all sites together."""
    found: dict[str, dict[str, pd.Series]] = {"n": {}, "mean": {}, "var": {}}
    for site, adata in sites.items():
        for modality, table in tables(adata).items():
            if table.X is None:
                continue
            check_values(table, None, f"{site} ({modality})" if modality else site, table.var_names)
            here = federated_moments({site: SiteMatrix(site, table, None, presence(table.var))}, None)
            index = pd.MultiIndex.from_product([[modality], table.var_names])
            for what, values in (("n", here.n), ("mean", here.mean), ("var", here.var)):
                series = pd.Series(values, index=index)[here.n > 0]
                found[what][site] = pd.concat([found[what].get(site, series[:0]), series])
    n, mean, var = (pd.DataFrame(found[what]).dropna().T for what in ("n", "mean", "var"))
    total = n.sum()
    center = (n * mean).sum() / total
    whole = np.sqrt(((n - 1) * var + n * (mean - center) ** 2).sum() / (total - 1))
    varies = whole > 0
    return ((mean - center) / whole).loc[:, varies], (np.sqrt(var) / whole).loc[:, varies]


def _units(adata: AnnData | MuData) -> list[str]:
    return [units_of(table) or "unclear" for table in tables(adata).values()]


def _counts(sites: Mapping[str, AnnData | MuData], target: str | None) -> pd.DataFrame:
    if target is None:
        return pd.DataFrame({"": {site: adata.n_obs for site, adata in sites.items()}})
    columns = {
        site: label_text(obs_column(adata, target, where=site, role="target")).value_counts()
        for site, adata in sites.items()
    }
    counts = pd.DataFrame(columns).fillna(0).astype(int).T
    counts = counts.loc[list(sites), natural(counts.columns)]
    if counts.shape[1] <= len(CYCLE):
        return counts
    largest = counts.sum().nlargest(len(CYCLE) - 1).index
    rest = counts.drop(columns=largest)
    counts = counts[natural(largest)].copy()
    counts[f"{rest.shape[1]} others"] = rest.sum(axis=1)
    counts.attrs["rest"] = counts.columns[-1]
    return counts


def _rest_label(counts: pd.DataFrame) -> str | None:
    return counts.attrs.get("rest")
