"""Spatial domains: what a fit gives, with and without the key."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from tests.models.spatial.conftest import OPTIONS, regions, section, sites

import infl
from infl.errors import DataError, InflWarning, KeyringError, SettingsError
from infl.keys import Keyring
from infl.models.locked.outputs import infer


@pytest.fixture(scope="module")
def fitted():
    tables = sites()
    run = infl.tl.fit_federated(tables, **OPTIONS)
    return tables, run


def test_domains_mean_the_same_at_all_sites(fitted):
    tables, run = fitted
    assert regions(tables) > 0.9
    assert all(list(s.obs["infl_domain"].cat.categories) == ["0", "1", "2"] for s in tables.values())
    assert all(s.obsm["X_infl"].shape == (144, 5) for s in tables.values())
    assert run.history["val_loss"].iloc[0] < 0.5  # of 1, how much spots vary within sections


def test_a_new_section_gets_the_same_domains(fitted, tmp_path):
    tables, run = fitted
    new = section(7, depth=1.5, shift=1)
    infl.tl.predict(new, run.model, key=run.key)
    assert regions(tables | {"new": new}) > 0.9
    new.write_h5ad(tmp_path / "new.h5ad")
    assert ad.read_h5ad(tmp_path / "new.h5ad").obs["infl_domain"].equals(new.obs["infl_domain"])
    with pytest.raises(KeyringError):
        infl.tl.predict(section(8), run.model, key=Keyring.create())


def test_there_are_no_domains_without_the_key(fitted):
    tables, run = fitted
    right = infer(tables["a"], run.model, run.key)["domain"]
    assert adjusted_rand_score(tables["a"].obs["region"], right) > 0.9  # the control
    for wrong in (Keyring.create(), None):
        assert (infer(tables["a"], run.model, wrong, verify=False)["domain"] == -1).all()
    new = section(7)
    with pytest.warns(InflWarning, match="no key"):
        infl.tl.predict(new, run.model)
    assert new.obs["infl_domain"].isna().all()


def test_lock_and_seal_change_nothing(fitted):
    tables, _ = fitted
    plain = sites()
    with pytest.warns(InflWarning, match="seal='none'"):
        infl.tl.fit_federated(plain, lock=None, seal="none", **OPTIONS)
    for name, adata in plain.items():
        difference = np.linalg.norm(adata.obsm["X_infl"] - tables[name].obsm["X_infl"])
        assert difference < 1e-3 * np.linalg.norm(adata.obsm["X_infl"])
        assert (adata.obs["infl_domain"] == tables[name].obs["infl_domain"]).all()


def test_different_units_are_told_of_and_change_nothing(fitted):
    tables = sites()
    tables["b"].obsm["spatial"] *= 200
    with pytest.warns(InflWarning, match="different units"):
        infl.tl.fit_federated(tables, **OPTIONS)
    assert (tables["b"].obs["infl_domain"] == fitted[0]["b"].obs["infl_domain"]).all()


def test_options_are_checked():
    with pytest.raises(SettingsError, match="n_domains=0"):
        infl.models.Spatial(n_domains=0)
    with pytest.raises(SettingsError, match="mask=1"):
        infl.models.Spatial(mask=1)
    with pytest.raises(DataError, match="too few for n_domains=100"):
        infl.tl.fit_federated(sites(), **OPTIONS | {"n_domains": 100})
