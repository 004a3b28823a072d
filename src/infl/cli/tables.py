"""Reading data files and printing tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from infl._files import explained
from infl.errors import FileError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


def read_data(path: Path) -> AnnData | MuData:
    """Read an h5ad or h5mu file, or say in one line why not."""
    with explained(path, "read"), path.open("rb"):
        pass
    try:
        if path.suffix == ".h5mu":
            import mudata

            return mudata.read_h5mu(path)
        import anndata

        return anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise FileError(f"{path} cannot be read as h5ad or h5mu: {error}") from error


def print_table(table: pd.DataFrame, metrics: list[str] | None = None) -> None:
    """Print a comparison: one row a method, one column a metric, mean ± standard deviation; then the worst site."""
    from rich.console import Console
    from rich.table import Table

    from infl._tables import by_method

    wide = by_method(table, metrics).assign(method=list(dict.fromkeys(table["method"])))
    wide["seconds"] = [f"{s:.2f}" for s in table.groupby("method", sort=False)["seconds"].first()]
    shown = Table(*wide.columns)
    for row in wide.itertuples(index=False, name=None):
        shown.add_row(*row)
    Console().print(shown)
