"""A third party's classifier, as small as one can be: a task that no package registers, of public names alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor, nn

import infl
from infl.models import SiteData, Task

Sums = dict[str, np.ndarray]


class Rows(SiteData):
    """Features (n, p) and class numbers (n,) of one site."""

    def __init__(self, x: Tensor, labels: Tensor, train: np.ndarray, validation: np.ndarray) -> None:
        self.x, self.labels, self.train, self.validation = x, labels, train, validation

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.x[index], self.labels[index]


class Layers(nn.Module):
    """Two layers; the names of the first one are its own."""

    def __init__(self, n_features: int, n_classes: int, width: int) -> None:
        super().__init__()
        self.entrance, self.head = nn.Linear(n_features, width), nn.Linear(width, n_classes)

    def latent(self, x: Tensor) -> Tensor:
        return torch.tanh(self.entrance(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.latent(x))


@dataclass(frozen=True)
class Softmax(Task[Rows, Layers]):
    """Classes from features that are divided by ten; there are no sums before or after training."""

    name: ClassVar[str] = "softmax"
    headline: ClassVar[str] = "accuracy"

    target: str = ""
    width: int = 6
    validation: float = 0.2

    def agree(self, sites: Mapping[str, AnnData]) -> dict[str, Any]:
        panel = infl.pp.panel_of(sites, target=self.target)
        return {"features": list(panel.features), "classes": list(panel.classes)}

    def read(
        self,
        adata: AnnData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> Rows:
        x = torch.from_numpy(np.asarray(adata[:, panel["features"]].X, dtype=np.float32)) / 10
        n = adata.n_obs
        if rng is None:
            return Rows(x, torch.zeros(n, dtype=torch.long), np.arange(n), np.arange(0))
        known = {name: number for number, name in enumerate(panel["classes"])}
        y = torch.tensor([known[str(label)] for label in adata.obs[self.target]])
        held = rng.random(n) < self.validation
        return Rows(x, y, np.flatnonzero(~held), np.flatnonzero(held))

    def build(self, panel: Mapping[str, Any]) -> Layers:
        return Layers(len(panel["features"]), len(panel["classes"]), self.width)

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        classes = panel["classes"]
        return {
            "entrance.weight": {1: panel["features"]},
            "head.weight": {0: classes},
            "head.bias": {0: classes},
        }

    def losses(self, module: Layers, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return -module(x).log_softmax(-1).gather(-1, y[:, None]).squeeze(-1)

    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        return {"n": (), "loss": (), "hits": ()}

    @torch.no_grad()
    def evaluate(self, module: Layers, data: Rows, index: np.ndarray) -> Sums:
        x, y = data.batch(index)
        logits = module(x).double()
        loss = nn.functional.cross_entropy(logits, y, reduction="sum")
        hits = (logits.argmax(1) == y).sum()
        return {name: np.asarray(float(value)) for name, value in {"n": len(y), "loss": loss, "hits": hits}.items()}

    def summarise(self, sums: Sums) -> dict[str, float]:
        n = max(float(sums["n"]), 1.0)
        return {"loss": float(sums["loss"]) / n, "accuracy": float(sums["hits"]) / n}

    @torch.no_grad()
    def infer(self, module: Layers, data: Rows, private: Sums) -> dict[str, np.ndarray]:
        return {"probability": module(data.x).softmax(1).numpy()}

    def write(
        self, adata: AnnData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        adata.obs[f"{key_added}_prediction"] = np.asarray(panel["classes"])[outputs["probability"].argmax(1)]

    def hold_out(self, adata: AnnData, share: float, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(adata.n_obs) < share * adata.n_obs

    # -- what attacks ask for ------------------------------------------------------------------------------------------
    def scaled(self, x: np.ndarray, private: Sums) -> np.ndarray:
        return x
