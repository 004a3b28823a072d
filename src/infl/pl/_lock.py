"""What a model is worth with the right key, a wrong one and none."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from infl._tables import label_of
from infl.errors import DataError
from infl.pl._style import axes, legend_above, need_columns, picture
from infl.pl.colours import GREY, PURPLE, WITH_KEY_COLOUR, WITHOUT_KEY_COLOUR

_WHAT = "pl.lock draws a table with the columns strength, who and balanced_accuracy"
_LOOKS = {
    "right key": (WITH_KEY_COLOUR, "o", "-"),
    "wrong key": (WITHOUT_KEY_COLOUR, "s", "--"),
    "no key": (PURPLE, "^", ":"),
}


@picture()
def lock(curve: pd.DataFrame, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how the accuracy of a locked model falls with the strength of the lock, for those who lack the key.

    Parameters
    ----------
    curve
        What :func:`infl.tl.lock_curve` returned: a table with the columns ``strength``, ``who`` (``"right key"``,
        ``"wrong key"``, ``"no key"``), `metric` (its mean) and, if there is one, ``sd``; ``table.attrs["chance"]`` is the
        accuracy of guessing.
    metric
        Column with the accuracy; default: ``"balanced_accuracy"`` if there, else the first that is left.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: one line for each holder, with a band of one standard deviation, and a line at chance.

    Examples
    --------
    >>> import infl, pandas as pd
    >>> table = pd.DataFrame(
    ...     {
    ...         "strength": [0, 1, 0, 1],
    ...         "who": ["right key"] * 2 + ["no key"] * 2,
    ...         "balanced_accuracy": [0.9, 0.9, 0.9, 0.3],
    ...     }
    ... )
    >>> infl.pl.lock(table).get_xlabel()
    'strength of the lock'
    """
    if not isinstance(curve, pd.DataFrame):
        raise DataError(f"infl.tl.lock_curve makes the table to draw, this is {type(curve).__name__}; {_WHAT}")
    need_columns(curve, ["strength", "who"], _WHAT)
    if metric is None:
        left = [column for column in curve if column not in ("strength", "who", "sd")]
        metric = "balanced_accuracy" if "balanced_accuracy" in left or not left else left[0]
    need_columns(curve, [metric], _WHAT)
    ax = axes(ax, 5.4, 3.6)
    handles = []
    for who in [*(w for w in _LOOKS if w in set(curve["who"])), *sorted(set(curve["who"]) - set(_LOOKS))]:
        colour, marker, dashes = _LOOKS.get(who, (GREY, "D", "-."))
        part = curve[curve["who"] == who].sort_values("strength")
        x, y = part["strength"].to_numpy(dtype=float), part[metric].to_numpy(dtype=float)
        handles += ax.plot(x, y, color=colour, marker=marker, linestyle=dashes, markersize=5, label=who, clip_on=False)
        if "sd" in part:
            sd = np.nan_to_num(part["sd"].to_numpy(dtype=float))
            ax.fill_between(x, y - sd, y + sd, color=colour, alpha=0.15, linewidth=0)
    if (chance := curve.attrs.get("chance")) is not None:
        ax.axhline(chance, color=GREY, linewidth=1)
        handles.append(Line2D([], [], color=GREY, linewidth=1, label=f"chance ({chance:.2f})"))
    ax.set_xlabel("strength of the lock")
    ax.set_ylabel(label_of(metric))
    if curve[metric].between(0, 1).all():
        ax.set_ylim(0, 1.02)
    ax.set_xlim(float(curve["strength"].min()), float(curve["strength"].max()) or 1.0)
    legend_above(ax, handles)
    return ax
