"""Prediction and latent: with the key of the run or by hand, of one object or several, all or nothing."""

from pathlib import Path

import anndata
import numpy as np
import pytest
from tests.tl.conftest import USES, cohort, fit, refused

import infl
from infl.errors import FileError, SettingsError


def test_a_class_that_the_model_does_not_know(run, query) -> None:
    query.obs["label"] = np.where(np.arange(40) % 5, query.obs["label"], "new")
    assert "site_1 has 'new' in 'label', which is none of the model's classes" in refused(
        USES["personalise"], query, run
    )


def test_a_run_brings_its_key_and_a_path_is_read(run, query, tmp_path: Path) -> None:
    by_hand = infl.tl.predict(query, run.model, key=run.key, copy=True)
    path = run.save(tmp_path / "m.safetensors")
    for model, key in ((run, None), (path, run.key), (str(path), run.key)):
        for use in (infl.tl.predict, infl.tl.embed):
            used = use(query, model, key=key, copy=True)
            np.testing.assert_array_equal(used.obsm["X_infl"], by_hand.obsm["X_infl"])
            assert used.uns["infl"]["opened_with_key"]
    with pytest.raises(FileError, match="cannot read"):
        infl.tl.predict(query, tmp_path / "none.safetensors", key=run.key)
    with pytest.raises(SettingsError, match="key=.c.key.: give a key ring"):
        infl.tl.predict(query, run, key="c.key")
    curve = infl.tl.lock_curve(run, cohort(), strengths=[1.0], n_keys=1)
    assert curve["who"].tolist() == ["right key", "wrong key", "no key"]


def test_several_objects_and_one_with_a_site_column(run) -> None:
    sites = cohort()
    infl.tl.predict(sites, run)
    pooled = anndata.concat(cohort(), label="hospital", index_unique=None)
    pooled = pooled[np.random.default_rng(0).permutation(pooled.n_obs)].copy()
    infl.tl.predict(pooled, run, site_key="hospital")
    copies = infl.tl.embed(cohort(), run, copy=True)
    for site, adata in sites.items():
        part = pooled[adata.obs_names]
        np.testing.assert_allclose(part.obsm["X_infl"], adata.obsm["X_infl"], atol=1e-5)
        assert part.obs["infl_prediction"].tolist() == adata.obs["infl_prediction"].tolist()
        assert list(copies[site].obsm) == ["X_infl"]
    assert "settings" in pooled.uns["infl"]


def test_each_site_of_one_object_is_scaled_by_itself() -> None:
    run = fit(cohort(), standardise="site")
    pooled = anndata.concat({"new_1": cohort()["site_1"], "new_2": cohort()["site_2"]}, label="hospital")
    pooled.X[pooled.obs["hospital"] == "new_2"] += 3
    apart = infl.tl.predict(
        {site: pooled[pooled.obs["hospital"] == site].copy() for site in ("new_1", "new_2")}, run, copy=True
    )
    infl.tl.predict(pooled, run, site_key="hospital")
    np.testing.assert_allclose(
        pooled.obsm["X_infl"], np.concatenate([part.obsm["X_infl"] for part in apart.values()]), atol=1e-5
    )


def test_nothing_is_written_where_one_of_several_is_wrong(run) -> None:
    sites = cohort()
    sites["site_3"].var_names = [f"other_{i}" for i in range(12)]
    refused(infl.tl.predict, sites, run)
    assert all(not adata.obsm and not adata.uns for adata in sites.values())
    assert "sites['site_2']='b.h5ad'" in refused(
        infl.tl.predict, {"site_1": cohort()["site_1"], "site_2": "b.h5ad"}, run
    )
    assert "adata=3: give an AnnData or MuData" in refused(infl.tl.predict, 3, run)


def test_settings_and_history_stay_with_the_model_that_made_them(query) -> None:
    sites, key = cohort(), infl.keys.Keyring.create()
    run = fit(sites, key=key)
    written = sites["site_1"].uns["infl"]
    infl.tl.predict(sites["site_1"], run.model, key=key)
    for name in ("settings", "history"):
        assert str(sites["site_1"].uns["infl"][name]) == str(written[name])
    infl.tl.embed(query, run)
    assert query.uns["infl"]["settings"]["rounds"] == 3
    other = fit(cohort(), key=key, rounds=1)
    infl.tl.predict(sites["site_1"], other.model, key=key)
    assert "settings" not in sites["site_1"].uns["infl"]  # those of another fit


def test_a_write_that_fails_undoes_all(run, monkeypatch) -> None:
    sites = cohort()
    task = type(run.model.header.build_task())
    write = task.write

    def failing(self, adata, *args, **kwargs):
        write(self, adata, *args, **kwargs)
        if adata is sites["site_2"]:
            raise OSError("no room")

    monkeypatch.setattr(task, "write", failing)
    with pytest.raises(OSError, match="no room"):
        infl.tl.predict(sites, run)
    assert all(not adata.obsm and not adata.uns and list(adata.obs) == ["label"] for adata in sites.values())
