"""How the trials of a tuning went."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from infl._tables import label_of
from infl.errors import DataError
from infl.pl._style import axes, legend_above, need_columns, picture
from infl.pl.colours import GREY, PALE, WITH_KEY_COLOUR

LONGEST = 60
"""Characters of the winner's options in a legend."""


@picture()
def tune(tuned: Any, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw a validation metric of all trials, round by round: who was stopped where, and who won.

    Parameters
    ----------
    tuned
        What :func:`infl.tl.tune` returned.
    metric
        Column of ``tuned.history`` to draw, with or without ``val_`` (default: ``"loss"``, which tells trials apart that are equal by
        the metric that chose).
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: a line for each trial to the last round that was judged, with a mark where it ends; the winner's in colour.

    Examples
    --------
    >>> import infl, pandas as pd
    >>> from types import SimpleNamespace
    >>> history = pd.DataFrame({"trial": [1, 1, 2], "round": [1, 2, 1], "loss": [0.9, 0.5, 1.1]})
    >>> table = pd.DataFrame({"trial": [1, 2], "lr": [0.01, 0.001]})
    >>> tuned = SimpleNamespace(history=history, table=table, best={"lr": 0.01})
    >>> infl.pl.tune(tuned).get_ylabel()
    'validation loss'
    """
    history, table = getattr(tuned, "history", None), getattr(tuned, "table", None)
    if not isinstance(history, pd.DataFrame) or not isinstance(table, pd.DataFrame) or not hasattr(tuned, "best"):
        raise DataError(f"pl.tune draws what infl.tl.tune returned, not {type(tuned).__name__}")
    column = ("loss" if metric is None else metric).removeprefix("val_")
    need_columns(history, ["trial", "round", column], "pl.tune draws tuned.history, with the metrics that were summed")
    ax = axes(ax, 6.0, 3.6)
    winner = table["trial"].iloc[0]
    for trial, rows in history.groupby("trial", sort=False):
        won = trial == winner
        style: dict[str, Any] = {"color": WITH_KEY_COLOUR, "linewidth": 2.2, "zorder": 3} if won else {"color": PALE}
        ax.plot(rows["round"], rows[column], **style)
        ax.plot(
            rows["round"].iloc[-1],
            rows[column].iloc[-1],
            marker="o",
            markersize=4,
            color=style["color"] if won else GREY,
        )
    n_others = table["trial"].nunique() - 1
    said = ", ".join(f"{name} {_value(value)}" for name, value in tuned.best.items())
    said = said if len(said) <= LONGEST else f"{said[: LONGEST - 1]}…"
    handles = [Line2D([], [], color=WITH_KEY_COLOUR, linewidth=2.2, label=said)]
    if n_others:
        handles.append(
            Line2D([], [], color=PALE, marker="o", markersize=4, markerfacecolor=GREY, label=f"{n_others} others")
        )
    ax.set_xlabel("round")
    ax.set_ylabel(f"validation {label_of(column)}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(ax, handles)
    return ax


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)
