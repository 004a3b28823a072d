"""Moments that features are scaled by: exact in whatever unit they come, and constant features stay as they are."""

from typing import Any

import anndata
import numpy as np
import pytest

import infl
from infl.sums.standardise import unit_of

UNITS = [2.0**-30, 2.0**-20, 2.0**20]


@pytest.fixture
def table() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(rng.normal(size=12), 1, (60, 12)).astype(np.float32)


def fitted(table: np.ndarray, **options) -> Any:
    """Return a fit on three sites, whose classes follow from the first feature."""
    adata = anndata.AnnData(table)
    adata.obs["kind"] = np.where(table[:, 0] > np.median(table[:, 0]), "high", "low")
    adata.obs_names = [f"record_{i}" for i in range(len(table))]
    adata.obs["site"] = [f"site_{i % 3}" for i in range(60)]
    sites = infl.pp.split_sites(adata, by="site")
    return infl.tl.fit_federated(sites, target="kind", rounds=3, progress=False, **options)


@pytest.mark.parametrize("standardise", ["federated", "site"])
@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_of_features_does_not_matter(table: np.ndarray, unit: float, standardise: str) -> None:
    key = infl.keys.Keyring.create()
    ours, theirs = (fitted(x, standardise=standardise, key=key) for x in (table, table * np.float32(unit)))
    np.testing.assert_allclose(theirs.history["val_loss"], ours.history["val_loss"], rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.1, 1e6, 1e12])
def test_what_does_not_vary_keeps_its_scale(value: float) -> None:
    rng = np.random.default_rng(0)
    x = np.full(1000, value) + rng.normal(size=1000) * abs(value) * 1e-9  # rounding
    assert unit_of(np.array([x.var()]), np.array([x.mean()])).tolist() == [1.0]


def test_what_varies_by_little_is_scaled() -> None:
    variance, mean = np.array([1e-12, 4e-20, 9.0]), np.array([1e-6, 1e-9, 1e5])
    np.testing.assert_allclose(unit_of(variance, mean), [1e-6, 2e-10, 3.0])
