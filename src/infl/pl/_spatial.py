"""Tissue sections of several sites side by side, and domains against known regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from infl._parameters import OTHER_COLUMN, Real, Text, Whole
from infl.data.labels import label_text
from infl.data.sites import by_name
from infl.errors import DataError, MissingExtraError
from infl.models.neighbours import sections_of
from infl.pl._style import axes as axes_of
from infl.pl._style import natural, picture, unit_of, wrapped
from infl.pl.colours import CYCLE

if TYPE_CHECKING:
    from anndata import AnnData


@picture(color=Text(), section_key=OTHER_COLUMN, spatial_key=Text(), n_columns=Whole(1), size=Real(0, open="low"))
def spatial(
    sites: Mapping[str, AnnData] | AnnData,
    color: str = "infl_domain",
    *,
    section_key: str | None = None,
    spatial_key: str = "spatial",
    n_columns: int = 4,
    size: float = 90,
    **kwargs: Any,
) -> np.ndarray:
    """Draw sections side by side; a category has one colour at all sites.

    A section whose object has an image in ``uns["spatial"]`` is drawn by :func:`squidpy.pl.spatial_scatter`, others by
    :func:`scanpy.pl.embedding`.

    Parameters
    ----------
    sites
        Objects by site name, or one.
    color
        Column of ``obs``, or a feature.
    section_key
        Column of ``obs`` with the section of each spot (None: a site has one).
    spatial_key
        Key of ``obsm`` with the coordinates.
    n_columns
        Sections in a row.
    size
        Of a spot, as scanpy has it; not for images.
    **kwargs
        For scanpy's or squidpy's function.

    Returns
    -------
    Axes, one for each section, in the order of the sites. The objects are not altered.

    Examples
    --------
    >>> import anndata, infl, numpy as np
    >>> spots = anndata.AnnData(np.ones((9, 1)), obsm={"spatial": np.indices((3, 3)).reshape(2, 9).T})
    >>> spots.obs["infl_domain"] = list("001001001")
    >>> [ax.get_title() for ax in infl.pl.spatial({"a": spots, "b": spots})]
    ['a', 'b']
    """
    objects = by_name(sites, "")
    for site, adata in objects.items():
        if not adata.n_obs:
            raise DataError(f"{site or 'the data'} has no observations: leave it out")
        if color not in adata.obs and color not in adata.var_names:
            raise DataError(f"{site or 'the data'} has neither an obs column nor a feature {color!r} to colour by")
    panels = [
        (f"{site} {section}".strip(), adata[rows])
        for site, adata in objects.items()
        for section, rows in sections_of(
            adata, spatial_key=spatial_key, section_key=section_key, site=site or "the data"
        ).rows.items()
    ]
    palette = _palette(list(objects.values()), color)
    limits = None if palette else _limits(list(objects.values()), color)
    n_columns = min(n_columns, len(panels))
    n_rows = -(-len(panels) // n_columns)
    _, grid = plt.subplots(
        n_rows, n_columns, figsize=(3.2 * n_columns, 3.2 * n_rows), layout="constrained", squeeze=False
    )
    for i, ((title, part), ax) in enumerate(zip(panels, grid.flat, strict=False)):
        own = part.copy()  # the functions below write colours into uns
        options: dict[str, Any] = {"color": color, "ax": ax, "title": title}
        if palette:
            own.obs[color] = pd.Categorical(own.obs[color].astype(str), categories=list(palette))
            own.uns[f"{color}_colors"] = list(palette.values())
            options["legend_loc"] = "right margin" if i == len(panels) - 1 else None
        else:
            options |= {"vmin": limits[0], "vmax": limits[1]}  # type: ignore[index]
        if own.uns.get("spatial"):
            _squidpy().pl.spatial_scatter(own, **options | kwargs)
        else:
            import scanpy as sc

            if palette:
                options |= {"na_in_legend": False}
            sc.pl.embedding(own, spatial_key, **options | {"size": size, "show": False} | kwargs)
            ax.set_aspect("equal")
            ax.invert_yaxis()  # as in images
        ax.set(xlabel="", ylabel="")
    for ax in grid.flat[len(panels) :]:
        ax.remove()
    return grid.ravel()[: len(panels)]


@picture(reference=Text(), found=Text())
def confusion(
    sites: Mapping[str, AnnData] | AnnData, reference: str, *, found: str = "infl_domain", ax: Axes | None = None
) -> Axes:
    """Draw which domains or classes the spots or cells of each known region or class are in, over all sites.

    Parameters
    ----------
    sites
        Objects by site name, or one.
    reference, found
        Columns of ``obs`` with known regions or classes, and with those found.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes. Colours are shares of a region's spots or cells; a row adds to 1.

    Examples
    --------
    >>> import infl, pandas as pd, anndata
    >>> obs = pd.DataFrame({"region": list("xxy"), "infl_domain": list("001")}, index=list("abc"))
    >>> infl.pl.confusion(anndata.AnnData(obs=obs), "region").get_xlabel()
    'infl domain'
    """
    objects = by_name(sites, "the data")
    for site, adata in objects.items():
        for column in (reference, found):
            if column not in adata.obs:
                raise DataError(f"{site} has no obs column {column!r}")
    pairs = pd.concat([adata.obs[[reference, found]].apply(label_text) for adata in objects.values()]).dropna()
    if pairs.empty:
        raise DataError(f"no observation has both {reference!r} and {found!r}: there is nothing to draw")
    counts = pd.crosstab(pairs[reference], pairs[found])
    counts = counts.loc[natural(counts.index), natural(counts.columns)]
    shares = counts.div(counts.sum(axis=1), axis=0)
    across = [wrapped(name, 22) for name in counts.columns]
    down = [wrapped(f"{name} ({n})", 26) for name, n in counts.sum(axis=1).items()]
    rotated = max(map(len, across)) > 8
    lines = max(label.count("\n") + 1 for label in down)
    height = 0.9 + max(0.4, 0.2 * lines) * len(counts) + (1.6 if rotated else 0)
    ax = axes_of(ax, 3.2 + 0.8 * len(counts.columns), height)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    numbers = [
        ax.text(j, i, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.6 else "black", fontsize=9)
        for (i, j), share in np.ndenumerate(shares.to_numpy())
    ]
    ax.set_xticks(range(len(across)), across, rotation=90 if rotated else 0, parse_math=False)
    ax.set_yticks(range(len(down)), down, parse_math=False)
    ax.set(xlabel=found.replace("_", " "), ylabel=f"{reference.replace('_', ' ')} ({unit_of(objects.values())})")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    _fit(ax, numbers, shares.shape)
    return ax


def _fit(ax: Axes, numbers: list[Any], shape: tuple[int, int]) -> None:
    """Shrink numbers and names to the cells that they are in, and leave out numbers that nobody could read."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # lays the figure out
    box = ax.get_window_extent()
    width, height = (
        0.8 * 72 / figure.dpi * side / n for side, n in zip((box.width, box.height), shape[::-1], strict=True)
    )
    size = min(9, width / 2.4, height / 1.2)
    for number in numbers:
        number.set(fontsize=size, visible=bool(size >= 4))
    for labels, room in ((ax.get_xticklabels(), width), (ax.get_yticklabels(), height)):
        lines = max(label.get_text().count("\n") + 1 for label in labels)
        for label in labels if labels[0].get_rotation() or room == height else ():
            label.set_fontsize(min(label.get_fontsize(), room / 1.05 / lines))


def _palette(objects: list[AnnData], color: str) -> dict[str, str]:
    """Colours of the categories of all sites; empty for numbers."""
    if not all(color in adata.obs for adata in objects):
        return {}
    if all(pd.api.types.is_numeric_dtype(adata.obs[color]) for adata in objects):
        return {}
    names: dict[str, None] = {}
    for adata in objects:
        column = adata.obs[color].dropna()
        own = column.cat.categories if hasattr(column, "cat") else sorted(column.unique())
        names |= dict.fromkeys(map(str, own))
    colours = CYCLE if len(names) <= len(CYCLE) else [plt.get_cmap("turbo")(x) for x in np.linspace(0, 1, len(names))]
    from matplotlib.colors import to_hex

    return {name: to_hex(colour) for name, colour in zip(names, colours, strict=False)}


def _limits(objects: list[AnnData], color: str) -> tuple[float, float]:
    columns = [adata.obs[color] if color in adata.obs else adata[:, color].to_df() for adata in objects]
    values = np.concatenate([np.asarray(column, dtype=float).ravel() for column in columns])
    return float(np.nanmin(values)), float(np.nanquantile(values, 0.99))


def _squidpy() -> Any:
    try:
        import squidpy
    except ImportError:
        raise MissingExtraError("images need squidpy: pip install 'infl[spatial]'") from None
    return squidpy
