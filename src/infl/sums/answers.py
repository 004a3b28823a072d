"""What sites answer about the numbers of a sum, and what follows from all their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from infl.privacy.register import Verdict
    from infl.sums.cells import Cells
    from infl.sums.shape import Arrays, State

SITES, DOMINANCE = 1, 2
RULE_NAMES = ("", "sites", "dominance")
"""Why a number is closed, by its number: too few sites give it; one record makes up too much of it at a site."""


@dataclass(frozen=True)
class Opening:
    """Which numbers of a sum are opened, and which of them each site of this process gives."""

    rule: dict[str, np.ndarray]
    gives: dict[str, dict[str, np.ndarray]]

    def share(self, site: str, arrays: Mapping[str, Any]) -> Arrays:
        """Return a site's share, zeros where it does not give."""
        return {name: np.where(self.gives[site][name], arrays[name], 0.0) for name in arrays}

    def total(self, arrays: Arrays) -> Arrays:
        """Return the total, NaN where it is closed."""
        return {name: np.where(self.rule[name] == 0, total, np.nan) for name, total in arrays.items()}


def counted(rule: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return how many numbers are opened (``""``), and how many each rule closes.

    Examples
    --------
    >>> counted({"sum": np.array([0, 2, 0]), "n": np.array(1)})
    {'': 2, 'sites': 1, 'dominance': 1}
    """
    rules = np.concatenate([np.ravel(of_array) for of_array in rule.values()])
    return {name: int((rules == number).sum()) for number, name in enumerate(RULE_NAMES)}


def by_set(cells: Cells, shapes: Mapping[str, tuple[int, ...]], of_sets: np.ndarray) -> Arrays:
    """Return what is known by set for each number of each array."""
    return {name: np.broadcast_to(of_sets[np.asarray(cells.of.get(name, 0))], shape) for name, shape in shapes.items()}


def against_of(verdict: Verdict, cells: Cells) -> np.ndarray:
    """Return which sets nobody may give sums over, since this site cannot and would be the rest, or would be missed, (n_sets,)."""
    if not cells.of_all:
        return verdict.against
    return verdict.against | np.array([reason not in ("", "empty") for reason in verdict.reasons], dtype=bool)


def enough(gives: np.ndarray, against: np.ndarray, needed: int, *, of_all: bool) -> np.ndarray:
    """Return where a number is opened, from how many sites give it and how many are against it.

    `of_all`: what no site has records of is opened too; it is 0.

    Examples
    --------
    >>> enough(np.array([3, 3, 2, 0]), np.array([0, 1, 0, 0]), 3, of_all=True).tolist()
    [True, False, False, True]
    """
    opened = gives > needed - 0.5
    return (opened | (gives < 0.5) if of_all else opened) & (against < 0.5)


def any_for_all(arrays: Arrays) -> Arrays:
    """Return one answer for all numbers: whether it is so for any."""
    answer = any(value.any() for value in arrays.values())
    return {name: np.broadcast_to(answer, value.shape) for name, value in arrays.items()}


def small(values: np.ndarray, cells: Cells, name: str) -> np.ndarray:
    """Return answers without the axes along which all are alike, whatever the data."""
    of = np.asarray(cells.of.get(name, 0)) if not cells.tied else np.asarray(0)
    kept = [1] * (values.ndim - of.ndim) + list(of.shape)
    if cells.measured is not None and name in cells.on_features:
        kept[-1] = values.shape[-1]
    return values[tuple(slice(0, n) for n in kept)] if values.ndim else values


def holds_of(cells: Cells, sets: np.ndarray, has: Any, state: State, gives: bool) -> dict[str, Any]:
    """Return which sets a site that gives has records of, those too that sums over others make up with them, by feature or at all."""
    rests, overlaps = (
        (np.zeros((0, sets.shape[1]), dtype=bool), None) if cells.rests is None else cells.rests(has, state)
    )
    n = np.concatenate([sets, rests]).sum(axis=1)[:, None] if cells.held is None else cells.held(has)
    holds: np.ndarray = np.greater(n, 0)
    return {"holds": holds & gives} | ({} if overlaps is None else {"overlaps": overlaps & gives})


def last_of_fewest(given: np.ndarray, closed: np.ndarray) -> np.ndarray:
    """Return in each column the last of those rows that are not closed and that the fewest sites give, truth values.

    Examples
    --------
    >>> last_of_fewest(np.array([[3], [3], [2]]), np.array([[False], [False], [True]])).ravel().tolist()
    [False, True, False]
    """
    chosen = len(given) - 1 - np.where(closed, np.inf, given)[::-1].argmin(axis=0)
    return np.arange(len(given))[:, None] == chosen


def alone_of(total: Arrays, cells: Cells, needed: int) -> np.ndarray:
    """Return whether too few sites have one of the sets, by feature or at all, (n_vars or 1,)."""
    if "holds" not in total:
        return np.zeros(1, dtype=bool)
    holders, told = total["holds"], np.zeros(len(total["holds"]))
    if "overlaps" in total:
        told[len(told) - total["overlaps"].size :] = total["overlaps"]
    few: np.ndarray = (holders > 0.5) & (holders < needed - 0.5) & (told < 0.5)[:, None]
    return np.any(few, axis=0)


def close(rule: dict[str, np.ndarray], name: str, closed: np.ndarray) -> None:
    """Close numbers of an array that are still open, for dominance."""
    rule[name] = np.where(np.broadcast_to(closed, rule[name].shape) & (rule[name] == 0), DOMINANCE, rule[name])


def dominated(largest: np.ndarray, whole: np.ndarray, share: float) -> np.ndarray:
    """Return where one record has more than a share of a number."""
    with np.errstate(invalid="ignore"):
        return largest > share * whole
