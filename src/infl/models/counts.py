"""Raw counts of cells with their covariates, as scvi-tools' modules take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from infl.errors import DataError
from infl.models.matrix import FeatureMatrix
from infl.models.task import SiteData

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

# The names under which scvi-tools' modules look for their input (scvi.REGISTRY_KEYS).
X, BATCH, LABELS = "X", "batch", "labels"
CATEGORICAL, CONTINUOUS, SIZE_FACTOR = "extra_categorical_covs", "extra_continuous_covs", "size_factor"


class CountRows(SiteData):
    """One site's raw counts and covariates, read in batches.

    Parameters
    ----------
    x
        Counts; checked here.
    site
        For messages.
    layer
        Where the counts are, for messages (None: ``X``).
    batch
        The site's number as batch covariate, or that of each cell's (n_obs,).
    covariates
        ``extra_categorical_covs``, ``extra_continuous_covs`` and ``size_factor``, those that there are
        (n_obs × n_columns).
    labels
        Class numbers (n_obs,), −1 where unknown; None for a model without classes.
    train, validation
        Indices.

    Raises
    ------
    DataError
        Values that are not counts, or cells without any.
    """

    def __init__(
        self,
        x: FeatureMatrix,
        *,
        site: str,
        layer: str | None = None,
        batch: int | np.ndarray = 0,
        covariates: Mapping[str, np.ndarray] | None = None,
        labels: np.ndarray | None = None,
        names: pd.Index,
        train: np.ndarray,
        validation: np.ndarray,
    ) -> None:
        check_counts(x, names, site=site, layer=layer)
        self.x, self.train, self.validation = x, train, validation
        self.number = torch.from_numpy(np.broadcast_to(np.int64(batch), x.shape[:1]).copy())[:, None]
        self.labels = None if labels is None else torch.from_numpy(labels)[:, None]
        self.covariates = {name: torch.from_numpy(values) for name, values in (covariates or {}).items()}

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the training rows in a random order, for an epoch."""
        return self.x.order(self.train, rng)

    def batch(self, index: np.ndarray | slice) -> dict[str, Tensor]:
        """Return what a module of scvi-tools takes: counts (n, n_genes), batch number (n, 1), covariates (n, …)."""
        x = torch.from_numpy(self.x.rows(index))
        tensors = {X: x, BATCH: self.number[index]}
        tensors[LABELS] = torch.zeros_like(tensors[BATCH]) if self.labels is None else self.labels[index]
        return tensors | {name: values[index] for name, values in self.covariates.items()}


def table_of(adata: AnnData | MuData, modality: str | None, site: str) -> AnnData:
    """Return the modality of a ``MuData`` that has the counts; an ``AnnData`` as it is.

    Raises
    ------
    DataError
        No such modality; the message lists those there are.
    """
    from infl.data.check import tables

    if not hasattr(adata, "mod"):
        return adata
    modalities = tables(adata, site)
    if modality not in modalities:
        raise DataError(
            f"{site} is a MuData: choose modality= one of {', '.join(map(repr, modalities))}, not {modality!r}"
        )
    return modalities[modality]


def check_counts(
    x: FeatureMatrix, names: pd.Index, *, site: str, layer: str | None = None, may_be_empty: bool = False
) -> np.ndarray:
    """Refuse values that are not raw counts, and cells that have none; return which cells have none (n_obs,).

    Parameters
    ----------
    x
        Matrix of the panel's features.
    names
        Of the cells.
    site, layer
        For messages.
    may_be_empty
        Take cells without a count.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> cells = ad.AnnData(np.log1p([[1.0, 0.0], [2.0, 3.0]]))
    >>> check_counts(FeatureMatrix(cells, cells.var_names, site="a"), cells.obs_names, site="a")
    Traceback (most recent call last):
    infl.errors.DataError: a has 0.693 in X, which is no count: raw counts are due, not normalised or logged values; \
pass layer=, the layer with the counts
    """
    if x.some_absent:
        raise DataError(
            f"{site} did not measure {int(x.absent.sum())} of the model's {x.shape[1]:,} features, and 0 would be made up: "
            "fit on features that all sites have"
        )
    empty = np.zeros(x.shape[0], dtype=bool)
    for chunk in x.chunks():
        rows = x.stored(chunk)
        values = rows.data if sparse.issparse(rows) else rows
        wrong = values[(values < 0) | (values != np.rint(values))]
        if wrong.size:
            raise DataError(
                f"{site} has {float(wrong.flat[0]):.3g} in {layer or 'X'}, which is no count: raw counts are due, "
                "not normalised or logged values; pass layer=, the layer with the counts"
            )
        empty[chunk] = np.asarray(rows.sum(1)).ravel() == 0
    if empty.any() and not may_be_empty:
        raise DataError(
            f"{site} has {int(empty.sum())} cells without any count in the {x.shape[1]:,} features of the panel, first "
            f"{names[int(np.argmax(empty))]!r}: leave them out, e.g. with sc.pp.filter_cells(adata, min_counts=1)"
        )
    return empty


def log_normalised(counts: np.ndarray, target_sum: float) -> np.ndarray:
    """Return log1p of counts scaled to a sum.

    Examples
    --------
    >>> log_normalised(np.array([[1.0, 3.0]]), 4.0).round(3)
    array([[0.693, 1.386]])
    """
    return np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * target_sum)


def categories_of(tables: Mapping[str, AnnData], columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the categories of covariates over all sites, sorted.

    Raises
    ------
    DataError
        A site lacks the column, or has cells without a value.
    """
    from infl.data.columns import obs_column
    from infl.data.labels import label_text

    found: dict[str, list[str]] = {}
    for column in columns:
        values = [
            obs_column(table, column, where=site, role="categorical_covariates") for site, table in tables.items()
        ]
        found[column] = sorted({label for series in values for label in label_text(series).unique()})
    return found


def codes(column: pd.Series, categories: Sequence[str], site: str) -> np.ndarray:
    """Return the numbers of a column's values among agreed categories (n_obs,).

    Raises
    ------
    DataError
        A value that the model was not fitted with.
    """
    import pandas as pd

    from infl.data.labels import label_text

    numbers = pd.Index(list(categories), dtype=object).get_indexer(label_text(column)).astype(np.int64)
    if (numbers < 0).any():
        stranger = str(column.to_numpy()[int(np.argmax(numbers < 0))])
        raise DataError(
            f"{site} has {stranger!r} in obs[{column.name!r}], which the model does not know: "
            f"it has {', '.join(map(repr, list(categories)[:6]))}"
        )
    return numbers
