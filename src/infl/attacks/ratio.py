"""Why the lock alone does not hide updates: its factor is the same for all, and cancels in a ratio."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.on_patients import OnPatients
from infl.attacks._kit.statistics import rank_correlation
from infl.attacks.analytic_leak import true_profiles

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import Recorded


def profile_ratio(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the ratio of two patients' profiles from their first layers' changes (weight (out, in), bias (out,)).

    Any factor that both changes share (the lock's M) cancels; the median over rows removes what saturated.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (first[0] / second[0]) / (first[1] / second[1])[:, None]
    return np.nanmedian(np.where(np.isfinite(ratio), ratio, np.nan), axis=0)


class Ratio(OnPatients):
    """Two patients' updates, divided."""

    name: ClassVar[str] = "ratio"
    question: ClassVar[str] = "Does the coordinator learn how two patients compare, gene by gene?"
    n_repeats: ClassVar[int] = 3
    metric: ClassVar[str] = "rank correlation with the ratio of two profiles"
    margin: ClassVar[float] = 0.2
    note: ClassVar[str] = (
        "The lock multiplies all hospitals' updates alike, so it cancels in a ratio; hiding updates is the seal's work."
    )

    def read(self, recorded: Recorded) -> list[float]:
        """Rank genes by the ratio that was read and by the true one."""
        truth, changes = true_profiles(recorded), {}
        for update in recorded.updates():
            tensors = recorded.tensors(update.values)
            name = next(k for k, v in tensors.items() if v.ndim == 2)
            changes[update.site] = (tensors[name], tensors[name.removesuffix("weight") + "bias"])
        names = list(changes)
        result = []
        for a, b in pairwise(names):
            with np.errstate(divide="ignore", invalid="ignore"):
                result.append(rank_correlation(profile_ratio(changes[a], changes[b]), truth[a] / truth[b]))
        return result
