"""Sections that are simulated here: three domains in stripes, counts, a batch effect a site."""

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import infl
from infl._mudata import without_pull
from infl.errors import InflWarning

SIDE = 12
DOMAIN = np.repeat(np.arange(3), SIDE * SIDE // 3)
XY = np.indices((SIDE, SIDE)).reshape(2, -1).T.astype(float)
N_FEATURES = {"rna": 18, "adt": 9, "atac": 12}


def table(modality: str, site: str, seed: int) -> AnnData:
    """A third of the features is high in each domain."""
    rng, p = np.random.default_rng([seed, N_FEATURES[modality]]), N_FEATURES[modality]
    rate = np.where(DOMAIN[:, None] == np.arange(p) % 3, 6.0, 2.0) * rng.uniform(0.7, 1.4, p)
    x = rng.poisson(rate) if modality != "atac" else rng.random(rate.shape) < rate / 10
    names = [f"{modality}_{i}" for i in range(p)]
    obs = pd.DataFrame({"domain": DOMAIN.astype(str)}, index=[f"{site}-{i}" for i in range(len(x))])
    return AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=names), obsm={"spatial": XY})


def section(site: str, seed: int, *modalities: str) -> MuData:
    with without_pull():
        mdata = MuData({m: table(m, site, seed) for m in modalities})
    mdata.obsm["spatial"] = XY
    return mdata


@pytest.fixture
def sites() -> dict[str, MuData]:
    return {"a": section("a", 0, "rna", "adt"), "b": section("b", 1, "rna"), "c": section("c", 2, "adt")}


def fit(sites, **options):
    options = {"n_domains": 3, "rounds": 6, "batch_size": 16, "lr": 1e-2, "width": 0, "n_latent": 4} | options
    options = {"key": None, "lock": None, "seal": "none"} | options if "key" not in options else options
    with pytest.warns(InflWarning, match="coordinator reads") if options.get("seal") == "none" else nullcontext():
        return infl.tl.fit_federated(sites, model="mosaic", progress=False, **options)


def correlation(a, b) -> float:
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(np.asarray(a).T, np.asarray(b).T, strict=True)]))
