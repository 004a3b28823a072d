"""Which arrays each exchange sums, and on which scales.

The scales are public: they follow from the specification alone, never from a site's values. Where a value does not
fit, the site refuses and the coordinator asks again with the named arrays' scales 16 times wider; nothing but those
names leaves the site.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor, log2
from typing import TYPE_CHECKING

from infl.federation.rules import rule
from infl.privacy.dp import GRID
from infl.privacy.seal import Field, Packing

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement
    from infl.models.task import Task
    from infl.nn.flat import Layout
    from infl.privacy.dp import DP

SUM_EXPONENT = -20
"""Sums are multiples of 2⁻²⁰: a range of ± 2⁴³ shared by the sites."""
WIDEN = 4
"""Powers of two by which a scale is widened after a refusal."""
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
    return Packing((Field("n", (), 0, bits=64),))


def stage_packing(shapes: Mapping[str, tuple[int, ...]], exponents: Mapping[str, int] | None = None) -> Packing:
    """Return the packing of a task's own sums; `exponents` where they are not :data:`SUM_EXPONENT`."""
    exponents = exponents or {}
    return Packing(
        tuple(Field(name, tuple(shape), exponents.get(name, SUM_EXPONENT), bits=64) for name, shape in shapes.items())
    )


def judge_fields(task: Task, panel: Mapping[str, object]) -> tuple[Field, ...]:
    """Return the fields of validation metrics."""
    return tuple(
        Field(f"metric.{name}", tuple(shape), SUM_EXPONENT, bits=64)
        for name, shape in task.metric_shapes(panel).items()
    )


def train_packing(task: Task, agreement: Agreement, shared: Layout) -> Packing:
    """Return the packing of a training round: update, sample count, training loss and validation metrics.

    Under differential privacy the update is a sum of clipped gradients with noise, on the grid that the noise lies on,
    and the training loss, which would need noise too, is not sent.
    """
    dp = agreement.dp
    exponent = update_exponent(task.lr, agreement.local_epochs) if dp is None else grid_exponent(dp)
    update = tuple(Field(entry.name, entry.shape, exponent) for entry in shared.entries)
    sums: tuple[Field, ...] = (Field("n", (), 0, bits=64),)
    if dp is None:
        sums += (Field("train_loss", (), SUM_EXPONENT, bits=64),)
        chosen = rule(agreement.aggregation, agreement.aggregation_options)
        if chosen.importance is not None:
            sums += (Field("importance", (), SUM_EXPONENT, bits=64),)
        if chosen.control:
            update += tuple(Field(f"control.{entry.name}", entry.shape, CONTROL_EXPONENT) for entry in shared.entries)
    return Packing(update + sums + judge_fields(task, agreement.panel))


def grid_exponent(dp: DP) -> int:
    """Return the exponent of the grid on which clipped gradients and noise lie."""
    return floor(log2(float(dp.clip_norm or 1) * GRID))
