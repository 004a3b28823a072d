"""One seed fixes everything: independent streams for each purpose, site and round are derived from it."""

from __future__ import annotations

import hashlib
import secrets

import numpy as np


def new_seed() -> int:
    """Return a random seed, such as a user may give to repeat what was done with it."""
    return secrets.randbelow(1 << 32)


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for a purpose.

    Examples
    --------
    >>> derive(0, "batches", "site_1", 3) == derive(0, "batches", "site_1", 3)
    True
    >>> derive(0, "batches", "site_1", 3) == derive(0, "batches", "site_2", 3)
    False
    """
    text = "\x1f".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return numpy's generator for a purpose."""
    return np.random.default_rng(derive(seed, *purpose))
