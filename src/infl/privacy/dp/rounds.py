"""What the rounds of a run spend, by its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from infl.privacy.dp.accounting import rdp_epsilon
from infl.privacy.dp.settings import DP


def steps_of(responders: Sequence[int], dp: DP, min_sites: int) -> list[tuple[float, float, int]]:
    """Return what was really done, for accounting: more responders than planned carry more noise.

    Examples
    --------
    >>> from infl.privacy import DP
    >>> steps_of([5, 5, 4], DP(delta=1e-5, noise_multiplier=2.0, sample_rate=0.2), min_sites=5)[0]
    (2.0, 0.2, 2)
    """
    rounds = Counter(responders)
    return [(dp.noise_left(n, min_sites), dp.sample_rate, rounds[n]) for n in rounds]


def epsilon_by_round(responders: Sequence[int], dp: DP, min_sites: int) -> list[float]:
    """Return the ε spent after each round, by the quick accountant (RDP: an upper bound of the tight one)."""
    delta = float(dp.delta or 0)
    return [rdp_epsilon(steps_of(responders[: n + 1], dp, min_sites), delta) for n in range(len(responders))]
