"""How much the loss depends on each feature: by exchanging its values among records, and by integrated gradients.

Both use that features enter a network by one layer, which is affine: a feature that changes moves what that layer gives along one
vector, so records are passed through the rest of the network alone.

Breiman, Random forests, Machine Learning 2001 (permutation importance). Sundararajan, Taly, Yan, Axiomatic attribution for deep
networks, ICML 2017 (integrated gradients).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from infl.nn.mlp import OnPanel
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State

STEPS = 32
"""Points on the way from an average record to the record, at which gradients are taken."""
ROWS = 16384
"""Records that are passed through the network at once, with one feature or another exchanged."""

Losses = Callable[[Tensor], Tensor]
"""Of what the first layer gives (n, width): the loss of each record (n,)."""


@dataclass(frozen=True)
class Judged:
    """What a site's share is computed from.

    Attributes
    ----------
    gains
        How much each feature lowers the loss of each record (n, n_features).
    loss
        Of each record (n,).
    present
        Features that were measured (n_features,).
    """

    gains: np.ndarray
    loss: np.ndarray
    present: np.ndarray


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


def exchanged(
    z: Tensor, h: Tensor, columns: Tensor, losses: Callable[[Tensor, Tensor], Tensor], donors: Tensor
) -> np.ndarray:
    """Return how much the loss of each record rises when it gets another one's value of a feature (n, n_features).

    Parameters
    ----------
    z
        What the first layer takes (n, n_features).
    h
        What it gives (n, width).
    columns
        Of the layer (n_features, width).
    losses
        Of what the layer gives, and of the numbers of the records.
    donors
        Whose value a record gets (n_repeats, n); the mean over repeats is returned.
    """
    n, everybody = len(z), torch.arange(len(z))
    before, repeats = losses(h, everybody), len(donors)
    found = np.empty((n, z.shape[1]))
    for block in torch.arange(z.shape[1]).split(max(1, ROWS // (n * repeats))):
        own = z[:, block]
        change = own[donors] - own  # (repeats, n, features)
        moved = h[:, None] + change[..., None] * columns[block]  # (repeats, n, features, width)
        whose = everybody[:, None].expand(repeats, n, len(block)).reshape(-1)
        after = losses(moved.reshape(len(whose), -1), whose).reshape(repeats, n, -1)
        found[:, block.numpy()] = (after.mean(0) - before[:, None]).double().numpy()
    return found


def integrated(z: Tensor, h: Tensor, zero: Tensor, columns: Tensor, losses: Losses) -> np.ndarray:
    """Return each feature's part of what a record's loss is below that of an average record (n, n_features).

    Parameters
    ----------
    z, h, columns, losses
        As in :func:`exchanged`; of all records, in order.
    zero
        What the first layer gives of an average record (1, width).
    """
    slope = torch.zeros_like(h)
    for step in range(STEPS):
        at = (zero + (step + 0.5) / STEPS * (h - zero)).detach().requires_grad_()
        with torch.enable_grad():
            slope += torch.autograd.grad(losses(at).sum(), at)[0] / STEPS
    return (-z * (slope @ columns.T)).double().numpy()


@torch.no_grad()
def gains_of(
    module: OnPanel,
    x: Tensor,
    losses_of: Callable[[Tensor, Tensor], Tensor],
    truth: Tensor,
    donors: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return how much each feature lowers each record's loss (n, n_features), and the losses (n,).

    Parameters
    ----------
    module
        In evaluation mode.
    x, truth
        Of the records.
    losses_of
        Loss of outputs and truth.
    donors
        As in :func:`exchanged`, or None for integrated gradients.
    """
    z = module.entering(x)
    h, columns = module.first(z), columns_of(module.first, x.shape[1])

    def losses(at: Tensor, whose: Tensor) -> Tensor:
        return losses_of(module.beyond(at), truth[whose])

    everybody = torch.arange(len(x))
    before = losses(h, everybody).double().numpy()
    if donors is not None:
        return exchanged(z, h, columns, losses, torch.from_numpy(donors)), before
    zero = module.first(torch.zeros(1, x.shape[1]))
    return integrated(z, h, zero, columns, lambda at: losses(at, everybody)), before


def donors_of(n: int, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """Return whose value each record gets (repeats, n), never its own; as often as there are others, if that is less.

    Examples
    --------
    >>> donors = donors_of(5, 9, np.random.default_rng(0))
    >>> donors.shape, bool((donors == np.arange(5)).any())
    ((4, 5), False)
    """
    order = rng.permutation(n)
    found = np.empty((min(repeats, n - 1), n), dtype=np.int64)
    for row, shift in enumerate(rng.permutation(np.arange(1, n))[: len(found)]):
        found[row, order] = np.roll(order, shift)
    return found


def importance_sum(n_features: int) -> FederatedSum:
    """Return the sum of what each feature lowers the loss by; state: ``importance``, ``std``, ``n``, ``loss``."""
    shape = (n_features,)

    def counts(site: Judged, state: State) -> np.ndarray:
        return len(site.loss) * site.present.astype(float)

    def local(site: Judged, state: State) -> dict[str, np.ndarray]:
        gains = site.gains * site.present
        return {
            "n": counts(site, state),
            "gain": gains.sum(0),
            "square": (gains**2).sum(0),
            "n_obs": np.asarray(float(len(site.loss))),
            "loss": np.asarray(site.loss.sum()),
        }

    def combine(total: dict[str, np.ndarray], state: State) -> State:
        n = np.where(total["n"] > 0, total["n"], np.nan)
        mean = total["gain"] / n
        spread = np.maximum(total["square"] / n - mean**2, 0)
        found = {"importance": mean, "std": np.sqrt(spread / n), "n": total["n"]}
        n_obs = float(total["n_obs"])
        return {**state, **found, "n_obs": int(n_obs), "loss": float(total["loss"]) / n_obs if n_obs else np.nan}

    def records(site: Judged, state: State) -> dict[str, np.ndarray]:
        of_feature = counts(site, state)
        return dict.fromkeys(("n", "gain", "square"), of_feature) | dict.fromkeys(
            ("n_obs", "loss"), np.asarray(len(site.loss))
        )

    return FederatedSum(
        name="importance",
        shapes={"n": shape, "gain": shape, "square": shape, "n_obs": (), "loss": ()},
        local=local,
        combine=combine,
        says="for each feature: number of judged records, sum of what it lowers their loss by, and of its squares; sum of their losses",
        scale={"n": COUNT_SCALE, "n_obs": COUNT_SCALE, "gain": FINE_SCALE, "square": FINE_SCALE, "loss": FINE_SCALE},
        records=records,
        sensitivity={"n": 1, "n_obs": 1},
    )
