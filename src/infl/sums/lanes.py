"""How sums are laid into a message: each value in limbs of 59 bits, so that no expected value leaves their range.

A message reveals its size and nothing else. What is not finite, or out of range all the same, counts as zero: the site
reports that by a number *inside* the sum. So nothing that the coordinator sees depends on a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, log2

import numpy as np

from infl.errors import SettingsError
from infl.privacy.seal import Field, Packing
from infl.privacy.seal.narrow import FULL
from infl.privacy.seal.packing import limit, misfits

LIMB = 40
"""Bits from one limb of a sum to the next: limbs of 59 bits add over 2¹⁹ sites."""
UPPER = (".high", ".higher", ".highest", ".top")
"""How the names of a sum's upper limbs end, the lowest one first."""
METRIC_PREFIX = "metric."
"""Begins the names of arrays that are summed metrics."""
LEFT_OUT_COUNT, WIDER_COUNT = "left_out", "wider"
"""Numbers inside a sum: sites whose part of it counts as zero, since it was not finite or out of range; and of each array of
an update, how many sites need its scale wider, for each number of steps (narrow words: whether)."""
WIDENING_STEP = 4
"""Powers of two of a step by which scales are widened."""
MOST_STEPS_AT_ONCE = 8
"""Most steps that a site asks for at once."""


@dataclass(frozen=True)
class Scale:
    """The numbers that an array is made of: multiples of a power of two, in a number of limbs.

    Attributes
    ----------
    exponent
        Values are multiples of ``2 ** exponent``.
    limbs
        One has a range of 2⁵⁹ steps, shared by the sites, and each further one 2⁴⁰ times as many.

    Examples
    --------
    >>> Scale(-40, limbs=2)
    Scale(exponent=-40, limbs=2)
    """

    exponent: int = -20
    limbs: int = 3


def sums_packing(
    shapes: Mapping[str, tuple[int, ...]], scale: Scale | Mapping[str, Scale] = Scale(), *, marked: bool = True
) -> Packing:
    """Return the packing of sums: their lowest limbs, then the next, and the mark of those who are left out.

    Raises
    ------
    SettingsError
        A scale is of an array that is not summed.

    Examples
    --------
    >>> [field.name for field in sums_packing({"x": (2,), "n": ()}, {"n": Scale(0, limbs=1)}).fields]
    ['x', 'n', 'x.high', 'x.higher', 'left_out']
    """
    check_named("scale", () if isinstance(scale, Scale) else scale, shapes)
    scales = {name: scale if isinstance(scale, Scale) else scale.get(name, Scale()) for name in shapes}
    limbs = [
        Field(name + end, tuple(shape), scales[name].exponent + LIMB * number, bits=64, of_all=True)
        for number, end in enumerate(("", *UPPER))
        for name, shape in shapes.items()
        if number < scales[name].limbs
    ]
    return Packing((*limbs, Field(LEFT_OUT_COUNT, (), 0, bits=64, of_all=True)) if marked else tuple(limbs))


def check_named(what: str, names: Iterable[str], shapes: Iterable[str]) -> None:
    """Refuse properties of an array that is not summed.

    Raises
    ------
    SettingsError
        The first of such names.

    Examples
    --------
    >>> check_named("scale", ["m"], ["n", "x"])
    Traceback (most recent call last):
    infl.errors.SettingsError: scale: 'm' is not summed; the arrays are n, x
    """
    if odd := [name for name in names if name not in shapes]:
        raise SettingsError(f"{what}: {odd[0]!r} is not summed; the arrays are {', '.join(shapes)}")


def join_sums(arrays: Mapping[str, np.ndarray], packing: Packing) -> np.ndarray:
    """Lay named arrays one after the other, as the packing's 64-bit lane has them; marks that are not given are 0.

    Raises
    ------
    SettingsError
        An array is missing, or has another size than was agreed on; or one of counts has a fraction, which would be lost.

    Examples
    --------
    >>> packing = sums_packing({"x": (2,)})
    >>> lane = join_sums({"x": np.array([0.5, 3e12])}, packing)
    >>> {name: array.tolist() for name, array in split_sums(lane, packing).items()}
    {'x': [0.5, 3000000000000.0], 'left_out': 0.0}
    """
    lane = np.zeros(packing.n64)
    places = {field.name: (field, place) for field, place in packing.lane(64)}
    for name, (field, place) in places.items():
        if name.endswith(UPPER) or (name in (LEFT_OUT_COUNT, WIDER_COUNT) and name not in arrays):
            continue
        values = None if arrays.get(name) is None else np.asarray(arrays[name])
        if values is None or values.size != field.size:
            found = "there is none" if values is None else f"it has shape {values.shape}"
            raise SettingsError(
                f"{name!r} is to be summed with shape {field.shape}, and {found}: correct what computes it"
            )
        lane[place] = np.ravel(values)
        if field.exponent == 0 and name + UPPER[0] not in places:
            _check_counts(name, lane[place])
        for end in reversed([end for end in UPPER if name + end in places]):
            upper, at = places[name + end]
            lane[at] = np.rint(lane[place] / upper.step) * upper.step
            with np.errstate(invalid="ignore"):  # infinite less infinite
                lane[place] -= lane[at]  # exact: a multiple of the value's last bit, and smaller
    return lane


def _check_counts(name: str, values: np.ndarray) -> None:
    """Refuse fractions where only whole numbers are added; what is not finite is left out by itself."""
    with np.errstate(invalid="ignore"):
        fractions = values[np.isfinite(values) & (values != np.rint(values))]
    if len(fractions):
        raise SettingsError(
            f"{name!r} is added in whole numbers, and has {fractions[0]:.6g}: "
            "give its sum a finer scale=, or numbers without fractions"
        )


def split_sums(sums: np.ndarray, packing: Packing) -> dict[str, np.ndarray]:
    """Inverse of :func:`join_sums`; without what stayed closed, where the lane ends before it."""
    arrays: dict[str, np.ndarray] = {}
    for field, place in packing.lane(64):
        if place.stop > len(sums):
            break
        value = sums[place].reshape(field.shape)
        end = next((end for end in UPPER if field.name.endswith(end)), "")
        base = field.name.removesuffix(end)
        arrays[base] = arrays[base] + value if end else value
    return arrays


def fitted(
    update: np.ndarray, arrays: Mapping[str, np.ndarray], packing: Packing, n_sites: int, *, weight: float
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the lanes of a site's message, zeros in place of what does not fit, and whether it all did.

    What does not fit, or is not finite, is marked inside the message: under :data:`LEFT_OUT_COUNT`, and for arrays of an update
    that need a wider scale under :data:`WIDER_COUNT`. Metrics that do not fit count as zero by themselves; all else together.
    Values that leave the range of words of fewer than 32 bits are clipped when they are sealed, and count.

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
    >>> lane = fitted(np.empty(0), {"x": np.array([np.nan, 1.0])}, sums_packing({"x": (2,)}), 3, weight=1.0)[1]
    >>> {name: array.tolist() for name, array in split_sums(lane, sums_packing({"x": (2,)})).items()}
    {'x': [0.0, 0.0], 'left_out': 1.0}
    """
    high = join_sums(arrays, packing)
    wrong = misfits(high, packing, 64, largest=limit(64, n_sites))
    metrics = {name for name in wrong if name.startswith(METRIC_PREFIX)}
    factors = (
        misfits(update, packing, 32, largest=limit(packing.width, n_sites, weight), weight=weight)
        if len(update)
        else {}
    )
    if not (wrong or factors):
        return update, high, True
    marks = next((field.shape for field, _ in packing.lane(64) if field.name == WIDER_COUNT), None)
    apart = marks is not None  # metrics are one thing, the update and what belongs to it another
    clipped = packing.width < FULL and all(map(np.isfinite, factors.values()))  # not left out
    rest = bool(factors and not clipped) or len(metrics) < len(wrong) or (not apart and bool(wrong))
    kept = {
        name: np.zeros_like(value) if (bool(metrics) if apart and name.startswith(METRIC_PREFIX) else rest) else value
        for name, value in arrays.items()
    }
    if rest:
        kept[LEFT_OUT_COUNT], update = np.asarray(1.0), np.zeros_like(update)
    if factors and marks is not None:
        wider = np.zeros(marks)
        for number, (field, _) in enumerate(packing.lane(32)):
            if np.isfinite(factor := factors.get(field.name, np.inf)):
                wider[number, min(ceil(log2(factor) / WIDENING_STEP), marks[1]) - 1] = 1
        kept[WIDER_COUNT] = wider
    return update, join_sums(kept, packing), clipped and not wrong
