"""Gradients of single units, clipped, as whole numbers of steps of a grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from math import floor, log2
from typing import TYPE_CHECKING

import numpy as np

from infl.errors import SettingsError
from infl.privacy.dp._opacus import require_opacus

if TYPE_CHECKING:
    import torch
    from torch import nn

GRADIENT_GRID = 2.0**-6
"""Largest length of what rounding takes from a gradient, as a share of the clipping norm."""
GRAD_SAMPLE = "grad_sample"
"""Attribute in which Opacus leaves per-record gradients."""
RECORDS = 64
"""Records whose gradients are in memory together."""
OF_DONOR = 512
"""Records of one donor that are in a pass together."""
REMEDIES = {
    "BatchNorm": "mixes the records of a batch: use LayerNorm or GroupNorm",
    "LSTM": "hides its steps: use opacus.layers.DPLSTM",
    "GRU": "hides its steps: use opacus.layers.DPGRU",
    "RNN": "hides its steps: use opacus.layers.DPRNN",
    "MultiheadAttention": "hides its steps: use opacus.layers.DPMultiheadAttention",
}
"""What is wrong with a layer, and what to do, by a part of its name."""


def check_module(module: nn.Module) -> None:
    """Say all that is wrong with a module for per-record gradients, each with what to do.

    Raises
    ------
    SettingsError
        E.g. BatchNorm: every record's value depends on the others'.
    """
    require_opacus()
    from opacus.validators import ModuleValidator

    wrong = []
    for name, part in module.named_modules():
        kind = type(part).__name__
        remedy = next((r for k, r in REMEDIES.items() if k in kind and not kind.startswith("DP")), None)
        if remedy is not None:
            wrong.append(f"{name or 'the module'} ({kind}) {remedy}")
    if not wrong:
        wrong = [str(problem).split(". ")[0] for problem in ModuleValidator.validate(module, strict=False)]
    if wrong:
        raise SettingsError(f"privacy: the model cannot be trained with per-record gradients: {'; '.join(wrong)}")


def grid_exponent(clip_norm: float, size: int) -> int:
    """Return the exponent of the grid for gradients of `size` numbers.

    A step is at most C · 2⁻⁶ / √size, so rounding takes at most C / 64 from a gradient's length.

    Examples
    --------
    >>> grid_exponent(1.0, 10_000)
    -13
    """
    return floor(log2(clip_norm * GRADIENT_GRID / max(size, 1) ** 0.5))


def clipped_gradients(
    module: nn.Module,
    loss: Callable[[np.ndarray], torch.Tensor],
    units: Sequence[np.ndarray],
    clip_norm: float,
    exponent: int,
) -> np.ndarray:
    """Return the sum of the units' gradients, each clipped and rounded towards zero, in steps of 2**exponent: integers, flat.

    No unit changes the sum by more than `clip_norm`, rounding included; one whose gradient is not finite counts as zero.

    Parameters
    ----------
    module
        Its parameters are views of one flat buffer, in order.
    loss
        Called with some of the records; returns their mean loss.
    units
        Indices of each unit's records; of one record each, or of all that a donor has.
    clip_norm
        Largest norm.
    exponent
        Of the grid (:func:`grid_exponent`).
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in parameters), dtype=np.int64)
    if _has_samplers(module) and all(len(unit) == 1 for unit in units):
        records = np.concatenate(units) if len(units) else np.empty(0, dtype=np.int64)
        for start in range(0, len(records), RECORDS):
            block = records[start : start + RECORDS]
            total += _whole_steps(_sampled_gradients(module, parameters, partial(loss, block)), clip_norm, exponent)
    else:
        for unit in units:
            total += _whole_steps(_gradient(parameters, loss, unit), clip_norm, exponent)
    return total


def _gradient(
    parameters: Sequence[nn.Parameter], loss: Callable[[np.ndarray], torch.Tensor], records: np.ndarray
) -> torch.Tensor:
    """Return the gradient (1, size) of the records' mean loss."""
    import torch

    total = torch.zeros(1, sum(p.numel() for p in parameters))
    for start in range(0, len(records), OF_DONOR):
        part = records[start : start + OF_DONOR]
        gradients = torch.autograd.grad(loss(part), parameters, allow_unused=True, materialize_grads=True)
        total[0].add_(torch.cat([g.flatten() for g in gradients]), alpha=len(part) / len(records))
    return total


def _whole_steps(gradients: torch.Tensor, clip_norm: float, exponent: int) -> np.ndarray:
    """Return the sum over units of their gradients (n_units, size), clipped, in whole steps; the gradients are overwritten.

    Lengths are found in double precision, and what is clipped is made shorter by 2⁻²⁰, more than the three roundings of single
    precision that follow can add. Rounding towards zero makes nothing longer.
    """
    import torch

    most = clip_norm * (1 - 2.0**-20)
    length = torch.stack([(double := row.double()).dot(double) for row in gradients]).sqrt()
    if not length.isfinite().all():
        gradients[~length.isfinite()] = 0.0  # what is not a number would be the sum's
    factor = 2.0**-exponent * most / length.nan_to_num(0.0, 0.0, 0.0).clamp(min=most)
    gradients.mul_(factor.to(gradients.dtype)[:, None]).trunc_()
    if len(gradients) * clip_norm * 2.0**-exponent >= 2**24:  # more than single precision adds exactly
        return gradients.sum(0, dtype=torch.float64).numpy().astype(np.int64)
    return (torch.ones(len(gradients)) @ gradients).numpy().astype(np.int64)


def _has_samplers(module: nn.Module) -> bool:
    """Whether Opacus knows all trained layers, and finds the gradients of many records in one pass.

    It does not know the experts of an adapter, whose second input and buffers it cannot follow.
    """
    from opacus import GradSampleModule

    trained = (m for m in module.modules() if any(p.requires_grad for p in m.parameters(recurse=False)))
    return all(type(part) in GradSampleModule.GRAD_SAMPLERS for part in trained)


def _sampled_gradients(
    module: nn.Module, parameters: Sequence[nn.Parameter], loss: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """Return the gradient of each record (n_records, size), from one pass over all of them."""
    import torch
    from opacus import GradSampleModule

    wrapped = GradSampleModule(module, loss_reduction="mean", strict=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss().backward()
        return torch.cat([getattr(p, GRAD_SAMPLE).flatten(1) for p in parameters], 1)
    finally:
        wrapped.to_standard_module()
        for p in parameters:
            setattr(p, GRAD_SAMPLE, None)
