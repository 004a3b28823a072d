"""What rounds with noise spend of ε, by Opacus' accountants, and the noise that spends a budget."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.errors import DataError, SettingsError
from infl.privacy.dp._opacus import require_opacus

if TYPE_CHECKING:
    from infl._types import Data

ORDERS = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
"""Of the Rényi divergences, as Opacus has them."""
NO_PRIVACY_LOSS = np.zeros(len(ORDERS))
"""Rényi divergences of a record that took part in nothing."""
MOST_NOISE, LEAST_NOISE = 1e4, 1e-2
"""Between which noise multipliers are looked for."""
LOOSE = 50.0
"""From this ε on the quick accountant is asked: nobody is protected by it."""
LOG = "infl_privacy"
"""Where a run leaves its account in ``uns``."""


def epsilon_of(steps: list[tuple[float, float, int]], delta: float, accountant: str = "prv") -> float:
    """Return the ε of a sequence of (noise multiplier, sampling rate, number of rounds) at `delta`.

    Examples
    --------
    >>> round(epsilon_of([(1.5, 0.2, 100)], 1e-5), 1)
    7.6
    """
    require_opacus()
    if not steps:
        return 0.0
    quick = rdp_epsilon(steps, delta)
    if accountant == "rdp" or quick > LOOSE:  # so little noise takes the tight accountant gigabytes
        return quick
    return _tight_epsilon(tuple((float(s), float(q), int(n)) for s, q, n in steps), float(delta), accountant)


@lru_cache(maxsize=256)
def _tight_epsilon(steps: tuple[tuple[float, float, int], ...], delta: float, accountant: str) -> float:
    """Return what Opacus' accountant says; an audit fits the same run many times, and each would take a second to count."""
    from opacus.accountants import create_accountant

    account = create_accountant(accountant)
    account.history = list(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(account.get_epsilon(delta))


@lru_cache(maxsize=64)
def noise_for(epsilon: float, delta: float, sample_rate: float, rounds: int, accountant: str = "prv") -> float:
    """Return the smallest noise multiplier, up to 1 % of `epsilon`, that spends no more than `epsilon` over `rounds`.

    The tight accountant takes a fraction of a second for each noise that is tried, so the quick one, which asks for more
    noise, says where to begin.

    Raises
    ------
    SettingsError
        No noise is enough.

    Examples
    --------
    >>> round(noise_for(8.0, 1e-5, 0.2, 60), 1)
    1.2
    """

    def cost(noise: float) -> float:
        return epsilon_of([(noise, sample_rate, rounds)], delta, accountant)

    high = 1.0 if accountant == "rdp" else noise_for(epsilon, delta, sample_rate, rounds, "rdp")
    while (cost_now := cost(high)) > epsilon:
        high *= 2
        if high > MOST_NOISE:
            raise SettingsError(
                f"privacy: no noise spends as little as epsilon={epsilon} over {rounds} rounds: "
                "lower rounds= or sample_rate="
            )
    low = high / 2
    while cost(low) <= epsilon:
        low, high = low / 2, low
        if high < LEAST_NOISE:
            return high
    while cost_now < 0.99 * epsilon and high - low > 1e-4 * high:
        middle = (low + high) / 2
        cost_there = cost(middle)
        low, high, cost_now = (middle, high, cost_now) if cost_there > epsilon else (low, middle, cost_there)
    return high


def spent(adata: Data, *, delta: float | None = None) -> float:
    """Return the ε that all differentially private runs on this object have spent together.

    Parameters
    ----------
    adata
        An object that took part in fits with ``privacy=``; each left its account in ``uns["infl_privacy"]``.
    delta
        At which δ to add up (default: the largest of the runs').

    Returns
    -------
    float
        0 when there was none. Runs are composed step by step, which is tighter than adding their ε.

    Examples
    --------
    >>> import infl
    >>> infl.privacy.spent(infl.datasets.khan())
    0.0
    """
    if not hasattr(adata, "uns"):
        raise DataError(
            f"adata= is AnnData or MuData, not {type(adata).__name__}: of several sites, ask for each alone"
        )
    log = adata.uns.get(LOG)
    if log is None:
        return 0.0
    steps = list(zip(log["noise_multiplier"], log["sample_rate"], log["rounds"], strict=True))
    return epsilon_of(steps, float(delta if delta is not None else np.max(log["delta"])), "rdp")


def log_run(adata: Data, dp: Mapping[str, Any], steps: list[tuple[float, float, int]]) -> None:
    """Add a run to an object's account in ``uns["infl_privacy"]``."""
    old = adata.uns.get(LOG, {})
    new = {
        "noise_multiplier": [s for s, _, _ in steps],
        "sample_rate": [q for _, q, _ in steps],
        "rounds": [n for _, _, n in steps],
        "delta": [dp["delta"]] * len(steps),
    }
    adata.uns[LOG] = {name: np.concatenate([np.asarray(old.get(name, [])), np.asarray(v)]) for name, v in new.items()}


def rdp_epsilon(steps: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Return the ε of several rounds from the Rényi divergences of one: they add up (Mironov 2017)."""
    return epsilon_of_curve(
        sum((int(n) * renyi_curve(float(sigma), float(q)) for sigma, q, n in steps), NO_PRIVACY_LOSS), delta
    )


def epsilon_of_curve(curve: np.ndarray, delta: float) -> float:
    """Return the ε at `delta` of Rényi divergences of :data:`ORDERS`.

    Examples
    --------
    >>> epsilon_of_curve(NO_PRIVACY_LOSS, 1e-5)
    0.0
    >>> round(epsilon_of_curve(100 * renyi_curve(1.5, 0.2), 1e-5), 1)
    8.3
    """
    require_opacus()
    from opacus.accountants.analysis.rdp import get_privacy_spent

    if not curve.any():
        return 0.0
    if not np.isfinite(curve).any():
        return float("inf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        epsilon, _ = get_privacy_spent(orders=ORDERS, rdp=curve, delta=delta)
    return float(epsilon)


@lru_cache(maxsize=256)
def renyi_curve(sigma: float, sample_rate: float) -> np.ndarray:
    """Return the Rényi divergences of one round, for :data:`ORDERS`; those of several rounds add up."""
    require_opacus()
    from opacus.accountants.analysis.rdp import compute_rdp

    if sigma <= 0:
        return np.full(len(ORDERS), np.inf)
    return np.asarray(compute_rdp(q=sample_rate, noise_multiplier=sigma, steps=1, orders=ORDERS))
