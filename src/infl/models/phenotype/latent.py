"""The latent of the trunk: moments of it over all sites, to which a new site is fitted."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from infl.models.phenotype.data import LabelledRows
from infl.models.task import Sums
from infl.nn.mlp import OnPanel, ResidualMLP
from infl.nn.steps import Stepper
from infl.sums import FederatedSum, SiteView, State

ADAPT_STEPS, ADAPT_LR, ADAPT_RIDGE = 100, 0.01, 0.1
"""Of the estimate of a new site's coordinate: Adam steps, their size, and the pull towards 0."""
ADAPT_ROWS = 4096
"""Of how many observations at most."""


def latent_moments(width: int) -> FederatedSum:
    """Return the sum of a latent's values and their squares over the training rows of all sites."""

    def local(site: SiteView[LabelledRows, OnPanel], state: State) -> Sums:
        z = latents(site.module, site.data, site.data.train).double()
        n = np.asarray(float(len(z)))  # once more: a site that was counted may be away now
        return {"latent_n": n, "latent_sum": z.sum(0).numpy(), "latent_square": (z**2).sum(0).numpy()}

    def combine(total: Sums, state: State) -> State:
        n = float(total["latent_n"])
        return {**state, **{name: total[name] / n for name in ("latent_sum", "latent_square")}}

    return FederatedSum(
        name="latent",
        shapes={"latent_n": (), "latent_sum": (width,), "latent_square": (width,)},
        local=local,
        combine=combine,
        says="sums and sums of squares of the values that the model gives to records",
        records=lambda site, state: len(site.data.train),
        sensitivity={"latent_n": 1},
    )


@torch.no_grad()
def latents(module: OnPanel, data: LabelledRows, index: np.ndarray) -> Tensor:
    """Return the latent of the rows `index` (n_rows, width)."""
    blocks = np.array_split(index, max(1, -(-len(index) // 2048)))
    return torch.cat([module.latent(torch.from_numpy(data.rows(block))) for block in blocks])


def fit_coordinate(net: ResidualMLP, coordinate: nn.Parameter, data: LabelledRows, private: Sums) -> None:
    """Move a site's coordinate until mean and deviation of the latent are those of the sites of the fit."""
    mean, square = (torch.from_numpy(private[k]).float() for k in ("latent_sum", "latent_square"))
    deviation = (square - mean**2).clamp_min(0).sqrt()
    n_obs = data.x.shape[0]
    if not n_obs:
        return
    few = n_obs <= ADAPT_ROWS
    index = np.arange(n_obs) if few else np.linspace(0, n_obs - 1, ADAPT_ROWS).astype(int)
    x = torch.from_numpy(data.rows(index))
    optimiser = Stepper([coordinate], "adamw", lr=ADAPT_LR)
    with torch.enable_grad():
        for _ in range(ADAPT_STEPS):
            z = net.latent(x)
            distance = ((z.mean(0) - mean) ** 2).mean() + ((z.std(0, correction=0) - deviation) ** 2).mean()
            optimiser.zero_grad()
            (distance + ADAPT_RIDGE * (coordinate**2).sum()).backward()
            optimiser.step()
