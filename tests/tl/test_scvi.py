"""Models go to scvi-tools and come from there, and counts are told without noise."""

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.models.scvi.conftest import SMALL, genes, three_hospitals

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.models.locked.outputs import infer

pytestmark = pytest.mark.needs("scvi")


@pytest.fixture
def hospitals() -> dict[str, AnnData]:
    return three_hospitals()


def test_to_scvi_gives_the_same_latent(fitted: tuple) -> None:
    import scvi

    cells, run = fitted
    theirs = infl.tl.to_scvi(run.model, cells, key=run.key, site_key="hospital")
    assert type(theirs) is scvi.model.SCVI
    np.testing.assert_allclose(theirs.get_latent_representation(), cells.obsm["X_infl"], atol=1e-4)
    table = theirs.differential_expression(groupby="group", group1="1", group2="0", mode="change", silent=True)
    changed = [name for i, name in enumerate(genes()) if i % 3 == 0]
    assert table.loc[changed, "lfc_mean"].mean() > table.drop(changed)["lfc_mean"].mean() + 0.3
    assert "infl_site" not in cells.obs and "_scvi_batch" not in cells.obs


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_model_trained_elsewhere_goes_under_lock_and_back(
    hospitals: dict[str, AnnData], norm: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import scvi

    cells = ad.concat(hospitals.values())
    cells.obs["donor"] = np.where(np.arange(cells.n_obs) % 2, "a", "b")
    scvi.model.SCVI.setup_anndata(cells, batch_key="hospital", categorical_covariate_keys=["donor"])
    norms = {} if norm == "batch" else {"use_batch_norm": "none", "use_layer_norm": "both"}
    theirs = scvi.model.SCVI(cells, n_hidden=16, n_latent=3, **norms)
    theirs.train(max_epochs=1, enable_progress_bar=False, logger=False, accelerator="cpu")
    key = infl.keys.Keyring.create()
    file = infl.tl.from_scvi(theirs, key=key).save(tmp_path_factory.mktemp("models") / "m.infl.safetensors")
    locked = infl.load_model(file)
    expected = theirs.get_latent_representation()
    np.testing.assert_allclose(infer(cells, locked, key)["latent"], expected, atol=1e-4)
    back = infl.tl.to_scvi(locked, cells, key=key, site_key="hospital")
    np.testing.assert_allclose(back.get_latent_representation(), expected, atol=1e-4)
    states = theirs.module.state_dict(), back.module.state_dict()
    for name in locked.stored:
        torch.testing.assert_close(states[1][name], states[0][name], rtol=1e-5, atol=1e-6)
    with pytest.warns(InflWarning, match="no key"):
        infl.tl.predict(cells, locked)
    assert np.abs(cells.obsm["X_infl"] - expected).mean() > 0.1
    assert not any("running" in name for name in locked.stored)


def test_published_lock_reaches_layers_with_covariates(hospitals: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(hospitals, "scvi", rounds=1, lock="published", **SMALL)
    latent = infer(hospitals["h0"], run.model, run.key)["latent"]
    assert np.abs(latent - infer(hospitals["h0"], run.model, None)["latent"]).max() > 0.1
    with pytest.raises(SettingsError, match="no place for the layers of lock='published'"):
        infl.tl.to_scvi(run.model, hospitals["h0"], key=run.key, site="h0")


def test_what_scvi_tools_cannot_take_or_give(fitted: tuple) -> None:
    import scvi

    cells, run = fitted
    with pytest.raises(SettingsError, match="say where the cells are from: site=, one of h0, h1, h2"):
        infl.tl.to_scvi(run.model, cells, key=run.key)
    with pytest.raises(DataError, match="'h7' is not a site of the model"):
        infl.tl.to_scvi(run.model, cells, key=run.key, site="h7")
    theirs = infl.tl.to_scvi(run.model, cells, key=run.key, site="h0")
    with pytest.raises(SettingsError, match="from_scvi locks with lock='field' and key="):
        infl.tl.from_scvi(theirs, key=None)
    other = scvi.model.SCVI(theirs.adata, use_observed_lib_size=False)
    with pytest.raises(SettingsError, match="use_observed_lib_size=False cannot be locked, only with True"):
        infl.tl.from_scvi(other, key=run.key)
    both = scvi.model.SCVI(theirs.adata, use_layer_norm="both")
    with pytest.raises(SettingsError, match="cannot be locked: have 'both' of one"):
        infl.tl.from_scvi(both, key=run.key)
    with pytest.raises(SettingsError, match="from_scvi takes a scvi.model.SCVI, not str"):
        infl.tl.from_scvi("model.pt", key=run.key)
