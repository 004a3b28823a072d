"""Sections that are made here, in which tissue and genes are known."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import infl
from infl.errors import InflWarning

SIDE, N_GENES, SHAPE = 7, 30, (8, 8, 3)
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])  # optical density of haematoxylin and of eosin


def section(seed, n_side=SIDE, name="s", tint=1.0, spacing=100.0):
    """Spots on a square; nuclei thicken along a gradient with noise, and half of the genes follow them."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((n_side, n_side)).reshape(2, -1)
    nuclei = np.clip(0.2 + 0.6 * x / n_side + rng.normal(0, 0.15, len(x)), 0.05, None)
    amounts = np.stack([nuclei[:, None] * rng.gamma(4, 0.25, (len(x), 64)), 0.4 * rng.gamma(4, 0.25, (len(x), 64))], 2)
    density = tint * amounts @ STAINS
    patches = np.clip(256 * np.exp(-density) - 1, 1, 255).astype(np.uint8).reshape(len(x), -1)
    slope = np.where(np.arange(N_GENES) % 2, 2.5, -2.0)
    rate = np.exp(2.0 + slope * (nuclei[:, None] - 0.5))
    counts = rng.poisson(rate).astype(np.float32)
    adata = ad.AnnData(
        counts,
        obs=pd.DataFrame({"section": name}, index=[f"{name}_{i}" for i in range(len(x))]),
        obsm={"spatial": np.column_stack([x, y]) * spacing, "patches": patches},
        uns={"patch_shape": np.array(SHAPE)},
    )
    adata.var_names = [f"gene_{i}" for i in range(N_GENES)]
    return adata


@pytest.fixture
def sites():
    return {f"site_{i}": section(i, name=f"s{i}", tint=1 + 0.1 * i) for i in range(3)}


def fit(sites, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        return infl.tl.fit_federated(sites, model="histology", progress=False, **{"rounds": 2} | options)


def scored(run, adata, key=None, verify=True):
    from infl.models.locked.outputs import infer

    task = run.model.header.build_task()
    outputs = infer(adata, run.model, key, verify=verify)
    return task.score(adata, outputs, run.model.header.panel)["pearson"]
