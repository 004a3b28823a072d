"""Histology to expression: what a fit gives, with and without the key."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from tests.models.histology.conftest import fit, scored, section

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.models.counts import log_normalised
from infl.models.histology.scoring import expression_metrics


def test_expression_of_a_new_section_is_predicted():
    run = fit({f"site_{i}": section(i, n_side=12, name=f"s{i}", tint=1 + 0.1 * i) for i in range(3)})
    new = section(9, name="new", tint=1.3, spacing=7.0)
    infl.tl.predict(new, run.model, key=run.key)
    truth = log_normalised(new.X, 1e4)
    value = expression_metrics(new.layers["infl_predicted"], truth)["pearson"]
    assert value > 0.35
    assert new.var["infl_pearson"].between(-1, 1).all() and new.var["infl_pearson"].median() > 0.3
    assert new.obsm["X_infl"].shape == (49, 16)


def test_a_wrong_key_and_none_are_worth_nothing(sites):
    run = fit(sites)
    new = section(9, name="new")
    assert scored(run, new, run.key) > 0.4
    wrong = [scored(run, new, infl.keys.Keyring.create(), verify=False) for _ in range(10)]
    assert abs(np.mean(wrong)) < 0.15
    assert abs(np.mean([scored(fit(sites), new, None) for _ in range(3)])) < 0.2


def test_lock_and_seal_change_nothing_and_pooled_regression_is_the_same(sites):
    options = {"section_key": "section", "validation": 0.0}
    run = fit(sites, **options)
    plain = fit(sites, lock=None, seal="none", **options)
    new = section(9, name="new")
    for model, key in ((run.model, run.key), (plain.model, None)):
        infl.tl.predict(new, model, key=key, key_added="x" if key else "y")
    np.testing.assert_allclose(new.layers["x_predicted"], new.layers["y_predicted"], atol=1e-3)
    pooled = fit({"all": ad.concat(list(sites.values()), uns_merge="same")}, lock=None, seal="none", **options)
    infl.tl.predict(new, pooled.model, key_added="z")
    np.testing.assert_allclose(new.layers["x_predicted"], new.layers["z_predicted"], atol=1e-3)


def test_results_survive_a_file_and_genes_are_found_by_name(sites, tmp_path):
    run = fit(sites)
    run.save(tmp_path / "m.safetensors")
    new = section(9)[:, ::-1].copy()
    new = ad.concat(
        [new, ad.AnnData(np.ones((49, 1)), obs=new.obs, var=pd.DataFrame(index=["other"]))],
        axis=1,
        merge="same",
        uns_merge="first",
    )
    new.obsm.update(section(9).obsm)
    infl.tl.predict(new, infl.load_model(tmp_path / "m.safetensors"), key=run.key)
    new.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert np.isnan(back[:, "other"].layers["infl_predicted"]).all()
    again = section(9)
    infl.tl.predict(again, run.model, key=run.key)
    np.testing.assert_allclose(back[:, "gene_3"].layers["infl_predicted"], again[:, "gene_3"].layers["infl_predicted"])


def test_a_section_without_counts_is_predicted_and_genes_without_a_column_are_told(sites):
    run = fit(sites)
    measured = section(9)
    infl.tl.predict(measured, run.model, key=run.key)
    new = ad.AnnData(obs=measured.obs, var=measured.var[[]], obsm=dict(section(9).obsm), uns=dict(section(9).uns))
    infl.tl.predict(new, run.model, key=run.key)
    np.testing.assert_array_equal(new.layers["infl_predicted"], measured.layers["infl_predicted"])
    with pytest.warns(
        InflWarning, match="the data has no column for 28 of the model's 30 genes, first 'gene_2': their"
    ):
        infl.tl.predict(new[:, :2].copy(), run.model, key=run.key)
    bare = ad.AnnData(obs=new.obs, obsm=dict(new.obsm), uns=dict(new.uns))
    with pytest.raises(DataError, match="the data has none of the model's 30 genes, .* it needs no counts"):
        infl.tl.predict(bare, run.model, key=run.key)
    with pytest.raises(DataError, match="the data has 0 spots, too few for n_neighbors=8"):
        infl.tl.predict(new[:0].copy(), run.model, key=run.key)
    with pytest.raises(DataError, match="the data has no X"):
        infl.tl.personalise(run, {"the data": new})


def test_genes_have_no_quality_where_no_spot_was_held_out():
    sites = {f"site_{i}": section(i, n_side=2, name=f"s{i}")[:1].copy() for i in range(3)}
    fit(sites, context=0, rounds=1)
    assert sites["site_0"].var["infl_pearson"].isna().all()
    assert np.isfinite(sites["site_0"].layers["infl_predicted"]).all()


def test_the_patch_alone_with_a_backbone_of_the_users(sites, monkeypatch):
    monkeypatch.setitem(infl.settings.backbones, "flat", torch.nn.Flatten)
    run = fit(sites, statistics=False, context=0, backbone="flat", gene_likelihood="poisson", stain="macenko")
    assert "coefficients" not in run.model.private_arrays(run.key)
    assert run.history["val_loss"].min() < run.history["val_loss"].iloc[0]
    del sites["site_0"].obsm["spatial"]
    infl.tl.predict(sites["site_0"], run.model, key=run.key)  # without neighbours no coordinates are needed


def test_no_code_is_run_because_a_file_names_it(sites, monkeypatch, tmp_path):
    """Neither the words of an offer nor those of a model file are import paths."""
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nmake = None")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("evil:make", "evil.make", "torch.nn:Flatten", str(tmp_path / "evil.py")):
        with pytest.raises(SettingsError, match="is not known here"):
            fit(sites, backbone=name)
    monkeypatch.setitem(infl.settings.backbones, "evil:make", torch.nn.Flatten)
    run = fit(sites, backbone="evil:make", statistics=False)
    run.save(tmp_path / "m.safetensors")
    monkeypatch.delitem(infl.settings.backbones, "evil:make")
    model = infl.load_model(tmp_path / "m.safetensors")
    with pytest.raises(SettingsError, match="is not known here"):
        infl.tl.predict(sites["site_0"], model, key=run.key)
    assert not (tmp_path / "ran").exists()
