"""Exact order statistics over sites, by halving: sites only ever report how many of their values are below a bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from infl.data.consortium import alongside
from infl.sums import COUNT_SCALE, FederatedSum, State, run_sums
from infl.sums.cells import Cells, everyone, small_numbers
from infl.sums.disclosure import control, refuse_under_rules

if TYPE_CHECKING:
    from infl.keys import Keyring
    from infl.sums.shape import Arrays


def federated_median(
    values: Mapping[str, np.ndarray], key: Keyring | None, *, purpose: str = "median", of_records: bool = True
) -> np.ndarray:
    """Median of each column over all sites, NaN left out; bit for bit what numpy gives for the pooled column.

    Floating-point numbers of one sign are ordered as their bits are, so halving the range of bits finds the middle values
    exactly, in as many rounds as the type has bits. Everybody learns, besides the result, what these bounds say: how many
    values are below it and below each bound on the way. Under rules of disclosure fewer than k values of a site in a half count
    to the other half, and what comes out is a value between the last bounds that have enough on both sides.

    Parameters
    ----------
    values
        Each site's columns, (n_i, k); all float32 or all float64.
    key
        Key ring or None.
    purpose
        What the seal is bound to.
    of_records
        Whether rows are records.

    Returns
    -------
    numpy.ndarray
        (k,), in the type of the values; NaN for a column without values.

    Examples
    --------
    >>> import numpy as np
    >>> federated_median({"a": np.array([[1.0], [7.0]]), "b": np.array([[2.0], [3.0]])}, None)
    array([2.5])
    """
    rules = control()
    refuse_under_rules(
        "a median of records of persons (donor_key)", rules is not None and rules.rules.donor_key is not None
    )
    dtype = next(iter(values.values())).dtype
    columns = alongside(values, {site: Columns.of(column) for site, column in values.items()})
    k = next(iter(values.values())).shape[1]
    found = run_sums(median_sums(k, dtype, name=purpose, of_records=of_records), columns, key)
    pair = _from_ordered(found["high"], dtype)
    pair[:, found["n"] == 0] = np.nan
    return pair.mean(axis=0, dtype=dtype)


Halving = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The lowest whole number of a range, the highest of its lower half, and its highest; (2, k) each."""


@dataclass(frozen=True)
class Columns:
    """A site's columns as whole numbers in the order of their values, and which of them are there; (n_obs, k) each."""

    keys: np.ndarray
    valid: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Columns:
        """Return them of floating-point columns."""
        return cls(_ordered(values, values.dtype.itemsize * 8), ~np.isnan(values))

    def settled(self, halvings: Sequence[Halving], k: int) -> Columns:
        """Return columns in which each half of a range had no value or k values at least; smaller halves were joined with the other."""
        keys = self.keys.copy()
        for low, bound, high in halvings:
            for of_rank in zip(low, bound, high, strict=True):
                lowest, middle, highest = of_rank
                within = self.valid & (keys >= lowest) & (keys <= highest)
                left = within & (keys <= middle)
                n_left, n_right = left.sum(axis=0), (within & ~left).sum(axis=0)
                fewer = n_left < n_right
                few = np.where(fewer, n_left, n_right) < k
                keys = np.where(left & few & fewer, middle + np.uint64(1), keys)
                keys = np.where(within & ~left & few & ~fewer, middle, keys)
        return Columns(keys, self.valid)

    def below(self, bound: np.ndarray) -> np.ndarray:
        """How many values are not above a bound, (2, k)."""
        return ((self.keys[None] <= bound[:, None]) & self.valid[None]).sum(axis=1).astype(float)


def median_sums(k: int, dtype: np.dtype, *, name: str = "median", of_records: bool = True) -> list[FederatedSum]:
    """Return the sums that find the middle values of `k` columns; sites are :class:`Columns`, state: ``n``, ``high``.

    What stands behind a number is known where rows are records.
    """
    bits = dtype.itemsize * 8
    return [
        FederatedSum(
            name=name,
            shapes={"n": (k,)},
            local=lambda site, state: {"n": site.valid.sum(axis=0).astype(float)},
            combine=lambda total, state: _whole_range(total, bits),
            says="number of values, to find the middle one",
            scale=COUNT_SCALE,
            records=(lambda site, state: {"n": site.valid.sum(axis=0)}) if of_records else None,
            sensitivity={"n": 1},
            cells=_of_values(lambda site, state: (~site.valid).sum(axis=0)) if of_records else None,
        ),
        FederatedSum(
            name=name,
            shapes={"below": (2, k)},
            local=lambda site, state: {"below": _settled(site, state).below(_middle(state))},
            combine=_halved,
            says="how many values are below a bound, to find the middle one",
            scale=COUNT_SCALE,
            records=(lambda site, state: {"below": site.below(_middle(state))}) if of_records else None,
            sensitivity={"below": 1},
            cells=everyone(lambda site: len(site.keys), once=True) if of_records else None,
            steps=bits,
            called="{name}",
        ),
    ]


def _whole_range(total: Arrays, bits: int) -> State:
    """Return the ranks that are looked for, and between which whole numbers the values of those ranks are."""
    n = np.rint(total["n"]).astype(np.int64)
    ranks = np.stack([(n - 1) // 2, n // 2])  # of the two middle values, which are one where n is odd; (2, k)
    low = np.zeros(ranks.shape, dtype=np.uint64)
    high = np.full(ranks.shape, (1 << bits) - 1, dtype=np.uint64)
    return {"n": n, "ranks": ranks, "low": low, "high": high, "halvings": []}


def _middle(state: State) -> np.ndarray:
    return state["low"] + (state["high"] - state["low"]) // np.uint64(2)


def _halved(total: Arrays, state: State) -> State:
    """Return half the range: the value of rank r is the smallest v with more than r values ≤ v."""
    bound, enough = _middle(state), np.rint(total["below"]) > state["ranks"]
    high = np.where(enough, bound, state["high"])
    halvings = [*state["halvings"], (state["low"], bound, state["high"])]
    return {**state, "high": high, "low": np.where(enough, state["low"], bound + np.uint64(1)), "halvings": halvings}


def _settled(site: Columns, state: State) -> Columns:
    """The columns, under rules of disclosure those whose numbers tell of no fewer than k."""
    rules = control()
    if rules is None:
        return site
    return site.settled([*state["halvings"], (state["low"], _middle(state), state["high"])], rules.rules.k)


def _of_values(counts: Callable[[Columns, State], np.ndarray]) -> Cells:
    """What stands behind a number of all values, which is opened where `counts` are 0 or enough."""
    return everyone(
        lambda site: len(site.keys),
        sizes=lambda site, state, rules: {"n": small_numbers(counts(site, state), rules)},
        dominated=("n",),
    )


def _ordered(values: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers in the order of the values: all bits turned where negative, the sign bit alone where not."""
    raw = np.ascontiguousarray(values + 0).view(f"u{bits // 8}").astype(np.uint64)  # −0.0 + 0 is 0.0
    top = np.uint64(1 << (bits - 1))
    return np.where(raw & top, np.uint64((1 << bits) - 1) - raw, raw | top)


def _from_ordered(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Inverse of :func:`_ordered`."""
    bits = dtype.itemsize * 8
    top = np.uint64(1 << (bits - 1))
    raw = np.where(keys & top, keys ^ top, np.uint64((1 << bits) - 1) - keys)
    return raw.astype(f"u{bits // 8}").view(dtype)
