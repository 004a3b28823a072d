"""Substitute fields: what a thief trains over stored weights instead of these, in the hope that it does what the key does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import vmap

from infl.attacks._kit.tuning import Stack, train
from infl.nn.field import KAPPA

RANK = 4
"""Of a substitute field that is smooth over rows and columns."""


def _gains(shape: torch.Size) -> dict[str, Tensor]:
    return {
        f"gain {axis}": torch.zeros([n if a == axis else 1 for a in range(len(shape))]) for axis, n in enumerate(shape)
    }


def _sum(numbers: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the gains of all axes, broadcast."""
    return torch.stack(torch.broadcast_tensors(*(v for n, v in numbers.items() if n.startswith("gain")))).sum(0)


def _factors(shape: torch.Size) -> dict[str, Tensor]:
    rows, columns = shape[0], shape[1:].numel()
    return {
        f"{part} {side}": 0.01 * torch.randn(size)
        for part in ("factor", "term")
        for side, size in (("left", (rows, RANK)), ("right", (RANK, columns)))
    }


FIELDS: dict[
    str, tuple[Callable[[torch.Size], dict[str, Tensor]], Callable[[Tensor, Mapping[str, Tensor]], Tensor]]
] = {
    "gains": (
        _gains,
        lambda w, f: w * torch.exp(KAPPA * _sum(f)),
    ),
    "smooth": (
        _factors,
        lambda w, f: (
            w * (1 + (f["factor left"] @ f["factor right"]).view_as(w))
            + (f["term left"] @ f["term right"]).view_as(w) * w.std(correction=0).clamp(min=1e-3)
        ),
    ),
    "whole": (
        lambda shape: (
            {"sign": torch.full(shape, 0.5), "log size": torch.zeros(shape), "term": torch.zeros(shape)} | _gains(shape)
        ),
        lambda w, f: (
            w * torch.tanh(f["sign"]) * torch.exp(KAPPA * (torch.tanh(f["log size"]) + _sum(f)))
            + f["term"] * w.std(correction=0).clamp(min=1e-3)
        ),
    ),
}
"""Substitute fields: what is trained of a tensor's shape, and the effective weights of stored ones. Gains of rows and columns;
a factor and a term of low rank, as a smooth field over rows and columns would have; and all that the lock has, in its own form:
a sign for each weight, relaxed, a size, gains and a term."""


def train_field(
    module: nn.Module, begin: Stack, rates: Sequence[float], x: Tensor, y: Tensor, *, field: str, steps: int
) -> dict[str, Tensor]:
    """Train a substitute field over fixed weights. A tensor of one dimension is trained by itself: it has no rows and columns."""
    make, effective = FIELDS[field]
    large = {n: w for n, w in begin.items() if w.ndim > 2}
    fields = {n: make(w.shape[1:]) for n, w in large.items()}
    trained = {n: w for n, w in begin.items() if n not in large} | {
        _part(n, k): v.expand(len(begin[n]), *v.shape) for n, numbers in fields.items() for k, v in numbers.items()
    }

    def opened(row: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            n: effective(row[n], {k: row[_part(n, k)] for k in fields[n]}) if n in fields else row[n] for n in begin
        }

    result = train(
        module,
        trained,
        rates,
        lambda logits: nn.functional.cross_entropy(logits, y),
        x,
        effective=opened,
        fixed=large,
        quicker=lambda name: 1.0 if name in begin else 10.0,
        steps=steps,
    )
    fixed = {n: torch.cat([w] * len(rates)) for n, w in large.items()}
    with torch.no_grad():
        return vmap(opened)(result | fixed)


def _part(name: str, number: str) -> str:
    return f"{name} {number}"
