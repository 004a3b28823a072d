"""The coordinate field of two million weights on one core: how long, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import prod

import numpy as np
import torch

from _table import Table
from infl.nn import field as module
from infl.nn.field import BLOCK, TensorField, _Words, public_network, tensor_key
from infl.nn.lock import Field

REPEATS = 5
FIELD = Field(bytes(range(32)), b"benchmark")
MODELS = {  # tensors of two million weights together
    "one matrix": {"weight": ((1000, 2000), {})},
    "first layer, 31,250 named genes": {"weight": ((64, 31_250), {1: [f"gene {i}" for i in range(31_250)]})},
    "488 matrices of 64 × 64": {f"blocks.{i}.weight": ((64, 64), {}) for i in range(488)},
    "convolution, 512 × 434 × 3 × 3": {"weight": ((512, 434, 3, 3), {})},
}


def seconds(work: Callable[[], object]) -> list[float]:
    work()
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return times


def breakdown(name: str, shape: tuple[int, ...], units: dict) -> dict[str, float]:
    """Median seconds of each part of one tensor's field."""
    over = partial(TensorField, tensor_key(FIELD.subkey, FIELD.salt, name), shape, units, 1.0)
    lengths, size, network = [shape[axis] for axis in over().order], prod(shape), public_network()
    blocks = [min(BLOCK, size - start) for start in range(0, size, BLOCK)]
    u = np.random.default_rng(0).integers(0, 2**16, (4, BLOCK)).astype(np.uint16)

    def keystream() -> None:
        words = _Words(bytes(32), over()._identities, prod(lengths[len(units) :]))
        for n in blocks:
            words.read(n)

    parts = {
        "keys and keystream": keystream,
        "gains": lambda: over()._gains,
        "network": lambda: [network(u[:, :n]) for n in blocks],
    }
    result = {part: float(np.median(seconds(work))) for part, work in parts.items()}
    whole = float(np.median(seconds(lambda: over().fill(lambda *_: None))))
    return result | {"tanh, exp, signs, scale": whole - sum(result.values())}


if __name__ == "__main__":
    torch.set_num_threads(1)
    module.PER_WORKER = 1 << 40  # one core
    table = Table("lock_field")
    for model, tensors in MODELS.items():
        n = sum(prod(shape) for shape, _ in tensors.values())
        weights = {name: torch.randn(shape) for name, (shape, _) in tensors.items()}
        works = {
            "M and A": lambda t=tensors: [FIELD.factors(name, shape, units) for name, (shape, units) in t.items()],
            "M in place": lambda t=tensors, w=weights: [
                FIELD.multipliers(name, shape, units, out=w[name]) for name, (shape, units) in t.items()
            ],
            "lock": lambda t=tensors, w=weights: [FIELD.lock(name, w[name], units) for name, (_, units) in t.items()],
        }
        for what, work in works.items():
            times = seconds(work)
            more = {}
            if what == "M and A":
                parts = [breakdown(name, *tensor) for name, tensor in tensors.items()]
                more = {"parts": {part: round(sum(p[part] for p in parts), 4) for part in parts[0]}}
                print("   ", more["parts"])
            median = float(np.median(times))
            table.add(f"{model}: {what}, seconds for {n:,} weights", "< 1.5", times, ok=median < 1.5, **more)
    table.save()
