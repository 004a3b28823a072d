"""Printing tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def print_table(table: pd.DataFrame, metrics: list[str] | None = None) -> None:
    """Print a comparison: one row a method, one column a metric, mean ± standard deviation; then the worst site."""
    from rich.console import Console
    from rich.table import Table

    from infl._tables import by_method, not_computed

    wide = by_method(table, metrics).assign(method=list(dict.fromkeys(table["method"])))
    wide["seconds"] = [f"{s:.2f}" for s in table.groupby("method", sort=False)["seconds"].first()]
    shown = Table(*wide.columns)
    for row in wide.itertuples(index=False, name=None):
        shown.add_row(*row)
    Console().print(shown)
    if missing := not_computed(table):
        Console().print(missing)
