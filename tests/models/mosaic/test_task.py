"""What a fit of the mosaic gives, with and without the key."""

import mudata
import numpy as np
import pytest
from mudata import MuData
from sklearn.metrics import adjusted_rand_score
from tests.models.mosaic.conftest import DOMAIN, XY, correlation, fit, section, table

import infl
from infl._mudata import without_pull
from infl.errors import InflWarning, SettingsError
from infl.keys import Keyring
from infl.models import load_model
from infl.models.locked.outputs import infer
from infl.models.mosaic import Mosaic
from infl.models.mosaic.modalities import KINDS


def test_domains_are_named_alike_and_what_is_missing_is_imputed(sites):
    run = fit(sites)
    found = np.concatenate([adata.obs["infl_domain"] for adata in sites.values()])
    assert adjusted_rand_score(np.tile(DOMAIN, 3), found) > 0.8
    assert {tuple(adata.obs["infl_domain"].cat.categories) for adata in sites.values()} == {("0", "1", "2")}
    assert all(adata.obsm["X_infl"].shape == (len(DOMAIN), 2) for adata in sites.values())
    assert list(sites["a"].mod) == ["rna", "adt"]
    assert list(sites["b"].mod) == ["rna", "infl_adt"] and list(sites["c"].mod) == ["adt", "infl_rna"]
    assert run.history["val_loss"].iloc[-1] < run.history["val_loss"].iloc[0]
    # nobody measured proteins of b; the simulation has them, and imputed ones have their kind's units
    measured = KINDS["clr"](table("adt", "b", 1).X, False)
    assert correlation(sites["b"]["infl_adt"].X, measured) > 0.4
    assert np.allclose(sites["b"]["infl_adt"].X.mean(), measured.mean(), atol=0.2)


def test_results_survive_a_file_and_a_second_fit(sites, tmp_path):
    run = fit(sites, key=Keyring.create())
    run.save(tmp_path / "model.safetensors")
    again = {"b": section("b", 1, "rna")}["b"]
    infl.tl.predict(again, load_model(tmp_path / "model.safetensors"), key=run.key)
    assert (again.obs["infl_domain"] == sites["b"].obs["infl_domain"]).all()
    assert np.allclose(again["infl_adt"].X, sites["b"]["infl_adt"].X, atol=1e-3)
    again.write_h5mu(tmp_path / "b.h5mu")
    with without_pull():
        assert list(mudata.read_h5mu(tmp_path / "b.h5mu").mod) == ["rna", "infl_adt"]
    assert set(Mosaic().agree(sites)["modalities"]) == {"rna", "adt"}  # what was imputed is no measurement


def test_lock_and_seal_change_nothing_and_without_the_key_no_domain_is_named(sites):
    plain = {site: adata.copy() for site, adata in sites.items()}
    fit(plain, rounds=3)
    run = fit(sites, rounds=3, key=Keyring.create())
    for site, adata in sites.items():
        assert np.abs(adata.obsm["X_infl"] - plain[site].obsm["X_infl"]).max() < 1e-3
        assert (adata.obs["infl_domain"] == plain[site].obs["infl_domain"]).all()
    right = infer(sites["b"], run.model, run.key)
    wrong = [infer(sites["b"], run.model, Keyring.create(), verify=False) for _ in range(20)]
    measured = KINDS["clr"](table("adt", "b", 1).X, False)
    assert correlation(right["imputed_0"], measured) > 0.3
    assert not any("domain" in guess for guess in wrong)
    assert abs(np.mean([correlation(guess["imputed_0"], measured) for guess in wrong])) < 0.15  # five standard errors
    with pytest.warns(InflWarning, match="no key"):
        infl.tl.predict(sites["b"], run.model)
    assert sites["b"].obs["infl_domain"].isna().all()


def test_spots_without_a_modality_are_imputed_where_others_of_the_site_have_it(sites):
    half = sites["a"]["adt"][:72].copy()
    with without_pull():
        part = MuData({"rna": sites["a"]["rna"], "adt": half})
    part.obsm["spatial"] = XY
    fit({**sites, "a": part})
    assert list(part["infl_adt"].obs_names) == list(part.obs_names[72:])
    assert part.obs["infl_domain"].notna().all()


def test_one_modality_everywhere_is_horizontal_integration():
    sites = {site: table("rna", site, seed) for seed, site in enumerate("abc")}
    fit(sites, impute="all")
    found = np.concatenate([adata.obs["infl_domain"] for adata in sites.values()])
    assert adjusted_rand_score(np.tile(DOMAIN, 3), found) > 0.8


def test_cells_without_coordinates_and_open_chromatin():
    sites = {"a": section("a", 0, "rna", "atac"), "b": section("b", 1, "rna"), "c": section("c", 2, "atac")}
    fit(sites, spatial_key=None)
    probability = sites["b"]["infl_atac"].X
    assert probability.min() >= 0 and probability.max() <= 1
    assert correlation(probability, table("atac", "b", 1).X) > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_domains": 1}, "n_domains=1"),
        ({"impute": "some"}, "one of 'missing', 'all'"),
        ({"validation": 1.0}, "give a number from 0 to below 1"),
        ({"n_latent": 0}, "whole number of at least 1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(SettingsError, match=message):
        Mosaic(**options)
