"""Moments of features over all sites, and how many records each class has: what brings features and classes to one scale.

Two passes: first the means, then squared distances from them, which is as exact for counts in the millions as for fractions of a millionth.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from infl.sums.lanes import Scale
from infl.sums.shape import Arrays, FederatedSum, Records, SiteView, State

VALUES, SQUARES = Scale(-60, limbs=4), Scale(-80, limbs=5)
"""Values are added up to 2¹¹⁹, their squares up to 2¹³⁹; both are exact for features in billionths of their unit."""
NARROW, ROUNDING = 1e-11, 1e-7
"""A feature whose deviation is below these, as it is or as a share of its mean, is constant: float32 has no more digits."""


def unit_of(variance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return what features are divided by: their deviations, and 1 where they are constant; as `variance` and `mean`.

    Examples
    --------
    >>> unit_of(np.array([4.0, 1e-16, 0.0]), np.array([0.0, 1e-8, 3.0]))
    array([2.e+00, 1.e-08, 1.e+00])
    """
    deviation = np.sqrt(np.maximum(variance, 0))
    return np.where(deviation > np.maximum(NARROW, ROUNDING * np.abs(mean)), deviation, 1.0)


def means(n_classes: int | None, n_features: int | None, *, balance: bool = False) -> FederatedSum:
    """Return the sum of class counts and, with `n_features`, of each feature; state: ``n``, ``class_weight``, ``center``.

    Parameters
    ----------
    n_classes
        Number of classes (None: there are none).
    n_features
        Number of features (None: classes are counted alone).
    balance
        Weight classes inversely to their number of records, those without one aside.
    """

    def local(site: SiteView, state: State) -> Arrays:
        data = site.data
        sums = {"n": np.asarray(float(len(data.train)))}
        if n_classes is not None:
            sums["class_counts"] = _class_counts(data, n_classes)
        if n_features is not None:
            sums["measured"], sums["sums"] = data.reduce(lambda x: np.stack([(~np.isnan(x)).sum(0), np.nansum(x, 0)]))
        return sums

    def combine(total: Arrays, state: State) -> State:
        found: State = {"n": total["n"]}
        if n_classes is not None:
            n, counts = float(total["n"]), total["class_counts"]
            weight = n / (np.maximum(counts, 1) * np.count_nonzero(counts)) if balance else np.ones_like(counts)
            found |= {"class_counts": counts, "class_weight": weight}
        if n_features is not None:
            found |= {"measured": total["measured"], "center": total["sums"] / np.maximum(total["measured"], 1)}
        return {**state, **found}

    def records(site: SiteView, state: State) -> Records:
        found: dict[str, Any] = {"n": len(site.data.train)}
        if n_classes is not None:
            found |= {"class_counts": _class_counts(site.data, n_classes)}
        return found if n_features is None else found | dict.fromkeys(("measured", "sums"), _measured(site.data))

    classes: dict[str, tuple[int, ...]] = {} if n_classes is None else {"class_counts": (n_classes,)}
    counted: dict[str, tuple[int, ...]] = {"n": ()} | classes
    features: dict[str, tuple[int, ...]] = (
        {} if n_features is None else dict.fromkeys(("measured", "sums"), (n_features,))
    )
    return FederatedSum(
        name="means",
        shapes=counted | features,
        local=local,
        combine=combine,
        says=f"{'number' if n_classes is None else 'numbers'} of training records{' by class' if classes else ''}"
        + (", and number and sum of each feature's values, to bring features to one scale" if features else ""),
        scale={"sums": VALUES} if features else {},
        records=records,
        sensitivity=dict.fromkeys(counted, 1) | ({"measured": 1} if features else {}),
    )


def deviations(n_features: int) -> FederatedSum:
    """Return the sum of squared distances from the means; state: ``scale``. A feature that is constant is left as it is."""

    def local(site: SiteView, state: State) -> Arrays:
        return {"squares": site.data.reduce(lambda x: np.nansum((x - state["center"]) ** 2, 0))}

    def combine(total: Arrays, state: State) -> State:
        variance = total["squares"] / np.maximum(state["measured"] - 1, 1)
        return {**state, "scale": unit_of(variance, state["center"])}

    return FederatedSum(
        name="deviations",
        shapes={"squares": (n_features,)},
        local=local,
        combine=combine,
        says="sums of squared distances from each feature's mean, to bring features to one scale",
        scale=SQUARES,
        records=lambda site, state: {"squares": _measured(site.data)},
    )


def _class_counts(data: Any, n_classes: int) -> np.ndarray:
    return np.bincount(data.labels[data.train], minlength=n_classes).astype(float)


def _measured(data: Any) -> np.ndarray:
    return data.reduce(lambda x: (~np.isnan(x)).sum(0))
