"""What attacks learn, next to guessing and to an unprotected run."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from infl._tables import label_of
from infl.attacks import Status
from infl.pl._style import axes, legend_above, need_columns, picture, rows
from infl.pl.colours import BLACK, GREY, ORANGE, PALE, WITH_KEY_COLOUR, WITHOUT_KEY_COLOUR

_MARGIN = 0.10  # of the way from chance to the unprotected run; what the table's `status` decides where it has one
_NOTHING, _SOMETHING = "learns nothing", "learns something"
_LOOKS = {
    _NOTHING: (WITH_KEY_COLOUR, "o"),
    _SOMETHING: (WITHOUT_KEY_COLOUR, "X"),
    str(Status.HOLDS): (WITH_KEY_COLOUR, "o"),
    str(Status.BROKEN): (WITHOUT_KEY_COLOUR, "X"),
    str(Status.NOT_PROMISED): (ORANGE, "s"),
    str(Status.NOT_JUDGED): (GREY, "v"),
    str(Status.INCONCLUSIVE): (GREY, "o"),
    str(Status.CANNOT_TELL): (GREY, "P"),
}
"""By what the legend says: the word that the table has under ``status``, or without one what was learned. A mark for each, so that
they differ without colour too."""


@picture()
def audit(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    r"""Draw what each attack reaches, between chance and the same attack on an unprotected run.

    Parameters
    ----------
    table
        What :func:`infl.tl.audit` returned. A column ``status`` says how each row is drawn, and the legend has its words; with
        columns ``low`` and ``high``, intervals are drawn. Without ``status``, an attack learns something that gets more than a
        tenth of the way from chance to the unprotected run, or past the columns ``chance_low`` and ``chance_high`` where there
        are such.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes: a row for each attack and protection. If a value leaves the range −1 to 1, each row is drawn on a scale
    of its own, from 0 (chance) to 1 (unprotected).

    Examples
    --------
    >>> import infl, pandas as pd
    >>> table = pd.DataFrame(
    ...     {
    ...         "attack": ["no_key"],
    ...         "against": ["model file"],
    ...         "protection": ["field"],
    ...         "metric": ["balanced_accuracy"],
    ...         "value": [0.27],
    ...         "chance": [0.25],
    ...         "control": [0.96],
    ...     }
    ... )
    >>> infl.pl.audit(table).get_yticklabels()[0].get_text()
    'no key · field\nbalanced accuracy, against model file'
    """
    names = ["attack", "against", "protection", "metric", "value", "chance", "control"]
    need_columns(table, names, "pl.audit draws what infl.tl.audit returns")
    value, chance, control = (table[name].to_numpy(dtype=float) for name in ("value", "chance", "control"))
    kinds = _kinds(table, value, chance, control)
    relative = bool(np.nanmax(np.abs(np.concatenate([value, chance, control]))) > 1.0)
    ends = table[["low", "high"]].to_numpy(dtype=float).T if {"low", "high"} <= set(table.columns) else None
    if relative:
        span = np.where(np.isclose(control, chance), 1.0, control - chance)
        ends = None if ends is None else (ends - chance) / span
        value, chance, control = (value - chance) / span, chance * 0, (control - chance) / span

    ax = axes(ax, 9.5, 1.3 + 0.46 * len(table))
    rows(ax, _row_labels(table))
    ax.tick_params(axis="y", labelsize="small")
    y = np.arange(len(table))
    ax.hlines(y, np.fmin(chance, control), np.fmax(chance, control), color=PALE, linewidth=4, zorder=1)
    ax.scatter(chance, y, marker="|", s=170, color=BLACK, linewidths=2, zorder=2)
    ax.scatter(control, y, marker="D", s=38, facecolors="white", edgecolors=GREY, linewidths=1.5, zorder=3)
    for kind, (colour, marker) in _looks(kinds).items():
        here = kinds == kind
        if ends is not None:
            ax.hlines(y[here], ends[0][here], ends[1][here], color=colour, linewidth=1.2, zorder=3.5)
        ax.scatter(value[here], y[here], marker=marker, s=64, color=colour, zorder=4)
    for start in np.flatnonzero(table["attack"].to_numpy()[1:] != table["attack"].to_numpy()[:-1]):
        ax.axhline(start + 0.5, color=PALE, linewidth=0.6)

    ax.set_xlabel("0: chance, 1: unprotected run" if relative else "value of the metric named at the left")
    if not relative and np.nanmin(np.concatenate([value, chance, control])) >= 0:
        ax.set_xlim(-0.02, 1.02)
    legend_above(ax, _handles(kinds))
    return ax


def _kinds(table: pd.DataFrame, value: np.ndarray, chance: np.ndarray, control: np.ndarray) -> np.ndarray:
    if "status" in table:
        return table["status"].astype(str).to_numpy()
    towards = np.sign(np.nan_to_num(control - chance))  # errors of a reconstruction fall when it learns
    gain = (value - chance) * np.where(towards == 0, 1, towards)
    margin = _MARGIN * np.abs(np.nan_to_num(control - chance))
    if {"chance_low", "chance_high"} <= set(table.columns):
        low, high = table["chance_low"].to_numpy(dtype=float), table["chance_high"].to_numpy(dtype=float)
        margin = np.where(towards < 0, chance - low, high - chance)
    return np.where(gain > margin, _SOMETHING, _NOTHING)


def _looks(kinds: np.ndarray) -> dict[str, tuple[str, str]]:
    """Return colour and mark of each kind that is there; what is not known is neither good nor bad."""
    there = set(kinds)
    known = {kind: look for kind, look in _LOOKS.items() if kind in there}
    return known | dict.fromkeys(sorted(there - set(_LOOKS)), (GREY, "d"))


def _row_labels(table: pd.DataFrame) -> list[str]:
    names = (table[name].astype(str).map(label_of) for name in ("attack", "protection", "against", "metric"))
    return [
        f"{attack} · {protection}\n{metric}, against {against}"
        for attack, protection, against, metric in zip(*names, strict=True)
    ]


def _handles(kinds: np.ndarray) -> list[Line2D]:
    def mark(label: str, **look: object) -> Line2D:
        return Line2D([], [], linestyle="none", label=label, **look)  # type: ignore[arg-type]

    handles = [mark("chance", marker="|", color=BLACK, markersize=12, markeredgewidth=2)]
    handles += [
        mark(kind, marker=marker, color=colour, markersize=7) for kind, (colour, marker) in _looks(kinds).items()
    ]
    handles.append(mark("unprotected run", marker="D", markerfacecolor="white", markeredgecolor=GREY, markersize=6))
    return handles
