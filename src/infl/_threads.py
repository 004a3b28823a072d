"""How many threads do work, and when one is best.

OpenMP's threads wait for each other by spinning, and a core that another process has does not spin: then every operation
that is shared out takes a turn of the scheduler, and a small model's round takes ten times as long. numba (under UMAP) sets
the number of threads of the OpenMP library that it shares with torch, so it happens to those, too, who asked for one thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SMALL = 1 << 21
"""Weights up to which a model counts as small."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads_for(n_weights: int) -> Iterator[None]:
    """Have torch work on one thread for a small model, on as many as the user has set for others."""
    import torch

    before = torch.get_num_threads()
    if n_weights <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Have BLAS work on one thread: a solver stops elsewhere with another number, which worker processes have."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch, BLAS and OpenMP work on one thread."""
    from threadpoolctl import threadpool_limits

    with threads_for(0), threadpool_limits(1):
        yield
