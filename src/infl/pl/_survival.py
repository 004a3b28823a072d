"""Curves of survival, with the numbers at risk below them."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from infl._parameters import Text
from infl.pl._style import axes, legend_above, need_columns, picture, wrapped
from infl.pl.colours import CYCLE, PALE

_STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
_COLUMNS = ["group", "start", "time", "at_risk", "survival", "lower", "upper"]


@picture(xlabel=Text(says="a label for the times"))
def survival(curves: pd.DataFrame, *, xlabel: str = "time", ax: Axes | None = None) -> Axes:
    """Draw curves of survival with their intervals, and the numbers at risk below them.

    Parameters
    ----------
    curves
        The ``curves`` of what :func:`infl.tl.survival` returned.
    xlabel
        What the times are, with their unit.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: a step at the end of each bin, the interval behind it, and below a row of numbers at risk for each group.

    Examples
    --------
    >>> import infl, numpy as np
    >>> sites = infl.datasets.khan_sites()
    >>> for adata in sites.values():
    ...     adata.obs["months"], adata.obs["died"] = np.arange(1, adata.n_obs + 1), True
    >>> ax = infl.pl.survival(infl.tl.survival(sites, "months", "died").curves, xlabel="months")
    >>> ax.get_ylabel()
    'surviving'
    """
    need_columns(curves, _COLUMNS, "pl.survival draws the curves of what infl.tl.survival returns")
    groups = {str(group): own for group, own in curves.groupby("group", sort=False, observed=True)}
    ax = axes(ax, 6.0, 3.4 + 0.2 * len(groups))
    handles = []
    for number, (group, own) in enumerate(groups.items()):
        colour, style = CYCLE[number % len(CYCLE)], _STYLES[number // len(CYCLE) % len(_STYLES)]
        time = np.append(0.0, own["time"])
        ax.step(time, np.append(1.0, own["survival"]), where="post", color=colour, linewidth=1.8, linestyle=style)
        low, high = (np.append(1.0, own[name].fillna(own["survival"])) for name in ("lower", "upper"))
        ax.fill_between(time, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        handles.append(Line2D([], [], color=colour, linestyle=style, linewidth=1.8, label=group))
    ax.set_xlim(0, float(curves["time"].max()))
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("surviving")
    ax.set_xlabel(xlabel)
    ax.grid(axis="y", color=PALE, linewidth=0.5)
    _numbers_below(ax, groups)
    if len(groups) > 1:
        legend_above(ax, handles)
    return ax


def _numbers_below(ax: Axes, groups: Mapping[str, pd.DataFrame]) -> None:
    """Write how many of each group are at risk below each tick, as part of its label: any layout has room for that."""
    few = 4 if ax.get_window_extent().width / ax.figure.dpi < 4 else 7
    low, high = ax.get_xlim()
    ticks = [float(tick) for tick in MaxNLocator(few).tick_values(low, high) if low <= tick <= high]
    lines = [[f"{tick:g}" for tick in ticks]]
    for own in groups.values():
        begins, n = own["start"].to_numpy(), own["at_risk"].to_numpy()
        lines.append([str(n[np.searchsorted(begins, tick, side="right") - 1]) for tick in ticks])
    ax.set_xticks(ticks, ["\n".join(column) for column in zip(*lines, strict=True)])
    names = [wrapped(name, 16).partition("\n")[0] for name in groups] if len(groups) > 1 else ["at risk"]
    ax.annotate(
        "\n".join(["", *names]),
        (0, 0),
        xytext=(-22, -3.5),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=ax.xaxis.get_ticklabels()[0].get_fontsize(),
        parse_math=False,
    )
