"""Hospitals with cells of three types, some without labels, simulated here."""

import numpy as np
import pytest
from anndata import AnnData

SMALL = {"n_hidden": 32, "n_latent": 4, "batch_size": 32, "lr": 5e-3, "progress": False}
N = 90


def hospital(number: int) -> AnnData:
    """Cells of three types, each with twenty genes of its own."""
    rng = np.random.default_rng(number)
    kind = np.arange(N) % 3
    rate = np.full((N, 60), 1.0) * rng.gamma(20, 1 / 20, 60)
    rate[np.arange(60)[None, :] // 20 == kind[:, None]] *= 2.5
    counts = rng.poisson(rate * rng.lognormal(0, 0.5, (N, 1)))
    counts[:, 0] += 1
    adata = AnnData(counts.astype(np.float32))
    adata.obs_names = [f"h{number}_{i}" for i in range(N)]
    adata.obs["cell_type"] = np.array(["B", "NK", "T"])[kind]
    return adata


@pytest.fixture
def hospitals() -> dict[str, AnnData]:
    """The third has no labels; the first lacks some."""
    sites = {f"h{i}": hospital(i) for i in range(3)}
    sites["h0"].obs.loc[sites["h0"].obs_names[:6], "cell_type"] = ["unknown", np.nan] * 3
    sites["h2"].obs = sites["h2"].obs.drop(columns="cell_type")
    return sites
