"""Dropout whose masks are drawn by the caller: sites or weights that are trained as a stack need masks of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn


@contextmanager
def dropout_by(module: nn.Module, drop: Callable[[nn.Dropout, Tensor], Tensor]) -> Iterator[None]:
    """Have `drop` do what each dropout of a module does, for as long as the context lasts.

    Parameters
    ----------
    module
        Its parts of the class ``nn.Dropout`` with a rate above 0 are meant.
    drop
        Takes the part and its input, and returns its output.

    Examples
    --------
    >>> import torch
    >>> module = nn.Sequential(nn.Dropout(0.5))
    >>> with dropout_by(module, lambda part, x: x * part.p):
    ...     module(torch.ones(2))
    tensor([0.5000, 0.5000])
    """
    parts = [part for part in module.modules() if isinstance(part, nn.Dropout) and part.p > 0]
    try:
        for part in parts:
            part.forward = partial(drop, part)  # type: ignore[method-assign]
        yield
    finally:
        for part in parts:
            del part.forward
