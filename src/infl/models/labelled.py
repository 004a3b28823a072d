"""Labelled rows of a feature matrix: their split, scaling and results, and several modalities side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl.data.columns import layer_names
from infl.data.labels import TEXT, as_labels
from infl.models.matrix import FeatureMatrix
from infl.models.task import SiteData

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

Scale = Literal["none", "site", "rank", "sample"]
FUSED = "infl_fused"
"""In ``uns`` of what :func:`fused` made."""


def has_numbers(numbers: np.ndarray, n: int) -> np.ndarray:
    """Return which of the numbers 0 … n − 1 there are (n,); others are passed over.

    Examples
    --------
    >>> has_numbers(np.array([[2], [-1], [0]]), 3).tolist()
    [True, False, True]
    """
    return np.isin(np.arange(n), numbers)


class LabelledRows(SiteData):
    """Rows of a feature matrix with class numbers.

    Parameters
    ----------
    x
        Features.
    labels
        Class numbers (n,), or None for data to predict.
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
        """Return features (n, n_features) and class numbers (n,)."""
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
        deviation = np.sqrt(mean_of(lambda x: (x - mean) ** 2))
        return mean.astype(np.float32), np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)


def write_classes(
    adata: AnnData | MuData,
    names: pd.Index,
    outputs: Mapping[str, np.ndarray],
    classes: Sequence[str],
    key_added: str,
    class_type: Sequence[str] = TEXT,
) -> None:
    """Write class, probability, probabilities and latent of the observations `names`; the others get missing values."""
    probability = outputs["probability"]
    codes = pd.Series(probability.argmax(1), index=names).reindex(adata.obs_names, fill_value=-1).to_numpy()
    adata.obs[f"{key_added}_prediction"] = as_labels(codes, classes, class_type)
    adata.obs[f"{key_added}_probability"] = pd.Series(probability.max(1), index=names).reindex(adata.obs_names)
    for key, values in {f"X_{key_added}": outputs["latent"], f"{key_added}_probabilities": probability}.items():
        write_rows(adata, key, values, names)


def write_rows(adata: AnnData | MuData, key: str, values: np.ndarray, names: pd.Index) -> None:
    """Write the rows of the observations `names` into ``obsm[key]``; the others get missing values."""
    everywhere = names.equals(adata.obs_names)  # then nothing is missing, and nothing is copied
    adata.obsm[key] = values if everywhere else pd.DataFrame(values, index=names).reindex(adata.obs_names).to_numpy()


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the chance that a positive scores above a negative (AUROC), ties half; nan without one of either.

    Scores (n,) that are not finite are left out.

    Examples
    --------
    >>> area_under_curve(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]))
    0.75
    """
    from scipy.stats import rankdata

    known = np.isfinite(scores)
    ranks, inside = rankdata(scores[known]), positive[known]
    n, m = int(inside.sum()), int((~inside).sum())
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def stratified_split(labels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split off `share` of the samples by systematic sampling within classes; one of each class stays in training.

    Samples are put in a random order, sorted by class, and every ``1 / share``-th is taken: each class gives its
    share up to one sample.

    Examples
    --------
    >>> train, validation = stratified_split(np.repeat([0, 1], 10), 0.2, np.random.default_rng(0))
    >>> len(train), len(validation)
    (16, 4)
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, first = np.unique(labels[order], return_index=True)
    free = np.delete(order, first)
    rate = min(1.0, share * (len(order) - (np.bincount(labels) == 1).sum()) / max(len(free), 1))
    taken = np.floor(np.arange(1, len(free) + 1) * rate + rng.random()).astype(int)
    validation = np.sort(free[np.diff(taken, prepend=0) > 0])
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def split_rows(
    names: pd.Index, labels: np.ndarray, share: float, rng: np.random.Generator, *, stratify: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Split off `share` of the samples: by class, or each by its name, whatever the others are.

    Under differential privacy one record more or less must not move another one from one part to the other.

    Examples
    --------
    >>> rows = pd.Index([f"cell_{i}" for i in range(1000)])
    >>> train, validation = split_rows(rows, np.zeros(1000), 0.2, np.random.default_rng(0), stratify=False)
    >>> fewer, _ = split_rows(rows[1:], np.zeros(999), 0.2, np.random.default_rng(0), stratify=False)
    >>> set(rows[1:][fewer]) == set(rows[train]) - {"cell_0"}
    True
    """
    if stratify:
        return stratified_split(labels, share, rng)
    key = rng.bytes(16)
    digests = [hashlib.blake2b(str(name).encode(), key=key, digest_size=8).digest() for name in names]
    drawn = np.frombuffer(b"".join(digests), dtype="<u8") * 2.0**-64
    return np.flatnonzero(drawn >= share), np.flatnonzero(drawn < share)


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
