"""What a classifier says of observations."""

from __future__ import annotations

import numpy as np
import torch

from infl.models.phenotype.data import LabelledRows
from infl.nn.mlp import OnPanel

BALANCE_STEPS = 10


@torch.no_grad()
def balance_moments(module: OnPanel, data: LabelledRows) -> None:
    """Weight the moments of unlabelled data so that the classes that the model sees in them count alike.

    At the sites of the fit the labels do that. Here the weights and the model's posteriors are found in turn, as in
    expectation maximisation; a class with less than half an observation has no part.
    """
    for _ in range(BALANCE_STEPS):
        posterior = torch.cat([module(torch.from_numpy(data.rows(chunk))) for chunk in data.x.chunks()]).softmax(1)
        of_class = posterior.sum(0)  # (classes,)
        shares = posterior / of_class.clamp_min(1e-9)
        data.scale_by(*data.moments(shares[:, of_class > 0.5].sum(1).double().numpy()))


@torch.no_grad()
def outputs_of(module: OnPanel, data: LabelledRows, *, width: int) -> dict[str, np.ndarray]:
    """Return calibrated probabilities (n, classes) and the latent (n, width); without a width the logits."""
    n_obs, k = data.x.shape[0], module.head.out_features
    probability = torch.empty(n_obs, k)  # not put together from parts: both would be in memory
    latent = torch.empty(n_obs, width or k)
    for chunk in data.x.chunks():
        z = module.latent(torch.from_numpy(data.rows(chunk)))
        logits = module.head(z) / module.temperature
        probability[chunk] = logits.softmax(1)
        latent[chunk] = z if width else logits
    return {"probability": probability.numpy(), "latent": latent.numpy()}
