"""Which arrays each exchange sums, on which scales, and how a site's values are laid into them.

A message tells its size and nothing else. Scales are never told: the first ones follow from the specification, later ones
from sums that the sites opened. Sums are three limbs wide, so that no expected value leaves their range. An update that leaves it counts as zero: the site says so by a number *inside* the sum, and all sites widen the scale
of that array for the rounds after. So nothing that the coordinator sees depends on a value.

Losses, metrics, counts and final statistics are opened of all sites of a cohort or not at all (:attr:`Field.of_all`): of two
sums of nearly the same, one without a site, the difference would be that site's own number. What is opened of some sites too is
the update, and the marks that belong to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log2
from typing import TYPE_CHECKING

import numpy as np

from infl.federation.rules import rule
from infl.privacy.dp import grid_exponent
from infl.privacy.seal import Field, Packing
from infl.privacy.seal.packing import RANGE, limit, misfits

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement
    from infl.models.task import Task
    from infl.nn.flat import Layout

SUM_EXPONENT = -20
"""Sums are multiples of 2⁻²⁰; their three limbs have a range of ± 2¹¹⁹ shared by the sites."""
LIMB = 40
"""Bits from one limb of a sum to the next: limbs of 59 bits add over 2¹⁹ sites."""
UPPER = (".high", ".higher")
"""How the names of a sum's upper limbs end, the lower one first."""
WIDEN = 4
"""Powers of two of a step by which scales are widened."""
STEPS = 8
"""Most steps that a site asks for at once."""
LEFT_OUT, WIDER = "left_out", "wider"
"""Numbers inside a sum: sites whose part of it counts as zero, since it was not finite or out of range; and of each array of
an update, how many sites need its scale wider, by so many steps."""
CONTROL_EXPONENT = -24
"""Mean gradients are multiples of 2⁻²⁴ before they are weighted: a range of ± 2⁷ shared by the sites."""
STEPS_GUESS = 64
"""Optimiser steps per local epoch that the first scale has room for."""


def update_exponent(lr: float, local_epochs: int) -> int:
    """Return the scale exponent of weight updates in the first round.

    A step of Adam moves a weight by at most lr · (1 − β₁) / √(1 − β₂) < 3.2 lr (Kingma and Ba 2015, section 2.1); the
    bound has room for 64 steps a local epoch, and for the lock's gain of up to 4.

    Examples
    --------
    >>> update_exponent(1e-3, 1)
    -31
    """
    return ceil(log2(3.2 * lr * STEPS_GUESS * local_epochs * 4)) - 31


def count_packing() -> Packing:
    """Return the packing of the first exchange: numbers of training samples."""
    return Packing((Field("n", (), 0, bits=64, of_all=True),))


def sums_packing(shapes: Mapping[str, tuple[int, ...]], exponents: Mapping[str, int] | None = None) -> Packing:
    """Return the packing of sums of one limb; `exponents` where they are not :data:`SUM_EXPONENT`."""
    exponents = exponents or {}
    return Packing(
        tuple(Field(name, tuple(shape), exponents.get(name, SUM_EXPONENT), bits=64) for name, shape in shapes.items())
    )


def stage_packing(shapes: Mapping[str, tuple[int, ...]]) -> Packing:
    """Return the packing of a task's own sums."""
    return Packing((*_wide(shapes), Field(LEFT_OUT, (), 0, bits=64, of_all=True)))


def judge_packing(task: Task, panel: Mapping[str, object]) -> Packing:
    """Return the packing of validation metrics."""
    return stage_packing(_metric_shapes(task, panel))


def train_packing(task: Task, agreement: Agreement, shared: Layout) -> Packing:
    """Return the packing of a training round: update, training loss and validation metrics.

    Under differential privacy the update is a sum of clipped gradients with noise, on the grid that the noise lies on, and
    nothing else is sent: loss, counts, metrics and marks would need noise too.
    """
    dp = agreement.dp
    if dp is not None:
        exponent = grid_exponent(float(dp.clip_norm or 1), shared.total)
        return Packing(tuple(Field(entry.name, entry.shape, exponent) for entry in shared.entries))
    exponent = update_exponent(task.lr, agreement.local_epochs)
    update = tuple(Field(entry.name, entry.shape, exponent) for entry in shared.entries)
    chosen = rule(agreement.aggregation, agreement.aggregation_options)
    sums: dict[str, tuple[int, ...]] = {"train_loss": ()}
    if chosen.importance is not None:
        sums["importance"] = ()
    if chosen.control:
        update += tuple(Field(f"control.{entry.name}", entry.shape, CONTROL_EXPONENT) for entry in shared.entries)
    some = agreement.cohort_size < len(
        agreement.sites
    )  # else all are asked, and weigh what was counted at the beginning
    counts = (
        *([Field("n", (), 0, bits=64, of_all=True)] if some else []),
        Field(LEFT_OUT, (), 0, bits=64),
        Field(WIDER, (len(update), STEPS), 0, bits=64),
    )
    return Packing((*update, *counts, *_wide(sums | _metric_shapes(task, agreement.panel))))


def _metric_shapes(task: Task, panel: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    return {f"metric.{name}": tuple(shape) for name, shape in task.metric_shapes(panel).items()}


def _wide(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Field, ...]:
    """Return the limbs of sums, multiples of 2⁻²⁰, of 2²⁰ and of 2⁶⁰; those on one scale are neighbours."""
    return tuple(
        Field(name + end, tuple(shape), SUM_EXPONENT + LIMB * number, bits=64, of_all=True)
        for number, end in enumerate(("", *UPPER))
        for name, shape in shapes.items()
    )


def join_sums(arrays: Mapping[str, np.ndarray], packing: Packing) -> np.ndarray:
    """Lay named arrays one after the other, as the packing's 64-bit lane has them; marks that are not given are 0.

    Examples
    --------
    >>> packing = stage_packing({"x": (2,)})
    >>> lane = join_sums({"x": np.array([0.5, 3e12])}, packing)
    >>> {name: array.tolist() for name, array in split_sums(lane, packing).items()}
    {'x': [0.5, 3000000000000.0], 'left_out': 0.0}
    """
    lane = np.zeros(packing.n64)
    places = {field.name: (field, place) for field, place in packing.lane(64)}
    for name, (_, place) in places.items():
        if name.endswith(UPPER) or (name in (LEFT_OUT, WIDER) and name not in arrays):
            continue
        lane[place] = np.ravel(arrays[name])
        for end in reversed(UPPER if name + UPPER[0] in places else ()):
            upper, at = places[name + end]
            lane[at] = np.rint(lane[place] / upper.step) * upper.step
            with np.errstate(invalid="ignore"):  # infinite less infinite
                lane[place] -= lane[at]  # exact: a multiple of the value's last bit, and smaller
    return lane


def split_sums(sums: np.ndarray, packing: Packing) -> dict[str, np.ndarray]:
    """Inverse of :func:`join_sums`; without what stayed closed, where the lane ends before it."""
    arrays: dict[str, np.ndarray] = {}
    for field, place in packing.lane(64):
        if place.stop > len(sums):
            break
        value = sums[place].reshape(field.shape)
        base = field.name.removesuffix(UPPER[1]).removesuffix(UPPER[0])
        arrays[base] = arrays[base] + value if base != field.name else value
    return arrays


def fitted(
    update: np.ndarray, arrays: Mapping[str, np.ndarray], packing: Packing, n_sites: int, *, weight: float
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the lanes of a site's message, zeros in place of what does not fit, and whether it all did.

    What does not fit, or is not finite, is marked inside the message: under :data:`LEFT_OUT`, and for arrays of an update
    that need a wider scale under :data:`WIDER`. Metrics that do not fit count as zero by themselves; all else together.

    Parameters
    ----------
    update
        32-bit lane, flat; empty outside training.
    arrays
        Sums by name.
    packing
        Of the exchange that is due.
    n_sites
        In the cohort.
    weight
        Of the update, and the site's share of its range.

    Examples
    --------
    >>> lane = fitted(np.empty(0), {"x": np.array([np.nan, 1.0])}, stage_packing({"x": (2,)}), 3, weight=1.0)[1]
    >>> {name: array.tolist() for name, array in split_sums(lane, stage_packing({"x": (2,)})).items()}
    {'x': [0.0, 0.0], 'left_out': 1.0}
    """
    high = join_sums(arrays, packing)
    wrong = misfits(high, packing, 64, largest=limit(64, n_sites))
    metrics = {name for name in wrong if name.startswith("metric.")}
    factors = misfits(update, packing, 32, largest=limit(32, n_sites, weight), weight=weight) if len(update) else {}
    if not (wrong or factors):
        return update, high, True
    names = {field.name for field, _ in packing.lane(64)}
    apart = WIDER in names  # metrics are one thing, the update and what belongs to it another
    rest = bool(factors) or len(metrics) < len(wrong) or (not apart and bool(wrong))
    kept = {
        name: np.zeros_like(value) if (bool(metrics) if apart and name.startswith("metric.") else rest) else value
        for name, value in arrays.items()
    }
    if rest:
        kept[LEFT_OUT], update = np.asarray(1.0), np.zeros_like(update)
    if factors and apart:
        wider = np.zeros((len(packing.lane(32)), STEPS))
        for number, (field, _) in enumerate(packing.lane(32)):
            if np.isfinite(factor := factors.get(field.name, np.inf)):
                wider[number, min(ceil(log2(factor) / WIDEN), STEPS) - 1] = 1
        kept[WIDER] = wider
    return update, join_sums(kept, packing), False


def rescaled(scales: Mapping[str, int], wider: np.ndarray, low: np.ndarray, packing: Packing) -> dict[str, int]:
    """Return by which powers of two the scales of an update's arrays are wider than the first ones, after a sum.

    As many steps as some site asked for; one step back after a sum without such a mark that is far below the range, so that
    one odd update does not leave all later ones on a coarse scale.

    Parameters
    ----------
    scales
        Before.
    wider
        Opened marks, arrays × steps.
    low
        The sum of the updates, as integers, flat.
    packing
        Of the exchange.

    Examples
    --------
    >>> packing = Packing((Field("weight", (2,), -30),))
    >>> rescaled({}, np.eye(1, STEPS, 2), np.zeros(2, np.int32), packing)  # one site needs three steps
    {'weight': 12}
    >>> rescaled({"weight": 12}, np.zeros((1, STEPS)), np.array([100, -7], np.int32), packing)
    {'weight': 8}
    """
    result = {}
    for (field, place), marks in zip(packing.lane(32), wider, strict=True):
        now = scales.get(field.name, 0)
        if marks.any():
            now += WIDEN * (int(np.flatnonzero(marks)[-1]) + 1)
        elif now and max(int(low[place].max()), -int(low[place].min())) < RANGE[32] >> 2 * WIDEN:
            now -= WIDEN
        if now:
            result[field.name] = now
    return result
