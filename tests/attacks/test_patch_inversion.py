"""Tissue from an update: the attack runs on a histology run as users have it."""

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl.attacks import patch_inversion
from infl.errors import InflWarning


def section(seed: int) -> AnnData:
    rng = np.random.default_rng(seed)
    smooth = np.repeat(np.repeat(rng.integers(60, 220, (16, 2, 2, 3)), 4, 1), 4, 2)
    obsm = {"spatial": np.indices((4, 4)).reshape(2, -1).T * 100.0, "patches": smooth.astype(np.uint8).reshape(16, -1)}
    adata = AnnData(rng.poisson(3.0, (16, 12)).astype(np.float32), obsm=obsm, uns={"patch_shape": np.array((8, 8, 3))})
    adata.obs_names = [f"{seed}_{i}" for i in range(16)]
    adata.obs = pd.DataFrame({"section": str(seed)}, index=adata.obs_names)
    return adata


@pytest.fixture
def sites():
    return {f"site_{i}": section(i) for i in range(3)}


@pytest.mark.long
def test_tissue_is_drawn_from_an_open_update_and_not_from_a_sealed_one(sites, monkeypatch) -> None:
    monkeypatch.setattr(patch_inversion, "N_REPEATS", 2)
    monkeypatch.setattr(patch_inversion, "STAGES", ((1e-2, 60), (1e-4, 90)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        run = infl.tl.fit_federated(sites, model="histology", rounds=1, progress=False)
        table = infl.tl.audit(run, sites, attacks=["patch_inversion"], progress=False)
    (row,) = table.itertuples()
    assert row.control > row.value + 0.2, "the same without a seal"
    assert abs(row.value - row.chance) < 0.2
