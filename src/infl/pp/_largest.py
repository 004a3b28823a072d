"""The largest part that one record, or one person, has in sums of values: what dominance is judged by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse

Blocks = Iterable[tuple[np.ndarray, np.ndarray, Any]]
"""Positions of some observations, (n,), the group of each among k, and their values, (n, n_vars)."""


def contributions(
    blocks: Blocks, k: int, n_vars: int, persons: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return by group and feature the largest contribution and the sum of all, (k, n_vars) each; NaN of features with values below 0.

    Parameters
    ----------
    blocks
        Of a site.
    k, n_vars
        How many groups and features.
    persons
        The number of the person of each observation, (n_obs,). None: each is one.

    Examples
    --------
    >>> largest, whole = contributions([(np.arange(3), np.array([0, 0, 1]), np.array([[1.0], [3.0], [2.0]]))], 2, 1)
    >>> largest.tolist(), whole.tolist()
    ([[3.0], [2.0]], [[4.0], [2.0]])
    """
    n = 0 if persons is None else int(persons.max(initial=0)) + 1
    largest, of_person = np.zeros((k, n_vars)), np.zeros((k * n, n_vars))
    whole, signed = np.zeros((k, n_vars)), np.zeros(n_vars, dtype=bool)
    for rows, codes, block in blocks:
        if sparse.issparse(block):
            block = block.tocsr()
            signed |= np.bincount(block.indices[block.data < 0], minlength=n_vars) > 0
        else:
            signed |= (block < 0).any(axis=0)
        whole += _added(codes, block, k)
        if persons is None:
            _raise(largest, codes, block)
        else:
            of_person += _added(codes * n + persons[rows], block, k * n)
    if persons is not None:
        largest = of_person.reshape(k, n, n_vars).max(axis=1, initial=0)
    return np.where(signed, np.nan, largest), np.where(signed, np.nan, whole)


def _added(codes: np.ndarray, block: Any, k: int) -> np.ndarray:
    """Sums by group, (k, n_vars)."""
    member = sparse.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(k, len(codes)))
    added = member @ block
    return np.asarray(added.todense() if sparse.issparse(added) else added, dtype=np.float64)


def _raise(largest: np.ndarray, codes: np.ndarray, block: Any) -> None:
    """Raise the largest values so far to those of a block."""
    if sparse.issparse(block):
        cell = np.repeat(codes, np.diff(block.indptr)).astype(np.int64) * largest.shape[1] + block.indices
        np.maximum.at(largest.reshape(-1), cell, block.data)
        return
    for group in np.unique(codes):
        largest[group] = np.maximum(largest[group], block[codes == group].max(axis=0))
