"""What a person sees while a run goes on: a progress bar with the time left, and single lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from infl._settings import settings

Show = Callable[[int, list[dict[str, Any]]], None]


def say(line: str) -> None:
    """Print one line to standard error."""
    print(f"infl: {line}", file=sys.stderr)


def last_metrics(rows: list[dict[str, Any]]) -> str:
    """Return the validation metrics that are known last.

    Examples
    --------
    >>> last_metrics([{"loss": 0.9, "val_loss": 0.5}, {"loss": 0.7}])
    'loss 0.500'
    """
    known: dict[str, Any] = next((row for row in reversed(rows) if "val_loss" in row), {})
    return " ".join(f"{k.removeprefix('val_')} {v:.3f}" for k, v in known.items() if k.startswith("val_"))


@contextmanager
def round_bar(rounds: int, progress: bool | None, *, what: str = "round") -> Iterator[Show]:
    """Yield a function that is called after each round; it moves a bar with the time left and the last metrics."""
    if progress is None:
        progress = settings.progress if settings.progress is not None else sys.stderr.isatty()
    if not progress:
        yield lambda number, rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        handle = bar.add_task("", total=rounds)

        def show(number: int, rows: list[dict[str, Any]]) -> None:
            bar.update(handle, completed=number, description=last_metrics(rows))

        yield show
        bar.update(handle, completed=rounds)
