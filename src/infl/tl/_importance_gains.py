"""How much the loss depends on each feature: by exchanging its values among records, and by integrated gradients.

Both use that features enter a network by one layer, which is affine: a feature that changes moves what that layer gives along one
vector, so records are passed through the rest of the network alone.

A record's value is exchanged for those of others at its site, which are moved and stretched until their mean and variance are those
of the values of all other records of all sites. Two moments are all that a quadratic loss of a linear model depends on, so its
importance is that of exchanges in one place; for other losses and networks, what is left are differences of shape.

Breiman, Random forests, Machine Learning 2001 (permutation importance). Sundararajan, Taly, Yan, Axiomatic attribution for deep
networks, ICML 2017 (integrated gradients).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

STEPS = 32
"""Points on the way from an average record to the record, at which gradients are taken."""
ROWS = 16384
"""Records that are passed through the network at once, with one feature or another exchanged."""

FLAT = 1e-6
"""Of the variance of all records: below it the values that a record was given are as good as one, and cannot be stretched."""

Losses = Callable[[Tensor, Tensor], Tensor]
"""Of what the first layer gives (n, width), and of the numbers of the records (n,): the loss of each (n,)."""


def columns_of(layer: nn.Module, n_features: int) -> Tensor:
    """Return by how much what an affine layer gives changes with each feature (n_features, width).

    Examples
    --------
    >>> layer = nn.Linear(3, 2)
    >>> torch.allclose(columns_of(layer, 3), layer.weight.T, atol=1e-6)
    True
    """
    zero = layer(torch.zeros(1, n_features))
    blocks = torch.arange(n_features).split(1024)
    return torch.cat([layer(nn.functional.one_hot(block, n_features).float()) - zero for block in blocks])


def of_others(z: Tensor, n: np.ndarray, mean: np.ndarray, square: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the values of all other records, of all sites (n_records, n_features) each.

    Parameters
    ----------
    z
        The records.
    n, mean, square
        Of all records of all sites, by feature: their number, and means of values and of their squares.

    Examples
    --------
    >>> mean, deviation = of_others(torch.tensor([[1.0], [3.0]]), np.array([3]), np.array([3.0]), np.array([35 / 3]))
    >>> mean.ravel().tolist(), deviation.ravel().tolist()
    ([4.0, 3.0], [1.0, 2.0])
    """
    own, others = z.double().numpy(), np.maximum(n - 1, 1)
    means = (n * mean - own) / others
    variances = np.maximum((n * square - own**2) / others - means**2, 0)
    return torch.from_numpy(means).to(z.dtype), torch.from_numpy(np.sqrt(variances)).to(z.dtype)


def given_values(own: Tensor, donors: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return the values that each record is given (n_repeats, n, n_features): those of the donors, at the asked mean and deviation.

    Where donors of a record have one value all, or there are fewer than two, it is given one deviation more and less in turn.

    Examples
    --------
    >>> own, asked = torch.tensor([[0.0], [1.0], [2.0]]), (torch.full((3, 1), 5.0), torch.full((3, 1), 2.0))
    >>> given_values(own, torch.tensor([[1, 2, 0], [2, 0, 1]]), *asked)[:, 0].ravel().tolist()
    [3.0, 7.0]
    >>> given_values(own, torch.zeros((0, 3), dtype=int), *asked)[:, 0].ravel().tolist()
    [3.0, 7.0]
    """
    repeats = max(len(donors), 2)
    turns = torch.ones(repeats)
    turns[::2] = -1
    turns = (turns - turns.mean()) / turns.std(correction=0)
    standard = turns[:, None, None].expand(repeats, *own.shape)
    if len(donors) > 1:
        values = own[donors]
        spread = values.std(0, correction=0)
        flat = spread <= FLAT * deviation.clamp(min=FLAT)
        standard = torch.where(flat, standard, (values - values.mean(0)) / spread.clamp(min=FLAT**2))
    return mean + standard * deviation


def exchanged(
    z: Tensor, h: Tensor, columns: Tensor, losses: Losses, donors: np.ndarray, mean: Tensor, deviation: Tensor
) -> np.ndarray:
    """Return how much the loss of each record rises when it gets another one's value of a feature (n, n_features).

    Parameters
    ----------
    z, h, columns, losses, donors
        See :class:`Judged`; the mean over repeats is returned.
    mean, deviation
        Of the values that each record is given (n, n_features).
    """
    n, everybody, of = len(z), torch.arange(len(z)), torch.from_numpy(donors)
    before, repeats = losses(h, everybody), max(len(donors), 2)
    found = np.empty(z.shape)
    for block in torch.arange(z.shape[1]).split(max(1, ROWS // (n * repeats))):
        own = z[:, block]
        change = given_values(own, of, mean[:, block], deviation[:, block]) - own  # (repeats, n, features)
        moved = h[:, None] + change[..., None] * columns[block]  # (repeats, n, features, width)
        whose = everybody[:, None].expand(repeats, n, len(block)).reshape(-1)
        after = losses(moved.reshape(len(whose), -1), whose).reshape(repeats, n, -1)
        found[:, block.numpy()] = (after.double() - before.double()[:, None]).mean(0).numpy()
    return found


def integrated(z: Tensor, h: Tensor, zero: Tensor, columns: Tensor, losses: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Return each feature's part of what a record's loss is below that of an average record (n, n_features).

    Parameters
    ----------
    z, h, zero, columns
        See :class:`Judged`.
    losses
        Of what the first layer gives of all records, in order.
    """
    slope = torch.zeros_like(h)
    for step in range(STEPS):
        at = (zero + (step + 0.5) / STEPS * (h - zero)).detach().requires_grad_()
        with torch.enable_grad():
            slope += torch.autograd.grad(losses(at).sum(), at)[0] / STEPS
    return (-z * (slope @ columns.T)).double().numpy()


def donors_of(n: int, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Return whose value each record gets (repeats, n), never its own; as often as there are others, if that is less.

    Examples
    --------
    >>> donors = donors_of(5, 9, np.random.default_rng(0))
    >>> donors.shape, bool((donors == np.arange(5)).any())
    ((4, 5), False)
    """
    order = rng.permutation(n)
    found = np.empty((max(min(repeats, n - 1), 0), n), dtype=np.int64)
    for row, shift in enumerate(rng.permutation(np.arange(1, n))[: len(found)]):
        found[row, order] = np.roll(order, shift)
    return found
