"""How many threads do work, and when one is best.

OpenMP's threads wait for each other by spinning, and a core that another process has does not spin: then every operation
that is shared out takes a turn of the scheduler, and a small model's round takes ten times as long. numba (under UMAP) sets
the number of threads of the OpenMP library that it shares with torch, so it happens to those, too, who asked for one thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

from infl._isolation import Shared

SMALL = 1 << 21
"""Weights up to which a model counts as small."""
LITTLE = 1 << 28
"""Multiplications up to which OpenMP's threads wait longer than they work."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads_for(n_weights: int) -> Iterator[None]:
    """Have torch work on one thread for a small model, on as many as the user has set for others."""
    import torch

    with _THREADS as users:
        # a new thread begins with the number that another one has set for its own work meanwhile
        before = torch.get_num_threads() if _inside.get() else users
        token = _inside.set(True)
        torch.set_num_threads(1 if n_weights <= SMALL else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            _inside.reset(token)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Have BLAS work on one thread: a solver stops elsewhere with another number, which worker processes have."""
    with _BLAS:
        yield


@contextmanager
def openmp_threads_for(n_multiplications: int) -> Iterator[None]:
    """Have OpenMP work on one thread where it has little to do at a time, on as many as the user has set elsewhere."""
    with _OPENMP if n_multiplications <= LITTLE else nullcontext():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch, BLAS and OpenMP work on one thread."""
    with threads_for(0), one_blas_thread(), openmp_threads_for(0):
        yield


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _set_torch_threads(number: int) -> None:
    import torch

    torch.set_num_threads(number)


def _one_of(what: str) -> Any:
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api=what)


_THREADS = Shared(_torch_threads, _set_torch_threads)
_BLAS, _OPENMP = (
    Shared(partial(_one_of, what), lambda limits: limits.restore_original_limits()) for what in ("blas", "openmp")
)
_inside: ContextVar[bool] = ContextVar("_inside", default=False)
