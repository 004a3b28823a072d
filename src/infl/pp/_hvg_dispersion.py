"""Variable features by dispersion: the flavours ``"seurat"`` and ``"cell_ranger"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from infl.data.consortium import agreed, alongside
from infl.data.units import log_base
from infl.errors import DataError
from infl.pp._hvg_batches import Batches, moments_of_batch
from infl.pp._matrix import SiteMatrix
from infl.pp._moments import Transform
from infl.pp._variable import Cutoffs, at_least_nth, dispersions
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State, run_sums

if TYPE_CHECKING:
    from infl.sums.shape import Arrays

_DISPERSIONS = ["means", "dispersions", "dispersions_norm", "highly_variable"]
_LARGEST_LOG = 44.0  # whose square is a float32 still, when it is taken back


def by_dispersion(
    at: Mapping[str, SiteMatrix],
    batches: Batches,
    names: pd.Index,
    flavor: Any,
    n_bins: int,
    cutoffs: Cutoffs,
    n_top: int | None,
) -> pd.DataFrame:
    """Return the table of ``"seurat"`` and ``"cell_ranger"``."""
    transform = _expm1(at) if flavor == "seurat" else None
    tables = {}
    for batch in batches.members:
        n, mean, var = moments_of_batch(at, batches, batch, transform)
        # within batches, features that are never seen there are left out, as in scanpy
        used = (mean != 0) | (var != 0) if batches.named else ~np.isnan(mean)
        table = dispersions(mean[used], var[used], flavor, n_bins)
        norm = table["dispersions_norm"].to_numpy()
        table["highly_variable"] = (
            cutoffs.hold(table["means"].to_numpy(), np.nan_to_num(norm)) if n_top is None else at_least_nth(norm, n_top)
        )
        table.index = names[used]
        if not batches.named:
            return table if used.all() else _with_closed(table, names)
        table = table.drop(columns="mean_bin").astype(float).reindex(names)
        table.loc[~used, :] = 0
        table.loc[n == 0, :] = np.nan  # not measured, which is not the same as never seen
        tables[batch] = table
    return _merged_dispersions(batches.over(at, tables), names, cutoffs, n_top, batches)


def _with_closed(table: pd.DataFrame, names: pd.Index) -> pd.DataFrame:
    """Return the table with rows of NaN for features that rules of disclosure have closed, which are not variable."""
    marks = table.pop("highly_variable")
    return table.reindex(names).assign(highly_variable=marks.reindex(names, fill_value=False))


def _merged_dispersions(
    tables: Mapping[str, pd.DataFrame], names: pd.Index, cutoffs: Cutoffs, n_top: int | None, batches: Batches
) -> pd.DataFrame:
    """Means over batches, and the features that most batches mark."""
    values = {batch: table[_DISPERSIONS].to_numpy() for batch, table in tables.items()}
    total = run_sums([dispersions_of_batches(len(names))], alongside(tables, values), batches.outer)
    n = total["n"] + total["up"] + total["down"]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(n > 0, total["sum"] / np.maximum(n, 1), np.nan)
        mean = mean + np.where(total["up"] > 0, np.inf, 0) + np.where(total["down"] > 0, -np.inf, 0)
    table = pd.DataFrame(mean, index=names, columns=_DISPERSIONS).sort_index()
    marks = pd.Series(np.rint(total["sum"][:, 3]).astype(np.int64), index=names).loc[table.index]
    table["highly_variable_nbatches"] = marks
    table["highly_variable_intersection"] = marks == len(batches.holders)
    if n_top is None:
        table["dispersions_norm"] = table["dispersions_norm"].fillna(0)
        table["highly_variable"] = cutoffs.hold(table["means"].to_numpy(), table["dispersions_norm"].to_numpy())
        return table.loc[names]
    table = table.sort_values(["highly_variable_nbatches", "dispersions_norm"], ascending=False, na_position="last")
    table["highly_variable"] = np.arange(len(table)) < n_top
    return table.loc[names]


def dispersions_of_batches(n_vars: int) -> FederatedSum:
    """Return the sum of the batches' tables (n_vars, 4): what is finite, how many are, and how many are infinite.

    It is over batches: each is known to one site, or to all of them.
    """

    def local(values: np.ndarray, state: State) -> Arrays:
        finite = np.isfinite(values)
        return {
            "sum": np.where(finite, values, 0),
            "n": finite.astype(float),
            "up": (values == np.inf).astype(float),
            "down": (values == -np.inf).astype(float),
        }

    return FederatedSum(
        name="dispersions of batches",
        shapes=dict.fromkeys(("sum", "n", "up", "down"), (n_vars, len(_DISPERSIONS))),
        local=local,
        combine=lambda total, state: total,
        says="for each feature: sums over batches of its mean and dispersion in them, and in how many it is variable",
        scale={"sum": FINE_SCALE, "n": COUNT_SCALE, "up": COUNT_SCALE, "down": COUNT_SCALE},
    )


def _expm1(at: Mapping[str, SiteMatrix]) -> Transform:
    """From logarithms back to what they are of."""
    bases = {site: matrix.adata.uns.get("log1p", {}).get("base") for site, matrix in at.items()}
    base = log_base(agreed(at, "bases of logarithms", bases))
    factor = None if base is None else float(np.log(base))
    for site, matrix in at.items():
        largest = max((block.max() for _, block in matrix.blocks() if 0 not in block.shape), default=0)
        if largest * (factor or 1) > _LARGEST_LOG:
            raise DataError(
                f"{matrix.layer or 'X'} of {site} has {largest:g}, too large for a logarithm: flavor 'seurat' is for what "
                "infl.pp.log1p gives, 'seurat_v3' for counts"
            )

    def transform(block: Any) -> Any:
        block = block if factor is None else block * factor
        return block.expm1() if sparse.issparse(block) else np.expm1(block)

    return transform
