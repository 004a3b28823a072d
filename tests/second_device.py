"""A second device for machines that have none: the numbers lie in the processor's memory, and tensors of two devices refuse to meet.

Its tensors call themselves of torch's device ``"meta:1"``. Inside :class:`SecondDevice` torch can move tensors there and back and compute
on them; what mixes devices, reads values as an array or draws random numbers there raises an error, as a GPU would or should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SECOND = torch.device("meta", 1)
aten: Any = torch.ops.aten
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""These take places on the processor for values on a device, as with CUDA."""


class There(Tensor):
    """A tensor on the second device; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        found = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=SECOND,
        )
        found.held = held
        return found

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            args[0].held = args[1].held
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While it lasts there is a second device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Return what a function of torch gives, on the device of its arguments."""
    given = list(tensors((args, kwargs)))
    there = [t for t in given if isinstance(t, There)]
    to = kwargs.get("device")
    moves = func in (aten._to_copy.default, aten.copy_.default)
    if there and not moves and func not in INDEXED:
        stray = [t for t in given if not isinstance(t, There) and t.dim()]
        if stray:
            raise RuntimeError(f"{func}: tensors on two devices, {tuple(stray[0].shape)} on the processor")
    goes = (
        to == SECOND
        if to is not None
        else bool(there) and not (func is aten.copy_.default and given[0] is not there[0])
    )
    if goes and torch.Tag.nondeterministic_seeded in func.tags:
        raise RuntimeError(f"{func}: random numbers are drawn on the processor")
    if not there and not goes:
        return func(*args, **kwargs)
    known = {id(t.held): t for t in there}
    if to is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    found = func(*held(args), **held(kwargs))
    if func is aten.copy_.default:
        return args[0]
    return wrapped(found, known) if goes else found


def tensors(values: Any) -> Iterator[Tensor]:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from tensors(value)


def held(values: Any) -> Any:
    if isinstance(values, There):
        return values.held
    if isinstance(values, dict):
        return {name: held(value) for name, value in values.items()}
    return type(values)(map(held, values)) if type(values) in (list, tuple) else values


def wrapped(values: Any, known: dict[int, There]) -> Any:
    if isinstance(values, Tensor):
        return known.get(id(values)) if id(values) in known else There(values)
    return type(values)(wrapped(v, known) for v in values) if type(values) in (list, tuple) else values
