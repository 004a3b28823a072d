"""Many small classifiers at once: one leading axis over seeds, so that a study of twenty seeds takes seconds.

The network is the package's own (:class:`infl.nn.mlp.ResidualMLP`), its forward pass written for stacked weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import anndata
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from infl.nn.lock import Field
from infl.nn.mlp import ResidualMLP
from panels import panel_sites

Weights = dict[str, Tensor]  # each with a leading axis over seeds
FIRST = "embed.weight"  # its columns have names


@dataclass(frozen=True)
class Panel:
    """Training and test parts of one data set, split anew for each seed and standardised; (seeds, samples, features)."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    n_classes: int

    @classmethod
    def load(cls, name: str, seeds: int) -> Panel:
        sites, target = panel_sites(name)
        together = anndata.concat(sites.values())
        values = np.asarray(together.X, dtype=np.float32)
        labels = together.obs[target].astype("category").cat.codes.to_numpy().astype(np.int64)
        parts: list[list[np.ndarray]] = [[], [], [], []]
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            test = np.zeros(len(labels), dtype=bool)
            for c in np.unique(labels):
                members = rng.permutation(np.flatnonzero(labels == c))
                test[members[: round(0.3 * len(members))]] = True
            mean, sd = values[~test].mean(0), values[~test].std(0) + 1e-6
            for part, array in zip(
                parts,
                ((values[~test] - mean) / sd, labels[~test], (values[test] - mean) / sd, labels[test]),
                strict=True,
            ):
                part.append(array)
        return cls(*(torch.from_numpy(np.stack(part)) for part in parts), int(labels.max()) + 1)

    def few(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw n labelled training samples for each seed, the classes as even as they can be."""
        chosen = []
        for seed, y in enumerate(self.y.numpy()):
            order = np.random.default_rng(10_000 + seed).permutation(len(y))
            rank = np.empty(len(y), dtype=int)  # of a sample within its class
            for c in range(self.n_classes):
                rank[order[y[order] == c]] = np.arange((y == c).sum())
            chosen.append(order[np.argsort(rank[order], kind="stable")][:n])
        index = torch.from_numpy(np.stack(chosen))
        return self.x.gather(1, index[..., None].expand(-1, -1, self.x.shape[2])), self.y.gather(1, index)


def initial(panel: Panel, first_seed: int = 0) -> Weights:
    """The public initial weights of seeds first_seed, first_seed + 1, …"""
    models = []
    for seed in range(len(panel.x)):
        torch.manual_seed(first_seed + seed)
        models.append(dict(ResidualMLP(panel.x.shape[2], panel.n_classes).named_parameters()))
    return {name: torch.stack([model[name].detach() for model in models]) for name in models[0]}


def logits(weights: Weights, x: Tensor, dropout: float = 0.0) -> Tensor:
    """(seeds, n, features) to (seeds, n, classes); as ResidualMLP does it."""

    def linear(h: Tensor, name: str) -> Tensor:
        return torch.baddbmm(weights[f"{name}.bias"][:, None], h, weights[f"{name}.weight"].mT)

    def norm(h: Tensor, name: str) -> Tensor:
        h = functional.layer_norm(h, h.shape[-1:])
        return h * weights[f"{name}.weight"][:, None] + weights[f"{name}.bias"][:, None]

    h = functional.dropout(linear(x, "embed"), dropout)
    for block in ("blocks.0", "blocks.1"):
        inner = functional.silu(linear(norm(h, f"{block}.norm"), f"{block}.expand"))
        h = h + linear(functional.dropout(inner, dropout), f"{block}.contract")
    return linear(norm(h, "norm"), "head")


def accuracy(weights: Weights, panel: Panel) -> Tensor:
    """Balanced accuracy on the test parts, one number a seed."""
    with torch.no_grad():
        guess = logits(weights, panel.x_test).argmax(-1)
    hits = [((guess == c) & (panel.y_test == c)).sum(1) / (panel.y_test == c).sum(1) for c in range(panel.n_classes)]
    return torch.stack(hits).mean(0)


def fit(
    weights: Weights, x: Tensor, y: Tensor, *, steps: int, rate: float, batch: int = 32, dropout: float = 0.0
) -> Weights:
    """Adam from the given weights."""
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=rate, weight_decay=1e-4, fused=True)
    source = torch.Generator().manual_seed(0)
    for _ in range(steps):
        index = torch.randint(x.shape[1], (batch,), generator=source) if batch < x.shape[1] else slice(None)
        x_batch, y_batch = x[:, index], y[:, index]
        # the sum over seeds of each seed's mean: the seeds do not meet
        loss = functional.cross_entropy(logits(leaves, x_batch, dropout).flatten(0, 1), y_batch.flatten())
        optimiser.zero_grad()
        (loss * len(x)).backward()
        optimiser.step()
    return {name: leaf.detach() for name, leaf in leaves.items()}


def locked(weights: Weights, strength: float = 1.0, *, keys: int = 0, undo: bool = False) -> Weights:
    """Stored weights, under a key of its own for each seed; or the inverse. Another `keys` takes other keys."""
    result: dict[str, list[Tensor]] = {name: [] for name in weights}
    names = {1: [f"gene {i}" for i in range(weights[FIRST].shape[2])]}
    for seed in range(len(weights[FIRST])):
        field = Field((1000 * keys + seed).to_bytes(32, "little"), b"lock_construction", strength)
        operation = field.unlock if undo else field.lock
        for name, weight in weights.items():
            result[name].append(operation(name, weight[seed], names if name == FIRST else None))
    return {name: torch.stack(each) for name, each in result.items()}
