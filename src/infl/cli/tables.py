"""Printing tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def print_table(table: pd.DataFrame, metrics: list[str] | None = None) -> None:
    """Print a comparison: one row per method, one column per metric, mean ± standard deviation; then the worst site.

    What does not fit beside each other is printed below each other, with the methods again.
    """
    from rich.console import Console
    from rich.table import Table

    from infl._tables import by_method, few_held_out, not_computed

    wide = by_method(table, metrics).assign(method=list(dict.fromkeys(table["method"])))
    wide["seconds"] = [f"{s:.2f}" for s in table.groupby("method", sort=False)["seconds"].first()]
    console = Console()
    for columns in _groups(wide, console.width):
        shown = Table()
        for column in columns:
            # rich would cut a word before it wraps a header
            words = [column] if column == columns[0] else column.split()
            shown.add_column("\n".join(words), no_wrap=True)
        for row in wide[columns].itertuples(index=False, name=None):
            shown.add_row(*row)
        console.print(shown)
    for line in filter(None, (not_computed(table), few_held_out(table))):
        console.print(line)


def _groups(table: pd.DataFrame, width: int) -> list[list[str]]:
    """Return the columns in groups that fit a width, each with the first column; headers have a word a line."""
    first, *others = table.columns
    room = {c: 3 + max(map(len, [*table[c], *(str(c).split() if c != first else [c])])) for c in table.columns}
    groups = [[first]]
    for column in others:
        if len(groups[-1]) > 1 and 1 + sum(room[c] for c in [*groups[-1], column]) > width:
            groups.append([first])
        groups[-1].append(column)
    return groups
