"""How a fit went."""

from contextlib import suppress
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from infl._tables import label_of
from infl.errors import DataError, InflError
from infl.pl._style import axes, legend_above, need_columns, picture
from infl.pl.colours import GREY, PALE, WITH_KEY_COLOUR


@picture()
def rounds(run: Any, *, metric: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the validation metric and the losses of a federated fit, round by round.

    Parameters
    ----------
    run
        What :func:`infl.tl.fit_federated` returned.
    metric
        Column of ``run.history`` to draw on the left axis, with or without ``val_``; default: the one that
        the task reports first, else the first ``val_…`` that is no loss.
    ax
        Where to draw; default: a new figure.

    Returns
    -------
    The axes. The metric has the left axis, the losses (dashed: training, dotted: validation) a second one on the right; the round
    whose model was kept is marked.

    Examples
    --------
    >>> import infl, pandas as pd
    >>> from types import SimpleNamespace
    >>> history = pd.DataFrame(
    ...     {"loss": [1.2, 0.4], "val_loss": [1.3, 0.6], "val_balanced_accuracy": [0.5, 0.9], "best": [False, True]},
    ...     index=pd.Index([1, 2], name="round"),
    ... )
    >>> ax = infl.pl.rounds(SimpleNamespace(history=history))
    >>> ax.get_ylabel()
    'validation balanced accuracy'
    """
    history = getattr(run, "history", None)
    if not isinstance(history, pd.DataFrame):
        raise DataError(f"pl.rounds draws a run that infl.tl.fit_federated returned, not {type(run).__name__}")
    need_columns(history, ["loss"], "pl.rounds draws run.history with a loss for each round")
    column = _metric_column(history, metric, _headline(run))
    ax = axes(ax, 6.0, 3.6)
    index = history.index.to_numpy()
    style: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(index) <= 40 else {}
    handles = []

    loss_ax = ax if column is None else ax.twinx()
    for name, label, dashes in (("loss", "training loss", "--"), ("val_loss", "validation loss", ":")):
        if name in history:
            handles += loss_ax.plot(index, history[name], color=GREY, linestyle=dashes, linewidth=1.3, label=label)
    loss_ax.set_ylim(bottom=min(0.0, loss_ax.get_ylim()[0]))
    loss_ax.set_ylabel("loss (mean per sample)", color=GREY if column else "black")
    if column is not None:
        loss_ax.spines[["top", "left"]].set_visible(False)
        loss_ax.tick_params(axis="y", colors=GREY)
        handles[:0] = ax.plot(
            index, history[column], color=WITH_KEY_COLOUR, linewidth=2, label=label_of(column), **style
        )
        ax.set_ylabel(f"validation {label_of(column)}")
        ax.set_zorder(loss_ax.get_zorder() + 1)  # the metric is what the eye should meet first
        ax.patch.set_visible(False)

    if "best" in history and history["best"].any():
        best = history.index[history["best"].to_numpy(dtype=bool)][-1]
        loss_ax.axvline(best, color=PALE, linewidth=6, zorder=0)  # beneath all lines
        handles.append(Line2D([], [], color=PALE, linewidth=6, label=f"kept: round {best}"))
    ax.set_xlabel("round")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(ax, handles)
    return ax


def _headline(run: Any) -> str | None:
    """Return the metric that tables of the run's task report first."""
    from infl.models.registry import task_class

    with suppress(InflError):  # a task of a package that is not here
        return str(task_class((getattr(run, "settings", None) or {}).get("task", "")).headline)
    return None


def _metric_column(history: pd.DataFrame, metric: str | None, headline: str | None) -> str | None:
    known = [name for name in history if str(name).startswith("val_") and name != "val_loss"]
    if metric is None and f"val_{headline}" in known:
        return f"val_{headline}"
    if metric is None:
        return known[0] if known else None
    for name in (metric, f"val_{metric}"):
        if name in history:
            return name
    raise DataError(f"the history has no metric {metric!r}; it has {', '.join(map(repr, known)) or 'losses only'}")
