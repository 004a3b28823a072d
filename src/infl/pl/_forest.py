"""Coefficients with their intervals, of one model or of several side by side."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from infl._parameters import Flag
from infl.errors import DataError
from infl.pl._style import axes, need_columns, picture, rows
from infl.pl.colours import BLUE, GREY, PALE, REFERENCE_COLOUR

_WHAT = "pl.forest draws the table of what infl.tl.cox or infl.tl.glm returns"


@picture(ratio=Flag())
def forest(tables: pd.DataFrame | Mapping[str, pd.DataFrame], *, ratio: bool = True, ax: Axes | None = None) -> Axes:
    """Draw coefficients with their intervals: of one model, or of several by name, such as each site's and the joint one.

    Parameters
    ----------
    tables
        The ``table`` of what :func:`infl.tl.cox` or :func:`infl.tl.glm` returned, or several by name; the last one is drawn as the
        joint one.
    ratio
        Draw exponentials: hazard ratios, odds ratios, or ratios of rates. With False, the coefficients.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: a row for each coefficient and model.

    Examples
    --------
    >>> import infl, pandas as pd
    >>> table = pd.DataFrame({"coefficient": [0.7], "lower": [0.1], "upper": [1.3]}, index=["age"])
    >>> infl.pl.forest(table).get_xlabel()
    'ratio, with its interval'
    """
    named = {"": tables} if isinstance(tables, pd.DataFrame) else tables
    if not isinstance(named, Mapping) or not named:
        raise DataError(f"there is no table: {_WHAT}")
    for table in named.values():
        need_columns(table, ["coefficient", "lower", "upper"], _WHAT)
    lines = [
        (str(term), name, table.loc[term, ["coefficient", "lower", "upper"]].to_numpy(dtype=float))
        for term in dict.fromkeys(term for table in named.values() for term in table.index if term != "Intercept")
        for name, table in named.items()
        if term in table.index
    ]
    joint = list(named)[-1]
    ax = axes(ax, 5.6, 1.0 + 0.3 * len(lines))
    rows(ax, [f"{term}   {name}" if name else term for term, name, _ in lines])
    for y, (_, name, values) in enumerate(lines):
        middle, low, high = np.exp(values) if ratio else values
        colour, marker = (BLUE, "D") if name == joint else (REFERENCE_COLOUR, "o")
        ax.plot([low, high], [y, y], color=colour, linewidth=1.5)
        ax.plot(middle, y, color=colour, marker=marker, markersize=6, linestyle="none")
    ax.axvline(1.0 if ratio else 0.0, color=GREY, linewidth=1, linestyle="--", zorder=0)
    if ratio:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("ratio, with its interval" if ratio else "coefficient, with its interval")
    ax.grid(axis="x", color=PALE, linewidth=0.5)
    ax.set_axisbelow(True)
    return ax
