"""Colours and axes that all pictures share.

Colours are those of Okabe and Ito (2008), which people with the common kinds of colour blindness tell apart. They
carry one meaning each in all pictures; where it matters, a marker or line style carries it too.
"""

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from infl._files import explained
from infl._parameters import PARAMETERS, Kind, door, shown
from infl.errors import DataError, FileError, SettingsError

_SHARED = """    show
        Show the figure now, as scanpy has it; default: leave it to the notebook, or to ``plt.show()``.
    save
        Write the figure: a path (``"figures/a.pdf"``), an ending for this function's name (``"_v1.svg"``, ``".pdf"``),
        or True for ``NAME.png`` in this folder.
    return_fig
        Return the figure instead of the axes.

"""


def picture(**own: Kind) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a function that draws the options ``show=``, ``save=`` and ``return_fig=``, and check its arguments.

    Parameters
    ----------
    **own
        Kinds of parameters, see :func:`infl._parameters.door`.
    """
    return lambda function: _picture(door(**own)(function))


def _picture(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def drawn(
        *args: Any, show: bool | None = None, save: bool | str | Path | None = None, return_fig: bool = False, **kw: Any
    ) -> Any:
        for name, value in (("show", show), ("return_fig", return_fig)):
            PARAMETERS[name].read(name, value)
        if not (save is None or isinstance(save, bool | str | Path)):
            raise SettingsError(f"save={shown(save)}: give a path, True, or None")
        path = None if save is None or save is False else _path(save, function.__name__)
        found = function(*args, **kw)
        figure = np.ravel(found)[0].get_figure(root=True)
        if path is not None:
            with explained(path, "write"):
                figure.savefig(path)
        if show:
            plt.show()
        return figure if return_fig else found

    signature, own = inspect.signature(function), inspect.signature(drawn, follow_wrapped=False).parameters
    added = [own[name] for name in ("show", "save", "return_fig")]
    before = list(signature.parameters.values())
    at = len(before) - any(p.kind is p.VAR_KEYWORD for p in before)
    vars(drawn)["__signature__"] = signature.replace(parameters=[*before[:at], *added, *before[at:]])
    # Python 3.13 takes the indentation off docstrings, others leave it
    before_doc, returns, rest = inspect.cleandoc(function.__doc__ or "").partition("Returns\n")
    before_doc, kwargs, tail = before_doc.partition("**kwargs\n")  # stays the last
    drawn.__doc__ = f"{before_doc.rstrip()}\n{inspect.cleandoc(_SHARED)}\n{kwargs}{tail or chr(10)}{returns}{rest}\n"
    return drawn


def _path(save: bool | str | Path, name: str) -> Path:
    """Return where a figure goes, before it is drawn."""
    from matplotlib.backend_bases import FigureCanvasBase

    text = "" if save is True else str(save)
    path = Path(f"{name}{text}" if text.startswith(("_", ".")) and "/" not in text else text or name).expanduser()
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    known = FigureCanvasBase.filetypes
    if path.suffix[1:].lower() not in known:
        raise FileError(f"{path} is no name for a figure: give it one that ends in {', '.join(sorted(known))}")
    if not path.absolute().parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}")
    return path


def natural(names: Iterable[Any]) -> list[Any]:
    """Return names in the order that people count in.

    Examples
    --------
    >>> natural(["site_10", "site_2", "b"])
    ['b', 'site_2', 'site_10']
    """
    return sorted(names, key=lambda name: [(p.isdigit(), int(p) if p.isdigit() else p) for p in _parts(name)])


def _parts(name: Any) -> list[str]:
    return [part for part in re.split(r"([0-9]+)", str(name)) if part]


def wrapped(name: Any, width: int) -> str:
    """Break a long name into lines, at spaces and underscores where it has some."""
    return "\n".join(textwrap.wrap(str(name).replace("_", "_\u200b"), width) or [""]).replace("\u200b", "")


def unit_of(objects: Iterable[Any]) -> str:
    """Return what the observations are: spots where there are coordinates of a tissue, else cells."""
    return "spots" if all("spatial" in one.obsm or "spatial" in one.uns for one in objects) else "cells"


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """Return `ax`, or the axes of a new figure (inches) that lays itself out.

    The figure of `ax` does so too, unless it has a layout of its own: legends and names would be cut off else.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    elif (figure := ax.get_figure(root=True)) is not None and figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def rows(ax: Axes, labels: list[str]) -> None:
    """Lay out horizontal rows, the first on top."""
    ax.set_yticks(range(len(labels)), labels, parse_math=False)  # names may have a dollar
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def legend_above(ax: Axes, handles: list, n_columns: int = 2) -> None:
    """Put a legend above the axes, where it hides no data; more than two columns are for short labels."""
    for columns in range(n_columns, 0, -1):  # as many as fit axes that a layout may still make narrower
        legend = ax.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1.01),
            ncols=columns,
            frameon=False,
            borderaxespad=0,
            handlelength=1.8,
            columnspacing=1.4,
        )
        if legend.get_window_extent().width <= 0.7 * ax.bbox.width:
            break


def need_columns(table: pd.DataFrame, names: list[str], what: str) -> None:
    """Refuse a table that is not the one that a picture is of."""
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"{what}, not {type(table).__name__}")
    if missing := [name for name in names if name not in table.columns]:
        raise DataError(f"the table has no column {', '.join(map(repr, missing))}: {what}")
    if table.empty:
        raise DataError(f"the table is empty: {what}")
