"""A number in ``obs``, predicted by a linear model: ridge regression, which here is gradient descent that ends early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor, nn

import infl
from infl.errors import DataError, SettingsError
from infl.models import SiteData, Task
from infl.models.options import COLUMN, Kind, Real
from infl.sums import FederatedSum, SiteView, State

Sums = dict[str, np.ndarray]


class Rows(SiteData):
    """Features (n, p) and numbers to predict (n,) of one site."""

    def __init__(self, x: np.ndarray, y: np.ndarray, train: np.ndarray, validation: np.ndarray) -> None:
        self.x, self.y, self.train, self.validation = x, y, train, validation

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return features and numbers of the rows `index`."""
        return torch.from_numpy(self.x[index]), torch.from_numpy(self.y[index])


class Line(nn.Module):
    """Linear model of standardised features; moments are set from sums over sites and are no part of its weights."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.head = nn.Linear(n_features, 1)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)
        for name, value in {"center": torch.zeros(n_features), "scale": torch.ones(n_features)}.items():
            self.register_buffer(name, value, persistent=False)
        for name in ("y_center", "y_scale"):
            self.register_buffer(name, torch.tensor(float(name == "y_scale")), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, p) to predictions (n,) in standard units."""
        z = ((x - self.center) / self.scale).clamp(-10, 10) / x.shape[1] ** 0.5  # a row's length is about 1
        return self.head(z)[:, 0]


@dataclass(frozen=True)
class Regression(Task):
    """Predict a number in ``obs`` from all features.

    Parameters
    ----------
    target
        Column of ``obs`` with the numbers.
    validation
        Share of each site's observations that judges rounds and is not trained on.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> for adata in sites.values():
    ...     adata.obs["first"] = adata.X[:, 0]
    >>> run = infl.tl.fit_federated(sites, Regression(target="first"), rounds=3, progress=False)
    >>> sites["site_1"].obs["infl_prediction"].dtype
    dtype('float64')
    """

    name: ClassVar[str] = "regression"
    headline: ClassVar[str] = "r2"

    target: str = ""
    validation: float = 0.2
    optimiser: Literal["adamw", "sgd"] = "sgd"
    lr: float = 0.5
    weight_decay: float = 0.0

    parameters: ClassVar[dict[str, Kind]] = Task.parameters | {"target": COLUMN, "validation": Real(0, 1, open="high")}

    # -- data: what the sites agree on, and how a site reads its own --------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData]) -> dict[str, Any]:
        """Return the features that all sites have, after checking the numbers."""
        if not self.target:
            raise SettingsError("model='regression' needs target=, the obs column with the numbers")
        for site, adata in sites.items():
            column = infl.pp.obs_column(adata, self.target, where=site, role="target")
            if column.dtype.kind not in "iuf":
                raise DataError(f"target {self.target!r} at {site} is not numeric: for classes take model='classifier'")
        return {"features": list(infl.pp.panel_of(sites).features)}

    def read(
        self,
        adata: AnnData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> Rows:
        """Read features and, when training, the numbers; without the key, features by their own moments."""
        missing = [f for f in panel["features"] if f not in adata.var_names]
        if missing:
            raise DataError(f"{site} lacks {len(missing)} features, first {missing[0]!r}: use infl.pp.harmonise")
        x = adata[:, panel["features"]].X
        x = np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32)
        if keyless:
            x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
        n = adata.n_obs
        if rng is None:
            return Rows(x, np.zeros(n, np.float32), np.arange(n), np.arange(0))
        order, n_validation = rng.permutation(n), round(self.validation * n)
        y = adata.obs[self.target].to_numpy(np.float32)
        return Rows(x, y, np.sort(order[n_validation:]), np.sort(order[:n_validation]))

    # -- sums over sites before training: moments ----------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return one sum, of moments."""
        p = len(panel["features"])

        def local(site: SiteView, state: State) -> Sums:
            x, y = (values[site.data.train].astype(float) for values in (site.data.x, site.data.y))
            n = np.asarray(float(len(y)))
            return {"n": n, "x": x.sum(0), "xx": (x**2).sum(0), "y": y.sum(), "yy": (y**2).sum()}

        def combine(total: Sums, state: State) -> State:
            moments: State = {}
            for name, of in {"": "x", "y_": "y"}.items():
                mean = total[of] / total["n"]
                variance = np.maximum(total[of * 2] / total["n"] - mean**2, 0)
                moments |= {f"{name}center": mean, f"{name}scale": np.sqrt(np.where(variance > 1e-9, variance, 1.0))}
            return {**state, **moments}

        moments = FederatedSum(
            name="moments",
            shapes={"n": (), "x": (p,), "xx": (p,), "y": (), "yy": ()},
            local=local,
            combine=combine,
            says="number of records, sums and sums of squares of each feature and of the target, to bring them to one scale",
            records=lambda site, state: len(site.data.train),
            sensitivity={"n": 1},
        )
        return (moments,)

    # -- model -----------------------------------------------------------------------------------------------------
    def build(self, panel: Mapping[str, Any]) -> Line:
        """Return a fresh model."""
        return Line(len(panel["features"]))

    def configure(self, module: nn.Module, private: Sums) -> None:
        """Set the moments."""
        for name, value in private.items():
            getattr(module, name).copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Columns of the weights are features."""
        return {"head.weight": {1: panel["features"]}}

    def losses(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return half the squared error of each observation, in standard units."""
        x, y = batch
        return (module(x) - (y - module.y_center) / module.y_scale).square() / 2

    # -- judging: sums, never values of an observation ----------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Shapes of what `evaluate` returns."""
        return {"n": (), "error": (), "y": (), "yy": ()}

    @torch.no_grad()
    def evaluate(self, module: nn.Module, data: Rows, index: np.ndarray) -> Sums:
        """Return number, squared error, and the moments that R² needs."""
        y = data.y[index].astype(float)
        found = self.infer(module, Rows(data.x[index], y, index, index), {})["value"]
        return {"n": np.asarray(float(len(y))), "error": ((found - y) ** 2).sum(), "y": y.sum(), "yy": (y**2).sum()}

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return mean squared error and R²."""
        if not sums["n"]:
            return {"loss": np.nan, "r2": np.nan}
        spread = float(sums["yy"] - sums["y"] ** 2 / sums["n"])
        return {"loss": float(sums["error"] / sums["n"]), "r2": 1 - float(sums["error"]) / max(spread, 1e-12)}

    # -- results ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def infer(self, module: nn.Module, data: Rows, private: Sums) -> dict[str, np.ndarray]:
        """Return predictions in the units of the target."""
        standard = module(torch.from_numpy(data.x)).double()
        return {"value": (standard * module.y_scale + module.y_center).numpy()}

    def write(
        self, adata: AnnData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write ``obs[key_added + "_prediction"]``."""
        adata.obs[f"{key_added}_prediction"] = outputs["value"]

    # -- for infl.tl.compare -----------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out a share of the observations."""
        return rng.permutation(adata.n_obs) < share * adata.n_obs

    def score(self, adata: AnnData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]) -> dict[str, float]:
        """Return R² and the correlation."""
        y, found = adata.obs[self.target].to_numpy(float), outputs["value"]
        r2 = 1 - ((found - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        return {"r2": float(r2), "correlation": float(np.corrcoef(found, y)[0, 1])}

    def baseline(
        self, train: AnnData, panel: Mapping[str, Any], *, seed: int
    ) -> Callable[[AnnData], dict[str, np.ndarray]]:
        """Fit ridge regression on the pooled data, its penalty by cross-validation; return what predicts other data."""
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        known = self.read(train, panel, site="the data", rng=np.random.default_rng(seed))
        model = make_pipeline(StandardScaler(), RidgeCV(np.geomspace(1e-1, 1e4, 11))).fit(known.x, known.y)
        return lambda adata: {"value": model.predict(self.read(adata, panel, site="the data").x)}
