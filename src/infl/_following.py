"""Tensors that follow a model to its device, whatever code computes with them.

Inside the mode tensors are made on the device; those that come from data in memory are brought there when they meet others; what is
written to stays where it is; numpy gets copies. Random numbers are drawn on the processor, from the generators that are in use there, so
batches, dropout and noise are the same wherever a model computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Following(TorchFunctionMode):
    """Sees each function of torch that is called, and is off while it answers.

    Parameters
    ----------
    device
        Where to compute.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function with its arguments where they should be."""
        return SPECIAL.get(func, _together)(func, self.device, args, kwargs or {})


def _together(func: Callable, device: torch.device, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute where the result is written to, or else on the device, if any argument is there."""
    if len({tensor.device for tensor in _tensors((args, kwargs))}) > 1 and func.__name__ not in ("__get__", "__set__"):
        written = kwargs.get("out", args[0] if _in_place(func.__name__) else None)
        to = getattr(written, "device", device)
        args, kwargs = _moved(args, to), _moved(kwargs, to)
    return func(*args, **kwargs)


def _in_place(name: str) -> bool:
    """Whether a function of this name writes into its first argument.

    Examples
    --------
    >>> [_in_place(name) for name in ("add_", "__iadd__", "__setitem__", "add", "__invert__")]
    [True, True, True, False, False]
    """
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name not in ("__invert__", "__int__", "__index__"))
    return name.endswith("_")


def _made(func: Callable, device: torch.device, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs | ({"device": device} if kwargs.get("device") is None else {}))


def _copied(func: Callable, device: torch.device, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(args[0].cpu(), *args[1:], **kwargs)


def _brought(func: Callable, device: torch.device, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make on the processor, and bring the values to the device."""
    own = {name: value for name, value in kwargs.items() if name not in ("device", "requires_grad")}
    values = func(*_moved(args, "cpu"), **_moved(own, "cpu")).to(kwargs.get("device") or device)
    return values.requires_grad_() if kwargs.get("requires_grad") else values


def _filled(func: Callable, device: torch.device, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    values = torch.empty_like(args[0], device="cpu")
    return args[0].copy_(func(values, *_moved(args[1:], "cpu"), **_moved(kwargs, "cpu")))


def _dropped(func: Callable, device: torch.device, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return _dropout(*args, **kwargs)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop as torch does on the processor."""
    if not training or p == 0:
        return input
    kept = torch.empty_like(input, device="cpu", requires_grad=False).bernoulli_(1 - p)
    kept = kept.div_(1 - p) if p < 1 else kept.zero_()
    return input.mul_(kept.to(input.device)) if inplace else input * kept.to(input.device)


def _attended(func: Callable, device: torch.device, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    args, kwargs = _moved(args, device), _moved(kwargs, device)
    return _attention(*args, **kwargs) if (kwargs.get("dropout_p") or args[4:5] > (0.0,)) else func(*args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend with dropout, whose mask torch would draw on the device."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return _dropout(scores.softmax(-1), dropout_p) @ value


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors among arguments, and in lists of them."""
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from _tensors(value)


def _moved(values: Any, to: torch.device | str) -> Any:
    """Return arguments with their tensors on a device."""
    if isinstance(values, torch.Tensor):
        return values.to(to)
    if isinstance(values, dict):
        return {name: _moved(value, to) for name, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(_moved(value, to) for value in values)
    return values


MADE = ["empty", "zeros", "ones", "full", "eye", "arange", "linspace", "logspace", "empty_strided"]
GIVEN = [
    "tensor",
    "as_tensor",
    "scalar_tensor",
    "rand_like",
    "randn_like",
    "randint_like",
    "rand",
    "randn",
    "randint",
    "randperm",
    "normal",
]
DRAWN = ["bernoulli", "multinomial", "poisson", "binomial"]
FILLED = ["normal_", "uniform_", "bernoulli_", "random_", "exponential_", "cauchy_", "geometric_", "log_normal_"]
SPECIAL: dict[Callable, Callable] = {
    **dict.fromkeys((getattr(torch, name) for name in MADE), _made),
    **dict.fromkeys((getattr(torch, name) for name in (*GIVEN, *DRAWN)), _brought),
    **dict.fromkeys((Tensor.bernoulli, Tensor.multinomial), _brought),
    **dict.fromkeys((getattr(Tensor, name) for name in FILLED), _filled),
    **dict.fromkeys((Tensor.numpy, Tensor.__array__), _copied),
    F.dropout: _dropped,
    F.scaled_dot_product_attention: _attended,
}
"""What is done for functions that do more than compute from their arguments."""
