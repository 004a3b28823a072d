"""Features whose products with a design are closed by rules of disclosure, since few values or one record make them up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from infl.sums.cells import Sizes, State, baselines, supports

if TYPE_CHECKING:
    from infl.privacy.rules import DisclosureRules


class Featured(Protocol):
    """A site's design, and its features part by part: positions of observations, their values, which of these are known."""

    @property
    def matrix(self) -> Any:
        """With `present`, which features the site has."""
        ...

    @property
    def design(self) -> np.ndarray:
        """Rows, (n_obs, p)."""
        ...

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Positions (n,), values (n, n_vars) and truth values (n, n_vars)."""
        ...


def judged(site: Featured, state: State, rules: DisclosureRules) -> Sizes:
    """Return, as sizes, which features are closed: few values are missing in a group of the design, or one record has most of its sum."""
    left, overlap = baselines(site.design)  # sums over first levels follow from those over all and over the others
    sets = np.vstack([supports(site.design, rules.k), left[~overlap]])
    n, signed = sets.sum(axis=1)[:, None], np.zeros(len(site.matrix.present), dtype=bool)
    known, whole, largest = (np.zeros((len(sets), len(site.matrix.present))) for _ in range(3))
    for at, y, there in site.blocks():
        known, whole = known + sets[:, at] @ there.astype(float), whole + sets[:, at] @ y
        signed |= (y < 0).any(axis=0)
        largest = np.maximum(largest, [np.where(own[:, None], y, 0).max(axis=0) for own in sets[:, at]])
    missing = n - known
    closed = ((missing > 0) & (missing < rules.k) | (known > 0) & (known < rules.k)).any(axis=0)
    closed |= ~signed & (largest > rules.dominance * whole).any(axis=0)
    return {"n": (np.where(closed, 1.0, 0.0), np.zeros(len(closed)))}
