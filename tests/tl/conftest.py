"""Shared by the tests of this folder."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.models.scvi.conftest import cells_of_three_fitted

import infl
from infl.errors import MAX_LENGTH, InflError
from infl.federation.run import FederatedRun
from infl.keys import Keyring


def cohort(kind: str = "logarithms") -> dict[str, AnnData]:
    """Three sites with two classes of cells; counts, or their logarithms."""
    sites = {}
    for number in range(3):
        rng = np.random.default_rng(number)
        label = np.arange(40) % 2
        counts = rng.poisson(np.where(label[:, None] == np.arange(12) % 2, 9.0, 2.0)).astype(np.float32)
        obs = pd.DataFrame({"label": np.array(["a", "b"])[label]}, index=[f"{number}_{i}" for i in range(40)])
        adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(12)]))
        adata.layers["counts"], adata.layers["log"] = counts.copy(), np.log1p(counts)
        if kind == "logarithms":
            adata.X = np.log1p(counts)
        sites[f"site_{number + 1}"] = adata
    return sites


def fit(sites, **options) -> FederatedRun:
    options = {"target": "label", "rounds": 3, "width": 8, "n_blocks": 1, "progress": False} | options
    return infl.tl.fit_federated(sites, **options)


@pytest.fixture(scope="module")
def run() -> FederatedRun:
    return fit(cohort())


USES = {
    "predict": lambda adata, run: infl.tl.predict(adata, run),
    "embed": lambda adata, run: infl.tl.embed(adata, run),
    "predict by name": lambda adata, run: infl.tl.predict({"a": adata}, run),
    "personalise": lambda adata, run: infl.tl.personalise(run, {"site_1": adata}, epochs=1),
    "calibrate_lock": lambda adata, run: infl.tl.calibrate_lock(run, {"site_1": adata}),
    "lock_curve": lambda adata, run: infl.tl.lock_curve(run, {"site_1": adata}, strengths=[1.0], n_keys=1),
    "site_metrics": lambda adata, run: infl.tl.site_metrics(run, {"site_1": adata}),
    "audit": lambda adata, run: infl.tl.audit(run, {"site_1": adata}, attacks="wrong_key", progress=False),
}


@pytest.fixture
def query() -> AnnData:
    """As one site of the fit, with nothing written into it."""
    return cohort()["site_1"]


def refused(use, *args) -> str:
    with pytest.raises(InflError) as caught:
        use(*args)
    text = str(caught.value)
    assert "\n" not in text and len(text) < MAX_LENGTH
    return text


@pytest.fixture(scope="module")
def fitted() -> tuple[AnnData, FederatedRun]:
    return cells_of_three_fitted(rounds=45)


SIDE = 14


KEY = Keyring.create()


def tissue(seed: int, n_sections: int = 1, effect: float = 0.4, unit: float = 1.0) -> ad.AnnData:
    """Sections of three stripes, which each express a third of 30 genes more; each patient has an effect of its own."""
    rng = np.random.default_rng(seed)
    profiles = np.ones((3, 30))
    for region in range(3):
        profiles[region, 10 * region : 10 * region + 10] = 4.0
    patient = np.exp(effect * rng.standard_normal(30))
    xy = np.indices((SIDE, SIDE)).reshape(2, -1).T.astype(float)
    parts = []
    for section in range(n_sections):
        region = np.minimum((xy[:, section % 2] * 3 // SIDE).astype(int), 2)
        depth = rng.lognormal(0, 0.5, len(xy))
        counts = rng.poisson(profiles[region] * patient * depth[:, None])
        obs = {"region": np.array(["tumour", "stroma", "fat"])[region], "section": f"s{section}"}
        parts.append(ad.AnnData(counts.astype(np.float32), obs=obs, obsm={"spatial": unit * xy}))
    whole = ad.concat(parts, index_unique="-", keys=range(n_sections))
    whole.obs_names = [f"spot {i}" for i in range(whole.n_obs)]
    return whole


def three_patients(**options) -> dict[str, ad.AnnData]:
    return {f"p{i}": tissue(i, unit=10.0**i, **options) for i in range(3)}
