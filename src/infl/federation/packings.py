"""On which scales the arrays of an update are summed, and what becomes of parts that leave them.

A message reveals its size and nothing else. Scales are never sent: the first ones follow from the specification, later ones
from sums that the sites opened. Sums are three limbs wide, so that no expected value leaves their range. An update that leaves it counts as zero: the site reports it by a number *inside* the sum, and all sites widen the scale
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

from infl import _tell
from infl.errors import FederationError
from infl.privacy.seal import Packing
from infl.privacy.seal.narrow import FULL
from infl.privacy.seal.packing import LANE_RANGE
from infl.sums.lanes import LEFT_OUT_COUNT, WIDENING_STEP, WIDER_COUNT

if TYPE_CHECKING:
    from infl.federation.messages import Total

HELD_PREFIX = "held."
"""Begins the names of arrays that say how many sites have a feature, a class, or what else a task names."""
CONTROL_EXPONENT = -24
"""Mean gradients are multiples of 2⁻²⁴ before they are weighted: a range of ± 2⁷ shared by the sites."""
HEADROOM = 4
"""Times the largest weight of the last average update that narrow words have room for: sites differ, and rounds do."""
STEPS_GUESS = 64
"""Optimiser steps per local epoch that the first scale has room for."""


def update_exponent(lr: float, local_epochs: int, width: int = FULL) -> int:
    """Return the scale exponent of weight updates in the first round.

    A step of Adam moves a weight by at most lr · (1 − β₁) / √(1 − β₂) < 3.2 lr (Kingma and Ba 2015, section 2.1); the
    bound has room for 64 steps a local epoch, and for the lock's gain of up to 4. Words of fewer than 32 bits have room for a
    sixteenth of that, since later rounds have the scale of the round before, and values that leave it are clipped.

    Examples
    --------
    >>> update_exponent(1e-3, 1)
    -31
    >>> update_exponent(1e-3, 1, width=12)
    -15
    """
    room = ceil(log2(3.2 * lr * STEPS_GUESS * local_epochs * 4))
    return room - 31 if width == FULL else room - 4 - (width - 1)


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
    >>> from infl.privacy.seal import Field
    >>> from infl.sums.lanes import MOST_STEPS_AT_ONCE
    >>> packing = Packing((Field("weight", (2,), -30),))
    >>> rescaled({}, np.eye(1, MOST_STEPS_AT_ONCE, 2), np.zeros(2, np.int32), packing)  # one site needs three steps
    {'weight': 12}
    >>> rescaled({"weight": 12}, np.zeros((1, MOST_STEPS_AT_ONCE)), np.array([100, -7], np.int32), packing)
    {'weight': 8}
    """
    if packing.width < FULL:
        return _followed(scales, wider, low, packing)
    result = {}
    for (field, place), marks in zip(packing.lane(32), wider, strict=True):
        now = scales.get(field.name, 0)
        if marks.any():
            now += WIDENING_STEP * (int(np.flatnonzero(marks)[-1]) + 1)
        elif now and max(int(low[place].max()), -int(low[place].min())) < LANE_RANGE[32] >> 2 * WIDENING_STEP:
            now -= WIDENING_STEP
        if now:
            result[field.name] = now
    return result


def _followed(scales: Mapping[str, int], wider: np.ndarray, low: np.ndarray, packing: Packing) -> dict[str, int]:
    """Scales of narrow words: the range is :data:`HEADROOM` times the largest of the last sum, and wider where sites clipped."""
    result = {}
    for (field, place), marks in zip(packing.lane(32), wider, strict=True):
        now, largest = scales.get(field.name, 0), int(np.abs(low[place]).max(initial=0))
        step = ceil(log2(HEADROOM * largest / (1 << packing.width - 1))) if largest else -1
        if now := now + (max(step, 1) if marks.any() else step):
            result[field.name] = now
    return result


def left_out(total: Total, arrays: dict[str, np.ndarray]) -> int:
    """Return how many sites' parts of a sum count as zero.

    Raises
    ------
    FederationError
        It is a sum that all must be in, or a round that nobody is in, and no wider scale would help.
    """
    n_out, n = int(arrays.pop(LEFT_OUT_COUNT, 0)), len(total.responders)
    if not n_out:
        return 0
    if total.kind == "train" and (n_out < n or arrays[WIDER_COUNT].any()):
        scale = "; later rounds have a wider scale" if arrays[WIDER_COUNT].any() else ""
        _tell.warning(
            f"round {total.round}: {n_out} of {n} updates were not finite or out of range, and count as zero{scale}"
        )
        return n_out
    if total.kind == "train":
        raise FederationError(
            f"round {total.round}: no site's update is finite; training diverges: lower lr=, or scale the data"
        )
    raise FederationError(
        f"{n_out} of {n} sites have values that are not finite, or larger than any scale, in the sums for {total.kind!r}: "
        "each site's own log says which site it is; look at its data"
    )
