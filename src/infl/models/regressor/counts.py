"""Counts as targets: the head gives the logarithm of a rate, in multiples of the mean of all sites.

The variance of a Poisson count is its mean, and that of its square root is about a quarter, whatever the mean is (Anscombe, The
transformation of Poisson, binomial and negative-binomial data, Biometrika 1948): distances between square roots are comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from infl.errors import DataError

LARGEST = 15.0
"""Of the logarithm, at either side."""


def rates(outputs: Tensor, center: Tensor) -> Tensor:
    """Return the expected counts (…, n_targets), of outputs and the mean over sites.

    Examples
    --------
    >>> import torch
    >>> rates(torch.tensor([0.0, 100.0]), torch.tensor(2.0))[0].item()
    2.0
    """
    return center * outputs.to(center.dtype).clamp(-LARGEST, LARGEST).exp()


def deviances(outputs: Tensor, y: Tensor, center: Tensor) -> Tensor:
    """Return half the Poisson deviance of each count (…, n_targets), in units of its mean, less what does not depend on the outputs.

    Examples
    --------
    >>> import torch
    >>> y = torch.tensor([4.0])
    >>> [
    ...     round(deviances(torch.log(torch.tensor([rate / 2.0])), y, torch.tensor(2.0)).item(), 3)
    ...     for rate in (3.0, 4.0, 5.0)
    ... ]
    [0.689, 0.614, 0.667]
    """
    log_rate = outputs.clamp(-LARGEST, LARGEST)
    return log_rate.exp() - (y / center).to(outputs.dtype) * log_rate


def distance(y: Tensor, rate: Tensor) -> Tensor:
    """Return how far counts are from what was expected, in standard deviations of a Poisson count, about."""
    return 2 * (y.sqrt() - rate.sqrt()).abs()


def ends(rate: Tensor, margin: Tensor) -> tuple[Tensor, Tensor]:
    """Return the counts that are at a distance below and above what is expected; the lower one is not below 0.

    Examples
    --------
    >>> import torch
    >>> [end.item() for end in ends(torch.tensor(9.0), torch.tensor(2.0))]
    [4.0, 16.0]
    """
    root = rate.sqrt()
    return (root - margin / 2).clamp_min(0).square(), (root + margin / 2).square()


def check_counts(found: Mapping[str, np.ndarray], targets: Sequence[str]) -> None:
    """Refuse what is no count.

    Raises
    ------
    DataError
        Numbers are below 0, or not whole; they are counted, and no patient named.
    """
    for site, y in found.items():
        for name, own in zip(targets, y.T, strict=True):
            own = own[np.isfinite(own)]
            if wrong := int(((own < 0) | (own != np.round(own))).sum()):
                raise DataError(
                    f"target {name!r} is no count (a whole number from 0 on) for {wrong} of {len(own)} observations at {site}: "
                    "correct them, or take objective='gaussian'"
                )
