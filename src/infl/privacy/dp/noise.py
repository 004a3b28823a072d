"""Discrete Gaussian noise, drawn from what only the site knows."""

from __future__ import annotations

import hmac

import numpy as np

NOISE_TAIL = 12.0
"""Standard deviations of a site's noise that the seal's range has room for; more are as likely as guessing a 107-bit key."""


def round_key(secret: bytes, agreement: str, seq: int, chain: str) -> bytes:
    """Return the key of a site's randomness in one exchange.

    It follows from the site's secret, the run, the exchange and all sums before it, so asking again, or starting again, draws
    nothing new, and another history draws noise of its own.

    Examples
    --------
    >>> round_key(bytes(32), "digest", 3, "chain") == round_key(bytes(32), "digest", 3, "another chain")
    False
    """
    return hmac.digest(secret, "\n".join(["infl private round", agreement, str(seq), chain]).encode(), "sha256")


class SecretUniform:
    """Uniform random numbers that only a holder of the key can repeat: a ChaCha20 stream.

    Parameters
    ----------
    key
        32 secret bytes.
    stream
        Number of the stream.
    """

    def __init__(self, key: bytes, stream: int = 0) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

        nonce = bytes(8) + stream.to_bytes(8, "little")
        self._stream = Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()

    def random(self, n: int) -> np.ndarray:
        """Return n numbers in [0, 1), multiples of 2⁻⁵³."""
        words = np.frombuffer(self._stream.update(bytes(8 * n)), dtype="<u8")
        return (words >> np.uint64(11)) * 2.0**-53


def discrete_gaussian(sigma: float, size: int, rng: np.random.Generator | SecretUniform) -> np.ndarray:
    """Draw integers k with probability proportional to exp(−k² / 2σ²) by rejection from a discrete Laplace distribution.

    Parameters
    ----------
    sigma
        Above 0.
    size
        How many.
    rng
        Source of randomness.

    References
    ----------
    Canonne, Kamath, Steinke 2020, algorithm 3 (uniform numbers of 53 bits stand for its exact coin flips).

    Examples
    --------
    >>> draws = discrete_gaussian(3.0, 10_000, np.random.default_rng(0))
    >>> round(float(draws.std()))
    3
    """
    t = np.floor(sigma) + 1
    out, filled = np.empty(size, dtype=np.int64), 0
    while filled < size:
        n = int(1.5 * (size - filled)) + 16
        magnitude = np.floor(-t * np.log1p(-rng.random(n)))  # P(k) ∝ exp(−k / t)
        sign = np.where(rng.random(n) < 0.5, -1, 1)
        keep = (magnitude > 0) | (sign > 0)  # minus zero is not a second zero
        keep &= rng.random(n) < np.exp(-((magnitude - sigma**2 / t) ** 2) / (2 * sigma**2))
        accepted = (sign * magnitude)[keep][: size - filled]
        out[filled : filled + len(accepted)] = accepted
        filled += len(accepted)
    return out
