"""What a thief makes of stored weights who knows the code and, the run's seed being public, every initial weight."""

from __future__ import annotations

from functools import cache
from math import log

import numpy as np
import torch
from torch import Tensor

from _many import FIRST, Weights
from infl.nn import field
from infl.nn.field import AMPLITUDE, WIDTH, TensorField, public_network


def estimates(stored: Weights, start: Weights, strength: float = 1.0) -> dict[str, Weights]:
    """Everything that we could think of; each attack's guess at the effective weights."""
    matrices = [name for name, weight in stored.items() if weight.dim() == 3]
    gains = {
        name: log_gains(stored[name], start[name], scale(name, stored[name], strength), strength) for name in matrices
    }

    def guess(matrix) -> Weights:  # vectors: the initial ones, which are better than any stored ones
        return {name: matrix(name) if name in matrices else start[name] for name in stored}

    found = {
        "as stored": stored,
        "matrices as stored": guess(lambda name: stored[name]),
        "rescaled": guess(lambda name: rescaled(stored[name], start[name])),
        "sign of the start": guess(lambda name: stored[name].abs() * start[name].sign()),
        "sign of the start, gains removed": guess(
            lambda name: (stored[name] * gains[name].exp()).abs() * start[name].sign()
        ),
    }
    for source in ("rescaled", "sign of the start, gains removed"):
        for part in ("embed", "blocks", "head"):
            found[f"{source}, {part} only"] = {
                name: found[source][name] if name.startswith(part) else start[name] for name in stored
            }
        found[f"{source}, half way"] = {name: start[name].lerp(found[source][name], 0.5) for name in stored}
    # 0.02 is about how far training goes; other guesses do no better
    mean = guess(lambda name: posterior(name, stored[name], start[name], gains[name], 0.02, strength))
    for factor in (1, 10):
        found[f"posterior mean × {factor}"] = {n: start[n] + factor * (mean[n] - start[n]) for n in stored}
    found["posterior mean, first layer × 30"] = {
        n: start[n] + (30 if n == FIRST else 1) * (mean[n] - start[n]) for n in stored
    }
    return found


def scale(name: str, weight: Tensor, strength: float) -> float:
    """Standard deviation of A, which follows from public things."""
    return TensorField(b"", tuple(weight.shape[1:]), {1: ()} if name == FIRST else {}, strength).scale


def rescaled(stored: Tensor, start: Tensor) -> Tensor:
    """Stored weights at the root mean square of the initial ones."""
    return stored * (start.square().mean((1, 2), keepdim=True) / stored.square().mean((1, 2), keepdim=True)).sqrt()


def log_gains(stored: Tensor, start: Tensor, sd: float, strength: float) -> Tensor:
    """Row and column gains, read off mean log |stored| and shrunken to their public distribution."""
    noise = torch.randn((16, *start.shape), generator=torch.Generator().manual_seed(0))
    expected = (start + sd * noise).abs().clamp(min=1e-9).log().mean(0)
    ratio = expected - stored.abs().clamp(min=1e-9).log()  # log |M| and noise
    row = ratio.mean(2, keepdim=True)
    column = (ratio - row).mean(1, keepdim=True)
    rest = (ratio - row - column).var((1, 2), keepdim=True)
    bound = field.KAPPA * field.GAIN * strength
    prior = bound**2 / 3
    row = row * prior / (prior + rest / start.shape[2])
    column = column * prior / (prior + rest / start.shape[1])
    return row.clamp(-bound, bound) + column.clamp(-bound, bound)


@cache
def tanh_quantiles(n: int = 9) -> list[float]:
    """Quantiles of tanh G, by sampling the public network."""
    u = np.random.default_rng(0).integers(0, 2**16, (4, 100_000)).astype(np.uint16)
    _, g, _ = public_network()(u)
    return np.quantile(np.tanh(g / (AMPLITUDE * (WIDTH / 2) ** 0.5)), (np.arange(n) + 0.5) / n).tolist()


def posterior(name: str, stored: Tensor, start: Tensor, gains: Tensor, spread: float, strength: float) -> Tensor:
    """E[θ | stored] for θ ~ N(start, spread²), the signs, magnitudes and A having their public distributions."""
    variance = scale(name, stored, strength) ** 2 + spread**2
    total, shift = torch.zeros_like(stored), torch.zeros_like(stored)
    highest = torch.full_like(stored, -torch.inf)
    for quantile in tanh_quantiles():
        m = (gains + field.KAPPA * strength * quantile).exp()
        for sign, probability in ((1, 1 - strength / 2), (-1, strength / 2)):
            if probability == 0:
                continue
            deviation = sign * m * stored - start
            exponent = m.log() - deviation.square() / (2 * variance) + log(probability)
            top = torch.maximum(highest, exponent)
            keep, weight = (highest - top).exp(), (exponent - top).exp()
            total, shift, highest = total * keep + weight, shift * keep + weight * deviation, top
    return start + shift / total * (spread**2 / variance)


def information(trained: Weights, start: Weights) -> Tensor:
    """How many squared standard errors the stored weights are apart from those of an untrained model, at most.

    Fisher information about θ in |θ − A|, at the known start, times the squared way that training went; the multiplier is
    taken as known but for its sign. The mean over seeds of what a thief has who knows the way up to its sign.
    """
    source, total = torch.Generator().manual_seed(0), torch.zeros(len(trained[FIRST]), dtype=torch.float64)
    for name in trained:
        sd = scale(name, trained[name], 1.0)
        if sd == 0:
            return torch.full_like(total, torch.inf)
        theta, fisher, draws = start[name].double(), torch.zeros_like(start[name], dtype=torch.float64), 20
        for _ in range(draws):
            x = (theta + sd * torch.randn(theta.shape, generator=source, dtype=torch.float64)).abs()
            fisher += ((x * torch.tanh(theta * x / sd**2) - theta) / sd**2).square() / draws
        total += (fisher * (trained[name] - start[name]).double().square()).flatten(1).sum(1)
    return total
