"""Hospitals with cells of two groups, simulated here."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import infl
from infl.federation.run import FederatedRun

N_GENES, N_CELLS = 60, 120
SMALL = {"n_hidden": 32, "n_latent": 4, "batch_size": 32, "lr": 5e-3, "progress": False}


def hospital(number: int, group: np.ndarray) -> AnnData:
    """Cells of two groups, in which a third of the genes is tripled or not; each hospital loses its own genes."""
    rng = np.random.default_rng(number)
    rate = np.random.default_rng(99).gamma(1.0, 2.0, N_GENES) + 0.2
    effect = np.where(np.arange(N_GENES) % 3 == 0, 3.0, 1.0)
    depth = rng.lognormal(0, 0.8, (len(group), 1))
    counts = rng.poisson(rate * np.where(group[:, None] == 1, effect, 1.0) * depth * rng.gamma(20, 1 / 20, N_GENES))
    counts[:, 0] += 1
    obs = pd.DataFrame({"group": pd.Categorical(group.astype(str)), "hospital": f"h{number}"})
    obs.index = [f"h{number}_{i}" for i in range(len(group))]
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=genes()))


def genes() -> list[str]:
    return [f"gene_{i}" for i in range(N_GENES)]


def three_hospitals() -> dict[str, AnnData]:
    return {f"h{i}": hospital(i, np.arange(N_CELLS) % 2) for i in range(3)}


@pytest.fixture
def hospitals() -> dict[str, AnnData]:
    return three_hospitals()


def cells_of_three_fitted(rounds: int = 80) -> tuple[AnnData, FederatedRun]:
    cells = ad.concat(three_hospitals().values())
    return cells, infl.tl.fit_federated(cells, "scvi", site_key="hospital", rounds=rounds, kl_warmup=1.0, **SMALL)
