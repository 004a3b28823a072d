"""Stored weights as thieves prepare them, and keys that are guessed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from infl.keys import Keyring

Weights = Mapping[str, Tensor]


def random_ring(rng: np.random.Generator, version: int = 1) -> Keyring:
    """Return a guessed key."""
    return Keyring._from_roots({version: rng.bytes(32)})


def clipped(stored: Weights, usual: Weights) -> dict[str, Tensor]:
    """Cut stored weights to the range of initial ones; where those are all zero, take the stored ones."""
    return {n: t.clamp(-m, m) if (m := float(usual[n].abs().max())) > 0 else t.clone() for n, t in stored.items()}


def rescaled(stored: Weights, usual: Weights) -> dict[str, Tensor]:
    """Bring each tensor to the spread of initial weights; where either is constant, take the initial ones."""
    result = {}
    for name, tensor in stored.items():
        spread, wanted = float(tensor.std(correction=0)), float(usual[name].std(correction=0))
        result[name] = tensor * (wanted / spread) if spread > 0 and wanted > 0 else usual[name].clone()
    return result


def averaged(versions: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several versions of the same weights."""
    return {name: torch.stack([v[name] for v in versions]).mean(0) for name in versions[0]}
