"""Which records stand behind the numbers of a sum, as rules of disclosure need to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from infl.privacy.rules import DisclosureRules

State = dict[str, Any]
Sizes = dict[str, tuple[np.ndarray, np.ndarray]]
"""By array: the largest contribution of one record to each number, and all of them together; NaN where values have signs."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Which records stand behind the numbers of a sum.

    Attributes
    ----------
    sets
        From a site and the state: which of its observations are in each set, (n_sets, n_obs).
    of
        By array, the number of the set behind each of its numbers, or numbers that broadcast to its shape (default: set 0).
    measured
        From a site: for each feature, the last axis of the arrays, whether the site has it at all, (n_vars,). None: it has all.
    on_features
        Names of the arrays whose last axis is features, where `measured` is given.
    sizes
        From a site, the state and the rules: see :data:`Sizes`. Only where values may be dominated by one record.
    dominated
        Names of the arrays that `sizes` has.
    parted
        Sets of arrays in `dominated` are parts of a whole that may be known: what is closed must not be dominated together either.
    features, panel
        Of how many features means are released; what they are called is of the call, `panel` says which of its data.
    parameters
        Of a model.
    labels
        What each set is.
    closed
        From the state: by array, which numbers were closed before, truth values.
    order
        From the sets, in which order they are tried.
    partly
        Whether numbers may be closed one by one. Else all of the sum is given, or none of it.
    once
        Whether all steps have the same sets, so that the first step's answer holds for all.
    """

    sets: Callable[[Any, State], np.ndarray]
    of: Mapping[str, Any] = field(default_factory=dict)
    measured: Callable[[Any], np.ndarray] | None = None
    on_features: tuple[str, ...] = ()
    sizes: Callable[[Any, State, DisclosureRules], Sizes] | None = None
    dominated: tuple[str, ...] = ()
    parted: bool = False
    features: int = 0
    panel: str = ""
    parameters: int = 0
    labels: tuple[str, ...] = ()
    closed: Callable[[State], Mapping[str, np.ndarray]] | None = None
    order: Callable[[np.ndarray], Sequence[int]] | None = None
    partly: bool = False
    once: bool = False


def small_numbers(counts: np.ndarray, rules: DisclosureRules) -> tuple[np.ndarray, np.ndarray]:
    """Return, as sizes, numbers of records of which 1 to k - 1 are too few; 0 are not.

    Examples
    --------
    >>> from infl.privacy import DisclosureRules
    >>> largest, whole = small_numbers(np.array([0, 4, 5]), DisclosureRules(k=5))
    >>> (largest > 0.7 * whole).tolist()
    [False, True, False]
    """
    return np.where(counts > 0, rules.dominance * (rules.k - 0.5), 0.0), np.asarray(counts, dtype=float)


def everyone(n_obs: Callable[[Any], int], **more: Any) -> Cells:
    """Return what stands behind sums over all observations of a site, whose number is given by a function of it.

    Examples
    --------
    >>> everyone(len).sets([5, 7], {}).tolist()
    [[True, True]]
    """
    return Cells(sets=lambda site, state: np.ones((1, n_obs(site)), dtype=bool), **more)
