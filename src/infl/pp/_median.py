"""Exact order statistics over sites, by halving: sites only ever say how many of their values are below a bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from infl.federation.sums import sum_over_sites

if TYPE_CHECKING:
    from infl.keys import Keyring


def federated_median(values: Mapping[str, np.ndarray], key: Keyring | None, *, purpose: str = "median") -> np.ndarray:
    """Median of each column over all sites, NaN left out; bit for bit what numpy gives for the pooled column.

    Floating-point numbers of one sign are ordered as their bits are, so halving the range of bits finds the middle values
    exactly, in as many rounds as the type has bits. Everybody learns, besides the result, what these bounds say: how many
    values are below it and below each bound on the way.

    Parameters
    ----------
    values
        Each site's columns, (n_i, k); all float32 or all float64.
    key
        Key ring or None.
    purpose
        What the seal is bound to.

    Returns
    -------
    numpy.ndarray
        (k,), in the type of the values; NaN for a column without values.

    Examples
    --------
    >>> import numpy as np
    >>> federated_median({"a": np.array([[1.0], [7.0]]), "b": np.array([[2.0], [3.0]])}, None)
    array([2.5])
    """
    dtype = next(iter(values.values())).dtype
    bits = dtype.itemsize * 8
    keys = {site: _ordered(column, bits) for site, column in values.items()}
    valid = {site: ~np.isnan(column) for site, column in values.items()}
    total = sum_over_sites({s: {"n": v.sum(axis=0).astype(float)} for s, v in valid.items()}, purpose, key)["n"]
    n = np.rint(total).astype(np.int64)
    ranks = np.stack([(n - 1) // 2, n // 2])  # of the two middle values, which are one where n is odd; (2, k)
    low = np.zeros(ranks.shape, dtype=np.uint64)
    high = np.full(ranks.shape, (1 << bits) - 1, dtype=np.uint64)
    for _ in range(bits):  # the value of rank r is the smallest v with more than r values ≤ v
        middle = low + (high - low) // np.uint64(2)
        parts = {
            site: {"below": ((keys[site][None] <= middle[:, None]) & valid[site][None]).sum(axis=1).astype(float)}
            for site in values
        }
        enough = np.rint(sum_over_sites(parts, purpose, key)["below"]) > ranks
        high = np.where(enough, middle, high)
        low = np.where(enough, low, middle + np.uint64(1))
    pair = _from_ordered(high, dtype)
    pair[:, n == 0] = np.nan
    return pair.mean(axis=0, dtype=dtype)


def _ordered(values: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers in the order of the values: all bits turned where negative, the sign bit alone where not."""
    raw = np.ascontiguousarray(values + 0).view(f"u{bits // 8}").astype(np.uint64)  # −0.0 + 0 is 0.0
    top = np.uint64(1 << (bits - 1))
    return np.where(raw & top, np.uint64((1 << bits) - 1) - raw, raw | top)


def _from_ordered(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Inverse of :func:`_ordered`."""
    bits = dtype.itemsize * 8
    top = np.uint64(1 << (bits - 1))
    raw = np.where(keys & top, keys ^ top, np.uint64((1 << bits) - 1) - keys)
    return raw.astype(f"u{bits // 8}").view(dtype)
