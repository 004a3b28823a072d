"""What phenotypes are read from: rows of features with what is known of each, and modalities side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl.data.columns import layer_names
from infl.errors import DataError
from infl.models.matrix import FeatureMatrix
from infl.models.task import SiteData
from infl.sums.standardise import unit_of

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

Scale = Literal["none", "site", "rank", "sample"]
FUSED = "infl_fused"
"""In ``uns`` of what :func:`fused` made."""


class LabelledRows(SiteData):
    """Rows of a feature matrix, with class numbers or with what else is predicted.

    Parameters
    ----------
    x
        Features.
    labels
        Class numbers (n,) or other numbers (n, n_columns), or None for data to predict.
    train, validation
        Indices.
    standardise
        ``"site"``: scale features by this site's own moments over the training rows; ``"rank"``: after ranking within rows;
        ``"sample"``: each row by its own mean and deviation.
    balanced
        Let every class count alike in the site's own moments.
    """

    def __init__(
        self,
        x: FeatureMatrix,
        labels: Tensor | None,
        train: np.ndarray,
        validation: np.ndarray,
        *,
        standardise: Scale = "none",
        balanced: bool = False,
    ) -> None:
        self.x, self.labels, self.train, self.validation = x, labels, train, validation
        self.standardise, self.balanced = standardise, balanced

    def judge_on(self, rows: np.ndarray) -> None:
        """Judge rounds on these of the rows that have labels, and train on the others."""
        self.train = np.setdiff1d(np.union1d(self.train, self.validation), rows)
        self.validation = rows

    def rows(self, index: np.ndarray | slice) -> np.ndarray:
        """Return the features of the rows `index` (n_rows, n_features), float32."""
        rows = self._unscaled(index)
        if self.standardise == "none":
            return rows
        if self.standardise == "sample":
            deviation = np.nanstd(rows, 1, keepdims=True)
            return (rows - np.nanmean(rows, 1, keepdims=True)) / np.where(deviation > 0, deviation, 1)
        center, scale = self.own_moments
        return (rows - center) / scale

    def _unscaled(self, index: np.ndarray | slice) -> np.ndarray:
        rows = self.x.rows(index)
        if self.standardise != "rank":
            return rows
        from scipy.stats import rankdata

        ranks = rankdata(rows, axis=1, nan_policy="omit")  # from 1; what was not measured stays NaN
        return (ranks / (~np.isnan(rows)).sum(1, keepdims=True).clip(1)).astype(np.float32)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the training rows in a random order, for an epoch."""
        return self.x.order(self.train, rng)

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return features (n, n_features) and labels."""
        assert self.labels is not None
        return torch.from_numpy(self.rows(index)), self.labels[index]

    def reduce(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Add `function` (of rows as float64) over the training rows."""
        blocks = np.array_split(self.train, max(1, -(-len(self.train) // 2048)))
        return np.sum([function(self._unscaled(block).astype(np.float64)) for block in blocks], axis=0)

    @cached_property
    def own_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each feature over the training rows."""
        if self.labels is None or not self.balanced:
            return self.moments(np.ones(len(self.train)))
        labels = self.labels[self.train].numpy()
        return self.moments(1 / np.bincount(labels)[labels])

    def scale_by(self, center: np.ndarray, scale: np.ndarray) -> None:
        """Use these moments as the site's own."""
        self.own_moments = (center, scale)

    def moments(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each feature over the training rows, weighted (n_train,)."""
        of_row = np.zeros(self.x.shape[0])
        of_row[self.train] = weight / weight.sum()
        blocks = np.array_split(self.train, max(1, -(-len(self.train) // 2048)))

        def mean_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
            sums, total = np.zeros(self.x.shape[1]), np.zeros(self.x.shape[1])
            for block in blocks:
                x, w = self._unscaled(block).astype(np.float64), of_row[block]
                sums += w @ np.nan_to_num(function(x))
                total += w @ ~np.isnan(x)
            return sums / np.maximum(total, 1e-12)

        mean = mean_of(lambda x: x)
        return mean.astype(np.float32), unit_of(mean_of(lambda x: (x - mean) ** 2), mean).astype(np.float32)


def table_of(
    adata: AnnData | MuData, site: str, *, columns: Sequence[str], layer: str | None, modality: str | None
) -> AnnData:
    """Return the table that is read: an ``AnnData`` as it is, a modality with some columns, or all modalities side by side.

    Raises
    ------
    DataError
        No such modality; the message lists those there are.
    """
    from infl.data.check import tables

    if not hasattr(adata, "mod"):
        return adata
    modalities = tables(adata, site)
    if modality is None:
        return fused(adata, layer)
    if modality not in modalities:
        raise DataError(
            f"{site} has no modality {modality!r}: choose one of {', '.join(map(repr, modalities))}, "
            "or modality=None for all of them together"
        )
    table = modalities[modality]
    for column in columns:
        if column in adata.obs and column not in table.obs:
            table = with_column(table, column, adata.obs[column])
    return table


def scale_of(standardise: str, *, keyless: bool) -> Scale:
    """Return what a site's rows are scaled by, before the module; without the key its own moments stand in for all sites'.

    Examples
    --------
    >>> scale_of("federated", keyless=False), scale_of("federated", keyless=True), scale_of("rank", keyless=True)
    ('none', 'site', 'rank')
    """
    if standardise == "site" or (keyless and standardise == "federated"):
        return "site"
    own: dict[str, Scale] = {"sample": "sample", "rank": "rank"}
    return own.get(standardise, "none")


def check_overlap(present: Mapping[str, np.ndarray]) -> None:
    """Refuse a site that shares no feature with any other: nothing that it learned would help them, or they it."""
    for site, has in present.items():
        others = [other for name, other in present.items() if name != site]
        if others and not (has & np.any(others, axis=0)).any():
            raise DataError(
                f"{site} has no feature in common with any other site, so it would train a model of its own: "
                "harmonise the names (infl.pp.harmonise), or leave it out"
            )


def with_column(table: AnnData, name: str, values: pd.Series) -> AnnData:
    """Return the same matrices, wherever they lie, beside an ``obs`` with one column more.

    Examples
    --------
    >>> import anndata
    >>> table = anndata.AnnData(np.ones((2, 1), np.float32), obs=pd.DataFrame(index=["a", "b"]))
    >>> more = with_column(table, "kind", pd.Series({"b": "y", "a": "x"}))
    >>> more.obs["kind"].tolist(), more.X is table.X, "kind" in table.obs
    (['x', 'y'], True, False)
    """
    from anndata import AnnData

    obs = table.obs.assign(**{name: values.reindex(table.obs_names)})
    return AnnData(
        table.X, obs=obs, var=table.var, layers={k: table.layers[k] for k in layer_names(table)}, uns=dict(table.uns)
    )


def fused(mdata: MuData, layer: str | None = None) -> AnnData:
    """Return all modalities side by side, features named ``"rna:TP53"``; NaN where an observation lacks one.

    Examples
    --------
    >>> import anndata, mudata
    >>> parts = {
    ...     "rna": anndata.AnnData(np.ones((2, 1), np.float32), obs=pd.DataFrame(index=["a", "b"])),
    ...     "protein": anndata.AnnData(np.ones((1, 1), np.float32), obs=pd.DataFrame(index=["b"])),
    ... }
    >>> fused(mudata.MuData(parts)).X
    array([[ 1., nan],
           [ 1.,  1.]], dtype=float32)
    """
    from anndata import AnnData

    from infl.data.check import measured, tables

    blocks, names = [], []
    for modality, table in tables(mdata).items():
        features = measured(table)
        if not len(features) or not table.n_obs:
            continue
        x = FeatureMatrix(table, list(features), layer=layer, site=modality)
        block = np.full((mdata.n_obs, len(features)), np.nan, dtype=np.float32)
        block[mdata.obs_names.get_indexer(table.obs_names)] = x.rows(slice(None))
        blocks.append(block)
        names += [f"{modality}:{feature}" for feature in features]
    matrix = np.concatenate(blocks, axis=1) if blocks else np.empty((mdata.n_obs, 0), dtype=np.float32)
    return AnnData(matrix, obs=mdata.obs, var=pd.DataFrame(index=names), uns={FUSED: True})
