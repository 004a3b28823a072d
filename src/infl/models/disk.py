"""Rows of a matrix that stays on disk: sparse or dense, in HDF5 or zarr, read in contiguous runs.

Random rows one by one cost a system call and a decompressed chunk each. So an epoch's order is shuffled by blocks: blocks of
consecutive rows in random order, and the rows of a window of several blocks in random order. Each block is read once an
epoch, by a thread that reads ahead while the window before is trained on.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from scipy import sparse

from infl._lazy import is_lazy
from infl.data.values import in_rows

BLOCK = 256
"""Consecutive rows that are read together."""
WINDOW = 1 << 23
"""Bytes of the blocks that are shuffled together; as many are read ahead."""
GAP = 64
"""Rows that are read though nobody asked for them, where that saves a run."""
BATCH = 512
"""Most rows of a training batch; more are read as they lie."""


def on_disk(matrix: Any) -> bool:
    """Whether a matrix is neither an array nor a sparse matrix in memory, but what reads from a file or computes."""
    if sparse.issparse(matrix) or isinstance(matrix, np.ndarray):
        return False
    modules = ("anndata", "h5py", "zarr")
    return is_lazy(matrix) or (hasattr(matrix, "shape") and type(matrix).__module__.partition(".")[0] in modules)


class Blocks:
    """Reads rows of a matrix on disk.

    Parameters
    ----------
    matrix
        Takes slices of rows: a backed sparse or dense matrix.
    n_rows
        Number of rows.

    Examples
    --------
    >>> blocks = Blocks(np.arange(20.0).reshape(10, 2), 10)
    >>> blocks.read(np.array([7, 2, 2])).tolist()
    [[14.0, 15.0], [4.0, 5.0], [4.0, 5.0]]
    >>> sorted(blocks.shuffled(np.arange(10), np.random.default_rng(0)).tolist()) == list(range(10))
    True
    >>> blocks.dense(np.array([7, 2])).tolist()
    [[14.0, 15.0], [4.0, 5.0]]
    """

    def __init__(self, matrix: Any, n_rows: int) -> None:
        self._matrix, self._n_rows = matrix, n_rows
        self._kept: OrderedDict[int, Any] = OrderedDict()  # blocks by number, the last used last
        self._reading: dict[int, Future] = {}
        self._ahead: deque[int] | None = None  # blocks in the order in which an epoch begins to need them
        self._n_kept = 1

    # -- as they lie -----------------------------------------------------------------------------------------------
    def read(self, index: np.ndarray | slice) -> Any:
        """Return the rows `index` as they are stored, sparse or dense."""
        if isinstance(index, slice) and index.step in (None, 1):
            start, stop, _ = index.indices(self._n_rows)
            return self._slice(start, max(start, stop))
        increasing, back = np.unique(np.arange(self._n_rows)[index], return_inverse=True)
        parts = [self._slice(run[0], run[-1] + 1)[run - run[0]] for run in _runs(increasing, GAP)]
        if not parts:
            return self._slice(0, 0)
        if len(parts) == 1:
            rows = parts[0]
        else:
            rows = sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)
        return rows if np.array_equal(back, np.arange(len(back))) else rows[back]

    def _slice(self, start: int, stop: int) -> Any:
        return in_rows(self._matrix[int(start) : int(stop)])

    # -- shuffled --------------------------------------------------------------------------------------------------
    def shuffled(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return sorted `rows` in a random order by blocks, and expect them to be asked for in it."""
        parts = np.split(rows, np.flatnonzero(np.diff(rows // BLOCK)) + 1) if len(rows) else []
        parts = [parts[i] for i in rng.permutation(len(parts))]
        self._n_kept = self._window()
        self._ahead = self._ahead or deque()
        self._ahead.extend(int(part[0]) // BLOCK for part in parts)
        windows = [np.concatenate(parts[i : i + self._n_kept]) for i in range(0, len(parts), self._n_kept)]
        return np.concatenate([rng.permutation(window) for window in windows]) if windows else rows

    def _window(self) -> int:
        """Return how many blocks make a window."""
        block = self._slice(0, min(BLOCK, self._n_rows))
        size = block.data.nbytes + block.indices.nbytes if sparse.issparse(block) else block.nbytes
        return max(4, WINDOW // max(size, 1))

    def expects(self, index: np.ndarray) -> bool:
        """Whether `index` may be a batch of an epoch's order."""
        return self._ahead is not None and len(index) <= BATCH

    def dense(self, index: np.ndarray) -> np.ndarray:
        """Return the rows `index` of an epoch's order, dense, float32."""
        out = np.zeros((len(index), self._matrix.shape[1]), dtype=np.float32)
        for place, row in enumerate(index.tolist()):
            block = self._block(row // BLOCK)
            if isinstance(block, tuple):
                indptr, indices, data = block
                entries = slice(indptr[row % BLOCK], indptr[row % BLOCK + 1])
                out[place, indices[entries]] = data[entries]
            else:
                out[place] = block[row % BLOCK]
        return out

    def _block(self, number: int) -> Any:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        assert self._ahead is not None
        if number in self._reading:
            block = self._reading.pop(number).result()
        else:
            with suppress(ValueError):
                self._ahead.remove(number)
            block = self._load(number)
        self._kept[number] = block
        while len(self._kept) > self._n_kept + 4:  # a batch may begin in one window and end in the next
            self._kept.popitem(last=False)
        while self._ahead and len(self._reading) < self._n_kept:
            following = self._ahead.popleft()
            if following not in self._kept and following not in self._reading:
                self._reading[following] = _reader().submit(self._load, following)
        return block

    def _load(self, number: int) -> Any:
        rows = self._slice(number * BLOCK, min((number + 1) * BLOCK, self._n_rows))
        return (rows.indptr.tolist(), rows.indices, rows.data) if sparse.issparse(rows) else rows


@cache
def _reader() -> ThreadPoolExecutor:
    """Return the thread that reads ahead; HDF5 reads one thing at a time anyway."""
    return ThreadPoolExecutor(1, thread_name_prefix="infl reader")


def _runs(increasing: np.ndarray, gap: int) -> Iterator[np.ndarray]:
    """Cut increasing numbers where the next is more than `gap` away.

    Examples
    --------
    >>> [run.tolist() for run in _runs(np.array([1, 2, 9, 10]), 4)]
    [[1, 2], [9, 10]]
    """
    if len(increasing):
        yield from np.split(increasing, np.flatnonzero(np.diff(increasing) > gap) + 1)
