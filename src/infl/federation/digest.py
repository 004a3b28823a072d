"""A digest of what a task reads of a site's data: a run goes on with the data that it began with, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from torch import Tensor, nn

from infl.data.values import in_rows
from infl.models.disk import on_disk
from infl.models.matrix import FeatureMatrix

BLOCK = 2048
"""Rows that are read at a time."""


def data_digest(data: Any, secret: bytes) -> str:
    """Return a digest of a site's data as a task reads them, which reveals nothing to those without the secret.

    Matrices count by their values, read in blocks, and not by how they are stored: the same counts dense, sparse or on
    disk have one digest.

    Parameters
    ----------
    data
        What :meth:`infl.models.Task.read` returned, before it is used.
    secret
        Key of the digest, at most 64 bytes.

    Examples
    --------
    >>> dense = np.array([[0.0, 1.0], [2.0, 0.0]])
    >>> data_digest(sparse.csr_matrix(dense), b"secret") == data_digest(sparse.csc_matrix(dense), b"secret")
    True
    >>> data_digest(dense, b"secret") == data_digest(dense + 1, b"secret")
    False
    """
    state = hashlib.blake2b(key=secret, person=b"infl data", digest_size=32)
    _feed(state, data, set())
    return state.hexdigest()


def _feed(state: Any, value: Any, above: set[int]) -> None:
    """Add a value, and all that it is made of, to the digest; `above` are the objects that it is a part of."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    elif isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        value = value.to_numpy()
    if isinstance(value, FeatureMatrix):
        _feed(state, value.absent, above)
        for rows in value.chunks(BLOCK):
            _feed(state, sparse.csr_matrix(value.stored(rows)), above)
    elif sparse.issparse(value):
        stored = in_rows(value).copy()
        stored.eliminate_zeros()
        for part in (stored.indptr.astype(np.int64), stored.indices.astype(np.int64), stored.data):
            _feed(state, part, above)
    elif on_disk(value):
        for start in range(0, value.shape[0], BLOCK):
            _feed(state, value[start : start + BLOCK], above)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        state.update(f"{value.dtype.str}{value.shape}".encode())
        state.update(np.ascontiguousarray(value).view(np.uint8).data if value.size else b"")
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            state.update(f"{name}:".encode())
            _feed(state, value[name], above)
    elif isinstance(value, list | tuple | np.ndarray):
        state.update(f"{len(value)} parts".encode())
        for part in value:
            _feed(state, part, above)
    elif value is None or isinstance(value, str | bytes | int | float | np.generic):
        state.update(f"{type(value).__name__} {value!r};".encode())
    elif hasattr(value, "__dict__") and not callable(value) and id(value) not in above:
        _feed(state, {n: v for n, v in vars(value).items() if not isinstance(v, nn.Module)}, above | {id(value)})
    else:
        state.update(type(value).__name__.encode())  # functions and networks are no data
