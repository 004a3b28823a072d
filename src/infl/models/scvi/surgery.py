"""Query surgery: a new site's own columns in the layers that read the site, learned from its cells alone, all else frozen.

Lotfollahi et al., Mapping single-cell data to reference atlases by transfer learning, Nature Biotechnology 40 (2022), with the
defaults of scvi-tools' ``load_query_data``: Adam with ``lr=1e-3``, ``eps=1e-2`` and no weight decay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from infl._isolation import torch_seed
from infl.models.scvi.data import CountRows

if TYPE_CHECKING:
    from infl.models.scvi.task import Scvi

LR, EPS, KL_EPOCHS = 1e-3, 0.01, 400
"""Of Adam, and epochs until the KL term has its whole weight, as in scvi-tools."""


def with_site(
    task: Scvi, module: nn.Module, panel: Mapping[str, Any], site: str, *, seed: int
) -> tuple[nn.Module, dict[str, Any], dict[str, int]]:
    """Return a module with one site more, its panel, and where the new site is read: weights and their column.

    The new columns begin as a fresh module's do; all else is as it was.
    """
    wider = {**panel, "sites": [*panel["sites"], site]}
    with torch_seed(seed):
        fresh = task.build(wider)
    after = sum(len(c) for c in panel["covariates"].values() if len(c) > 1)  # columns behind those of the sites
    state, columns = dict(fresh.state_dict()), {}
    for name, old in module.state_dict().items():
        new = state[name]
        if new.shape == old.shape:
            state[name] = old
        elif name == "px_r":  # of each site, (n_features, n_sites): no column that is learned
            state[name] = torch.cat([old, old.mean(1, keepdim=True)], 1)
        else:
            at, more = old.shape[1] - after, new.shape[1] - old.shape[1]
            own = new[:, at : at + more].clone()
            own[:, :-1] = 0  # a reference of one site had no column: it is read as before
            state[name] = torch.cat([old[:, :at], own, old[:, at:]], 1)
            columns[name] = at + more - 1
    fresh.load_state_dict(state)
    return fresh.eval(), wider, columns


def fit_columns(
    module: nn.Module, columns: Mapping[str, int], batches: Iterable[tuple[dict[str, Tensor], float]]
) -> None:
    """Train the new site's columns on batches, each with the weight of its KL term; nothing else changes."""
    weights = {name: module.get_parameter(name) for name in columns}
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    hooks = []
    for name, weight in weights.items():
        weight.requires_grad_(True)
        mask = torch.zeros_like(weight)
        mask[:, columns[name]] = 1
        hooks.append(weight.register_hook(lambda gradient, mask=mask: gradient * mask))
    optimiser = torch.optim.Adam(weights.values(), lr=LR, eps=EPS, weight_decay=0.0)
    module.eval()  # no dropout, and statistics as they are: so does scvi-tools after load_query_data
    with torch.enable_grad():
        for batch, kl_weight in batches:
            optimiser.zero_grad()
            module(batch, loss_kwargs={"kl_weight": kl_weight})[2].loss.backward()
            optimiser.step()
    for hook in hooks:
        hook.remove()
    for parameter in module.parameters():
        parameter.requires_grad_(True)


def epochs_of(
    data: CountRows, size: int, epochs: int, rng: np.random.Generator
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Give the batches of a site's cells, in a new random order in each epoch, with the weight of the KL term."""
    rows = np.arange(data.x.shape[0])
    for epoch in range(epochs):
        order = data.x.order(rows, rng)
        for start in range(0, len(order), size):
            yield data.batch(order[start : start + size]), min(1.0, epoch / KL_EPOCHS)
