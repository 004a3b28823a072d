"""Variable features by a regression of variances on means: the flavours ``"seurat_v3"`` and ``"seurat_v3_paper"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from infl.pp._hvg_batches import Batches, moments_of_batch, moments_of_one_site
from infl.pp._matrix import SiteMatrix
from infl.pp._median import federated_median
from infl.pp._moments import Rows, federated_moments
from infl.pp._variable import expected_std
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State, run_sums
from infl.sums.cells import Cells, Sizes, small_numbers

if TYPE_CHECKING:
    from infl.keys import Keyring
    from infl.privacy.rules import DisclosureRules
    from infl.sums.shape import Arrays, Records


class _OfBatch(NamedTuple):
    """What a batch says of each feature: moments, normalised variance and rank, (n_vars,) each."""

    mean: np.ndarray
    var: np.ndarray
    norm: np.ndarray
    rank: np.ndarray


def by_regression(
    at: Mapping[str, SiteMatrix],
    batches: Batches,
    names: pd.Index,
    flavor: Any,
    span: float,
    n_top: int,
    key: Keyring | None,
) -> pd.DataFrame:
    """Return the table of ``"seurat_v3"`` and ``"seurat_v3_paper"``."""
    found = {batch: _ranked(at, batches, batch, span, n_top) for batch in batches.members}
    table = pd.DataFrame(index=names)
    if batches.named:
        marked = batches.over(at, {batch: (one.rank, one.norm) for batch, one in found.items()})
        total = run_sums([marks_of_batches(len(names))], marked, batches.outer)
        whole = federated_moments(at, key, purpose="variable features", textbook=True)
        ranks = batches.over(at, {batch: one.rank[None] for batch, one in found.items()})
        table["means"], table["variances"] = whole.mean, whole.var
        table["highly_variable_nbatches"] = np.rint(total["n"]).astype(np.int64)
        table["highly_variable_rank"] = federated_median(ranks, batches.outer, purpose="ranks", of_records=False)
        table["variances_norm"] = total["sum"] / np.maximum(total["of"], 1)
    else:
        (one,) = found.values()
        table["means"], table["variances"] = one.mean, one.var
        table["highly_variable_rank"], table["variances_norm"] = one.rank, one.norm
    order = {"highly_variable_rank": True} | ({"highly_variable_nbatches": False} if batches.named else {})
    keys = list(order) if flavor == "seurat_v3" else list(order)[::-1]
    first = table.sort_values(keys, ascending=[order[k] for k in keys], na_position="last").index[:n_top]
    table["highly_variable"] = table.index.isin(first)
    return table


def _ranked(at: Mapping[str, SiteMatrix], batches: Batches, batch: str, span: float, n_top: int) -> _OfBatch:
    """Return a batch's normalised variances, and the ranks of its `n_top` most variable features, NaN for others."""
    members = batches.members[batch]
    n, mean, var = (batches.named and moments_of_one_site(at, batches, batch)) or moments_of_batch(
        at, batches, batch, None
    )
    std = expected_std(mean, var, span, batch)
    clip = std * np.sqrt(n) + mean
    rows = batches.within(at, {site: Rows(at[site], chosen) for site, chosen in members.items()})
    total = run_sums([clipped_sum(len(mean))], rows, batches.inner, state={"clip": clip})
    clipped = total["sum"] + total["above"] * clip
    squares = total["square"] + total["above"] * clip**2
    with np.errstate(divide="ignore", invalid="ignore"):
        norm = (1 / ((n - 1) * np.square(std))) * ((n * np.square(mean)) + squares - 2 * clipped * mean)
    norm = np.where(n > 1, norm, np.nan)
    rank = np.argsort(np.argsort(-norm[None], axis=1), axis=1)[0].astype(np.float32)
    rank[(rank >= n_top) | np.isnan(norm)] = np.nan
    return _OfBatch(mean, var, norm, rank)


def clipped_sum(n_vars: int) -> FederatedSum:
    """Return the sum of values up to a bound, ``clip`` of the state, of their squares, and of how many are above it.

    Sums of counts stay whole numbers by that, where sums of clipped values would not.
    """
    names = ("sum", "square", "above")

    def local(site: Rows, state: State) -> Arrays:
        clip = state["clip"]
        sums = {name: np.zeros(n_vars) for name in ("sum", "square", "above")}
        for block in site.blocks():
            column = block.indices if sparse.issparse(block) else np.tile(np.arange(n_vars), block.shape[0])
            values = (block.data if sparse.issparse(block) else block.ravel()).astype(np.float64)
            above = values > clip[column]
            below = np.where(above, 0, values)
            for name, weights in (("sum", below), ("square", below**2), ("above", above.astype(float))):
                sums[name] += np.bincount(column, weights=weights, minlength=n_vars)
        return {name: np.where(site.matrix.present, value, 0) for name, value in sums.items()}

    def sizes(site: Rows, state: State, rules: DisclosureRules) -> Sizes:
        """What is above the bound follows from the sum of all values, so it must be of none or of enough."""
        above = local(site, state)["above"]
        return dict.fromkeys(names, small_numbers(above, rules))

    def records(site: Rows, state: State) -> Records:
        above = local(site, state)["above"]
        return {"above": above, "sum": site.n - above, "square": site.n - above}

    return FederatedSum(
        name="clipped sums",
        shapes=dict.fromkeys(("sum", "square", "above"), (n_vars,)),
        local=local,
        combine=lambda total, state: {**state, **total},
        says="for each feature: sums and sums of squares of values up to a bound, and how many are above it",
        scale={"sum": FINE_SCALE, "square": FINE_SCALE, "above": COUNT_SCALE},
        records=records,
        sensitivity={"above": 1},
        cells=Cells(
            sets=lambda site, state: site.sets(),
            measured=lambda site: site.matrix.present,
            on_features=names,
            features=n_vars,
            sizes=sizes,
            dominated=names,
            closed=lambda state: {name: np.isnan(state["clip"]) for name in names},
            partly=True,
        ),
    )


def marks_of_batches(n_vars: int) -> FederatedSum:
    """Return the sum over batches of how many mark a feature as variable, and of its normalised variances in them."""

    def local(batch: tuple[np.ndarray, np.ndarray], state: State) -> Arrays:
        ranks, variances = batch
        return {
            "n": (~np.isnan(ranks)).astype(float),
            "sum": np.nan_to_num(variances),
            "of": (~np.isnan(variances)).astype(float),
        }

    return FederatedSum(
        name="marks of batches",
        shapes=dict.fromkeys(("n", "sum", "of"), (n_vars,)),
        local=local,
        combine=lambda total, state: total,
        says="for each feature: in how many batches it is variable, and sum of its normalised variances in them",
        scale={"n": COUNT_SCALE, "sum": FINE_SCALE, "of": COUNT_SCALE},
    )
