"""Moments of features over all sites, and how many records each class has: what brings features and classes to one scale.

Two passes: first the means, then squared distances from them, which is as exact for counts in the millions as for fractions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from infl.sums.shape import Arrays, FederatedSum, Records, SiteView, State


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
        records=records,
        sensitivity=dict.fromkeys(counted, 1) | ({"measured": 1} if features else {}),
    )


def deviations(n_features: int) -> FederatedSum:
    """Return the sum of squared distances from the means; state: ``scale``. A feature that is constant is left as it is."""

    def local(site: SiteView, state: State) -> Arrays:
        return {"squares": site.data.reduce(lambda x: np.nansum((x - state["center"]) ** 2, 0))}

    def combine(total: Arrays, state: State) -> State:
        variance = total["squares"] / np.maximum(state["measured"] - 1, 1)
        return {**state, "scale": np.sqrt(np.where(variance > 1e-12, variance, 1.0))}

    return FederatedSum(
        name="deviations",
        shapes={"squares": (n_features,)},
        local=local,
        combine=combine,
        says="sums of squared distances from each feature's mean, to bring features to one scale",
        records=lambda site, state: {"squares": _measured(site.data)},
    )


def _class_counts(data: Any, n_classes: int) -> np.ndarray:
    return np.bincount(data.labels[data.train], minlength=n_classes).astype(float)


def _measured(data: Any) -> np.ndarray:
    return data.reduce(lambda x: (~np.isnan(x)).sum(0))
