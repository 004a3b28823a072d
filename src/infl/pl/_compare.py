"""Methods side by side."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from infl._tables import LOWER_IS_BETTER, bare, label_of, method_label
from infl.errors import DataError
from infl.pl._style import axes, legend_above, need_columns, picture, rows
from infl.pl.colours import GREY, PALE, REFERENCE_COLOUR, WITH_KEY_COLOUR, WITHOUT_KEY_COLOUR

_FAMILIES = {
    "with the key": (WITH_KEY_COLOUR, "o", ("infl", "published", "published_own_epochs")),
    "wrong or no key": (
        WITHOUT_KEY_COLOUR,
        "s",
        ("infl_wrong_key", "infl_no_key", "published_wrong_key", "published_own_epochs_wrong_key"),
    ),
}
_OTHER = ("without a lock", REFERENCE_COLOUR, "D")


@picture()
def compare(table: pd.DataFrame, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw what each method reached, with its spread over seeds.

    Parameters
    ----------
    table
        What :func:`infl.tl.compare` returned; ``table.attrs["chance"]``, an accuracy or a dict with a number for each
        metric, is drawn as a line.
    metric
        Which metric; default: ``"balanced_accuracy"`` if there, else the first.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: a row for each method, a dot at the mean, a whisker of one standard deviation on either side.

    Examples
    --------
    >>> import infl, pandas as pd
    >>> table = pd.DataFrame(
    ...     {
    ...         "method": ["pooled", "infl"],
    ...         "metric": "balanced_accuracy",
    ...         "mean": [0.95, 0.94],
    ...         "sd": [0.02, 0.03],
    ...         "n_seeds": 5,
    ...     }
    ... )
    >>> infl.pl.compare(table).get_xlabel()
    'balanced accuracy (mean ± sd of 5 seeds)'
    """
    need_columns(table, ["method", "metric", "mean", "sd"], "pl.compare draws what infl.tl.compare returns")
    metrics = list(dict.fromkeys(table["metric"]))
    if metric is None:
        metric = "balanced_accuracy" if "balanced_accuracy" in metrics else metrics[0]
    if metric not in metrics:
        raise DataError(f"the table has no metric {metric!r}; it has {', '.join(map(repr, metrics))}")
    part = bare(table)[table["metric"] == metric]
    ax = axes(ax, 6.4, 1.2 + 0.32 * len(part))
    rows(ax, [method_label(str(method)) for method in part["method"]])

    handles: dict[str, Line2D] = {}
    for y, row in enumerate(part.itertuples()):
        family, colour, marker = _family(str(row.method))
        sd = 0.0 if pd.isna(row.sd) else float(row.sd)
        ax.errorbar(row.mean, y, xerr=sd, color=colour, marker=marker, markersize=6.5, capsize=3, linewidth=1.5)
        alone = getattr(row, "n_seeds", None) == 1 and sd == 0  # of one seed there is no deviation
        text = f"{row.mean:.2f}" if alone else f"{row.mean:.2f} ± {sd:.2f}"
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small")
        handles[family] = Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=6.5, label=family)
    chance = table.attrs.get("chance")
    if isinstance(chance, dict):
        chance = chance.get(metric)
    elif "accuracy" not in metric:
        chance = None  # guessing reaches that accuracy, not that error or AUROC
    shown = list(handles.values())
    if chance is not None:
        ax.axvline(chance, color=GREY, linewidth=1, linestyle="--", zorder=0)
        shown.append(Line2D([], [], color=GREY, linewidth=1, linestyle="--", label="chance"))

    lower_is_better = any(word in metric for word in (*LOWER_IS_BETTER, "seconds"))
    if lower_is_better:
        ax.set_xlim(left=0)
    elif part["mean"].between(0, 1).all():
        ax.set_xlim(0, 1.02)
    ax.set_xlabel(f"{label_of(metric)} ({_spread(part)}{'; lower is better' if lower_is_better else ''})")
    ax.grid(axis="x", color=PALE, linewidth=0.5)
    ax.set_axisbelow(True)
    legend_above(ax, shown)
    return ax


def _family(method: str) -> tuple[str, str, str]:
    for name, (colour, marker, methods) in _FAMILIES.items():
        if method in methods:
            return name, colour, marker
    return _OTHER


def _spread(part: pd.DataFrame) -> str:
    seeds = sorted(set(part["n_seeds"].dropna())) if "n_seeds" in part else []
    number = f" of {'–'.join(str(int(s)) for s in (seeds if len(seeds) < 2 else (seeds[0], seeds[-1])))} seeds"
    return f"mean ± sd{number if seeds else ''}"
