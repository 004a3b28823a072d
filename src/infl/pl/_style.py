"""Colours and axes that all pictures share.

Colours are those of Okabe and Ito (2008), which people with the common kinds of colour blindness tell apart. They
carry one meaning each in all pictures; where it matters, a marker or line style carries it too.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from infl.errors import DataError

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW)
GREY, PALE = "#7F7F7F", "#D0D0D0"

KEYED = BLUE  # works as it should: the right key, an attack that learns nothing
UNKEYED = VERMILION  # wrong key, no key, an attack that learns something
REFERENCE = GREY  # what the other two are compared with


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """Return `ax`, or the axes of a new figure (inches) that lays itself out."""
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def rows(ax: Axes, labels: list[str]) -> None:
    """Lay out horizontal rows, the first on top."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def legend_above(ax: Axes, handles: list, n_columns: int = 2) -> None:
    """Put a legend above the axes, where it hides no data; more than two columns are for short labels."""
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        ncols=n_columns,
        frameon=False,
        borderaxespad=0,
        handlelength=1.8,
        columnspacing=1.4,
    )


def need_columns(table: pd.DataFrame, names: list[str], what: str) -> None:
    """Refuse a table that is not the one that a picture is of."""
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"{what}, not {type(table).__name__}")
    if missing := [name for name in names if name not in table.columns]:
        raise DataError(f"the table has no column {', '.join(map(repr, missing))}: {what}")
    if table.empty:
        raise DataError(f"the table is empty: {what}")
