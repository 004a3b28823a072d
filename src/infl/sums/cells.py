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
    linked
        Names of arrays that are closed with the first of these, feature by feature.
    parted
        Sets of arrays in `dominated` are parts of a whole that may be known: what is closed must not be dominated together either.
    features, panel
        Of how many features means are released; what they are called is of the call, `panel` says which of its data.
    parameters
        Of a model.
    labels
        What each set is.
    rests
        From a site and the state: more sets, (n_rests, n_obs), and where sums over them are no differences of sums over `sets`,
        (n_rests,). Too few sites may not have one.
    held
        From a site: of how many of its observations each set and each of `rests` has a value, by feature, (n_sets + n_rests, n_vars).
        None: of all that it has.
    parts
        This many of the first sets are parts of all records, a sum over which may be known. What is closed of them is of enough sites
        together, or one more is closed.
    closed
        From the state: by array, which numbers were closed before, truth values.
    order
        From the sets, in which order they are tried.
    partly
        Whether numbers may be closed one by one. Else all of the sum is opened, or none of it.
    together
        A site gives all sets or none (default: where numbers are not closed one by one).
    of_all
        Sets follow from values, so that a site that is left out would be missed: what one site that has such records cannot give is
        closed for all. What no site has is opened, as 0.
    joined
        From which numbers of an array are closed, truth values: which are closed then, since they would follow from the others.
    bins
        From a site and the state: in which bins values are counted, as text. A record's values are counted in one way for life, since
        counts in two kinds of bins tell how many values are between; one text that begins with the other is the same way.
    once
        Whether all steps have the same sets, so that the first step's answer holds for all.
    """

    sets: Callable[[Any, State], np.ndarray]
    of: Mapping[str, Any] = field(default_factory=dict)
    measured: Callable[[Any], np.ndarray] | None = None
    on_features: tuple[str, ...] = ()
    sizes: Callable[[Any, State, DisclosureRules], Sizes] | None = None
    dominated: tuple[str, ...] = ()
    linked: tuple[str, ...] = ()
    parted: bool = False
    features: int = 0
    panel: str = ""
    parameters: int = 0
    labels: tuple[str, ...] = ()
    rests: Callable[[Any, State], tuple[np.ndarray, np.ndarray]] | None = None
    held: Callable[[Any], np.ndarray] | None = None
    parts: int = 0
    closed: Callable[[State], Mapping[str, np.ndarray]] | None = None
    order: Callable[[np.ndarray], Sequence[int]] | None = None
    partly: bool = False
    together: bool | None = None
    of_all: bool = False
    joined: Callable[[np.ndarray], np.ndarray] | None = None
    bins: Callable[[Any, State], str] | None = None
    once: bool = False

    @property
    def tied(self) -> bool:
        """Whether a site gives all sets or none."""
        return not self.partly if self.together is None else self.together


def small_numbers(counts: np.ndarray, rules: DisclosureRules) -> tuple[np.ndarray, np.ndarray]:
    """Return, as sizes, numbers of records; 1 to k - 1 are too few, 0 is not.

    Examples
    --------
    >>> from infl.privacy import DisclosureRules
    >>> largest, whole = small_numbers(np.array([0, 4, 5]), DisclosureRules(k=5))
    >>> (largest > 0.7 * whole).tolist()
    [False, True, False]
    """
    return np.where(counts > 0, rules.dominance * (rules.k - 0.5), 0.0), np.asarray(counts, dtype=float)


def supports(design: np.ndarray, rules_k: int = 2) -> np.ndarray:
    """Return all observations, and those that each pair of columns of a design tells of, (1 + p (p + 1) / 2, n_obs).

    A column of zeros and ones, or with several zeros, tells of the observations where it is not 0; another one of all.

    Examples
    --------
    >>> supports(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])).sum(axis=1).tolist()
    [3, 3, 1, 1]
    """
    told = design != 0
    told |= ~np.isin(design, (0, 1)).all(axis=0) & ((~told).sum(axis=0) < rules_k)
    i, j = np.tril_indices(design.shape[1])
    return np.vstack([np.ones((1, len(design)), dtype=bool), (told[:, i] & told[:, j]).T])


def baselines(design: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the observations that several columns of a design in a row do not tell of, and which of these columns overlap.

    Levels of a column of groups are in a row and do not overlap. So sums over its first level are what they leave of sums over all.

    Returns
    -------
    tuple
        (p (p + 1) / 2, n_obs) and (p (p + 1) / 2,), truth values.

    Examples
    --------
    >>> left, overlap = baselines(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    >>> left.sum(axis=1).tolist(), overlap.any()
    ([2, 1, 2], np.False_)
    """
    p = design.shape[1]
    told = supports(design)[np.cumsum(np.arange(1, p + 1))].astype(int)
    runs = [told[i : j + 1].sum(axis=0) for i in range(p) for j in range(i, p)]
    return np.array([n == 0 for n in runs]), np.array([bool((n > 1).any()) for n in runs])


def designed(design: Callable[[Any], np.ndarray], p: int, **more: Any) -> Cells:
    """Return what stands behind products of `p` columns of a design, which a site gives as a whole or not at all.

    Parameters
    ----------
    design
        From a site to its rows, (n_obs, p).
    p
        Number of columns.
    **more
        See :class:`Cells`.
    """

    def rests(site: Any, state: State) -> tuple[np.ndarray, np.ndarray]:
        return baselines(design(site))

    return Cells(sets=lambda site, state: supports(design(site)), rests=rests, parameters=p, once=True, **more)


def everyone(n_obs: Callable[[Any], int], **more: Any) -> Cells:
    """Return what stands behind sums over all observations of a site, whose number is given by a function of it.

    Examples
    --------
    >>> everyone(len).sets([5, 7], {}).tolist()
    [[True, True]]
    """
    return Cells(sets=lambda site, state: np.ones((1, n_obs(site)), dtype=bool), **more)


def refusal(function: str | None, names: Sequence[str]) -> str:
    """Return the line for sums that rules of disclosure cannot judge: of a function, or of none that is known.

    Examples
    --------
    >>> refusal("zeros", ["n"])
    'zeros (n) is not yet under disclosure rules, since this sum has no cells=: leave it out, or run it where ...'
    """
    what = f"the sum of {', '.join(names)}" if function is None else f"{function} ({names[0]})"
    lacks = "infl.data.sites.over_sites(ruled=True) decorates no function that runs it"
    return (
        f"{what} is not yet under disclosure rules, since {lacks if function is None else 'this sum has no cells='}: leave it out, "
        "or run it where infl.settings.disclosure is None"
    )
