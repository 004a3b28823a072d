"""Rows with labels: their split, which labels there are, how scores tell them apart, and where results are written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from numbers import Number
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infl.data.labels import TEXT, as_labels, label_text
from infl.errors import DataError, SettingsError

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


def has_numbers(numbers: np.ndarray, n: int) -> np.ndarray:
    """Return which of the numbers 0 … n − 1 there are (n,); others are passed over.

    Examples
    --------
    >>> has_numbers(np.array([[2], [-1], [0]]), 3).tolist()
    [True, False, True]
    """
    return np.isin(np.arange(n), numbers)


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


def check_unmixed(values: pd.Series, name: str, where: str, role: str = "target") -> None:
    """Refuse a column of classes or levels that mixes words and numbers; they are counted, and no observation named.

    Raises
    ------
    DataError
        It does.

    Examples
    --------
    >>> check_unmixed(pd.Series(["a", "b", None]), "kind", "site_1")
    """
    if values.dtype != object:
        return
    words = int(values.map(lambda value: isinstance(value, str)).sum())
    numbers = int(values.dropna().map(lambda value: isinstance(value, Number) and not isinstance(value, bool)).sum())
    if words and numbers:
        raise DataError(
            f"{role} {name!r} mixes words and numbers at {where}, {words} and {numbers} of {len(values)} observations: correct "
            "them, or make all of them words with .astype(str)"
        )


UNASSIGNED = "unassigned"
"""Label of observations that a model is too unsure of."""


def check_unassigned(classes: Sequence[str]) -> None:
    """Refuse to call observations unassigned where a class is called so.

    Raises
    ------
    SettingsError
        It is.
    """
    if UNASSIGNED in classes:
        raise SettingsError(f"reject=: a class of the model is called {UNASSIGNED!r} itself; leave reject= out")


def with_unassigned(
    labels: pd.Series, probability: np.ndarray, classes: Sequence[str], threshold: float
) -> pd.Categorical:
    """Return labels as text, ``"unassigned"`` where the probability is below the threshold; missing ones stay missing.

    Examples
    --------
    >>> with_unassigned(pd.Series([3, 4]), np.array([0.6, 0.9]), ["3", "4"], 0.7).tolist()
    ['unassigned', '4']
    """
    text = label_text(labels)
    unsure = (np.asarray(probability) < threshold) & text.notna().to_numpy()
    return pd.Categorical(text.where(~unsure, UNASSIGNED), categories=[*classes, UNASSIGNED])


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
