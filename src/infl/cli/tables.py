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

    metrics = metrics or list(dict.fromkeys(table["metric"]))
    shown = Table("method", *(m.replace("_", " ") for m in metrics), "worst site", "seconds")
    for method, rows in table.groupby("method", sort=False):
        cells = rows.set_index("metric")
        values = [f"{cells.loc[m, 'mean']:.3f} ± {cells.loc[m, 'sd']:.3f}" if m in cells.index else "" for m in metrics]
        worst = f"{cells.loc[metrics[0], 'worst_site']:.3f}" if metrics[0] in cells.index else ""
        shown.add_row(str(method), *values, worst, f"{rows['seconds'].iloc[0]:.2f}")
    Console().print(shown)
