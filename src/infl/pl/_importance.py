"""Which features a model depends on."""

import pandas as pd
from matplotlib.axes import Axes

from infl._parameters import Whole
from infl.errors import DataError
from infl.pl._style import axes, need_columns, picture, rows, wrapped
from infl.pl.colours import BLUE, GREY, PALE

_WHAT = "pl.importance draws the table of infl.tl.feature_importance"


@picture(n=Whole(1))
def importance(table: pd.DataFrame, *, n: int = 20, ax: Axes | None = None) -> Axes:
    """Draw the most important features, with the standard errors over observations.

    Parameters
    ----------
    table
        What :func:`infl.tl.feature_importance` returned.
    n
        How many features at most.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: a row for each feature, the most important on top.

    Examples
    --------
    >>> import infl, pandas as pd
    >>> table = pd.DataFrame({"importance": [0.5, 0.1], "std": [0.1, 0.05]}, index=["TP53", "MYC"])
    >>> infl.pl.importance(table).get_yticklabels()[0].get_text()
    'TP53'
    """
    need_columns(table, ["importance", "std"], _WHAT)
    known = table[table["importance"].notna()].sort_values("importance", ascending=False, kind="stable").head(n)
    if known.empty:
        raise DataError(f"no feature of the table was measured: {_WHAT}")
    ax = axes(ax, 4.6, 1.0 + 0.24 * len(known))
    rows(ax, [wrapped(name, 30) for name in known.index])
    for y, (value, std) in enumerate(known[["importance", "std"]].to_numpy(dtype=float)):
        ax.plot([value - std, value + std], [y, y], color=BLUE, linewidth=1.5)
        ax.plot(value, y, color=BLUE, marker="o", markersize=5, linestyle="none")
    ax.axvline(0, color=GREY, linewidth=1, linestyle="--", zorder=0)
    how = {"gradients": "integrated gradients", "permutation": "values exchanged"}.get(
        table.attrs.get("method", ""), ""
    )
    ax.set_xlabel("how much it lowers the loss" + (f" ({how})" if how else ""))
    ax.grid(axis="x", color=PALE, linewidth=0.5)
    ax.set_axisbelow(True)
    return ax
