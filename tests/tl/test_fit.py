"""What users type, and what they get back: results where scanpy expects them, one line where something is wrong."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import infl
from infl.errors import DataError, InflError, InflWarning, SettingsError
from infl.keys import Keyring

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")
FAST = {"target": "tumour_class", "rounds": 2, "progress": False}


def test_results_survive_h5ad_and_zarr_and_scanpy_uses_them(khan_sites: dict[str, AnnData], tmp_path: Path) -> None:
    import scanpy as sc

    run = infl.tl.fit_federated(khan_sites, **FAST)
    adata = khan_sites["site_1"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    for back in (anndata.read_h5ad(tmp_path / "a.h5ad"), anndata.read_zarr(tmp_path / "a.zarr")):
        pd.testing.assert_frame_equal(back.obs, adata.obs, check_categorical=False)
        np.testing.assert_array_equal(back.obsm["X_infl"], adata.obsm["X_infl"])
        assert back.uns["infl"]["key_fingerprint"] == run.key.fingerprint()
        np.testing.assert_array_equal(back.uns["infl"]["history"]["val_loss"], run.history["val_loss"])
        assert back.uns["infl"]["settings"]["rounds"] == 2
        assert back.uns["infl"]["settings"]["seal"] == "group"
    sc.pp.neighbors(adata, use_rep="X_infl", n_neighbors=5)
    assert adata.obsp["connectivities"].shape == (adata.n_obs, adata.n_obs)


def test_no_secret_in_results(khan_sites: dict[str, AnnData], caplog: pytest.LogCaptureFixture) -> None:
    run = infl.tl.fit_federated(khan_sites, **FAST)
    text = (
        repr(khan_sites["site_1"].uns["infl"]) + repr(run) + repr(run.settings) + run.ledger.to_string() + caplog.text
    )
    for label in ("lock", "seal", "ledger", "file", "checkpoint"):
        assert run.key.subkey(label).hex() not in text
        assert run.key.subkey(label, salt=bytes.fromhex(run.settings["salt"])).hex() not in text


def test_predict_needs_no_labels_no_order_and_no_more_than_the_panel(khan_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(khan_sites, **FAST)
    expected = khan_sites["site_2"]
    new = AnnData(expected.X[:, ::-1].copy(), var=pd.DataFrame(index=expected.var_names[::-1]))
    new = anndata.concat([new, AnnData(np.zeros((new.n_obs, 1)), var=pd.DataFrame(index=["another"]))], axis=1)
    new.obs_names = expected.obs_names
    infl.tl.predict(new, run.model, key=run.key, key_added="mine")
    assert list(new.obs["mine_prediction"]) == list(expected.obs["infl_prediction"])
    np.testing.assert_allclose(new.obsm["X_mine"], expected.obsm["X_infl"], rtol=1e-4, atol=1e-5)
    assert list(new.uns["mine"]["classes"]) == sorted(expected.obs["tumour_class"].unique())
    np.testing.assert_allclose(new.obsm["mine_probabilities"].sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(new.obsm["mine_probabilities"].max(1), new.obs["mine_probability"], rtol=1e-6)


def test_copy_leaves_the_object_alone_and_embed_writes_the_latent_only(khan_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(khan_sites, **FAST)
    fresh = infl.datasets.khan_sites()["site_1"]
    copied = infl.tl.predict(fresh, run.model, key=run.key, copy=True)
    assert "infl" not in fresh.uns
    assert "infl_prediction" in copied.obs
    infl.tl.embed(fresh, run.model, key=run.key)
    assert [c for c in fresh.obs if c.startswith("infl")] == []
    np.testing.assert_array_equal(fresh.obsm["X_infl"], copied.obsm["X_infl"])


def test_predicting_without_the_key_warns_and_is_marked(khan_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(khan_sites, **FAST)
    with pytest.warns(InflWarning, match="no key"):
        infl.tl.predict(khan_sites["site_1"], run.model)
    assert not khan_sites["site_1"].uns["infl"]["opened_with_key"]


def test_one_object_with_a_site_column_gives_the_same_model(khan_sites: dict[str, AnnData]) -> None:
    together = anndata.concat(khan_sites, label="hospital")
    one = infl.tl.fit_federated(together, site_key="hospital", lock=None, **FAST)
    apart = infl.tl.fit_federated(khan_sites, lock=None, **FAST)
    for name, tensor in apart.model.stored.items():
        assert torch.equal(one.model.stored[name], tensor)
    assert together.obs["infl_prediction"].notna().all()
    assert together.obsm["X_infl"].shape == (together.n_obs, 64)


@pytest.mark.parametrize("kind", ["sparse", "view", "backed", "layer", "integer"])
def test_kinds_of_data(khan_sites: dict[str, AnnData], tmp_path: Path, kind: str) -> None:
    options: dict[str, object] = {}
    plain = {s: a.copy() for s, a in khan_sites.items()}
    if kind == "integer":
        for adata in (*plain.values(), *khan_sites.values()):
            adata.X = np.rint(np.asarray(adata.X) * 4)
    for site, adata in list(khan_sites.items()):
        if kind == "sparse":
            adata.X = sparse.csr_matrix(adata.X)
        elif kind == "integer":
            adata.X = adata.X.astype(np.int32)
        elif kind == "view":
            khan_sites[site] = anndata.concat([adata, adata[:1]], index_unique="-")[: adata.n_obs]
            khan_sites[site].obs_names = adata.obs_names
        elif kind == "backed":
            adata.write_h5ad(tmp_path / f"{site}.h5ad")
            khan_sites[site] = anndata.read_h5ad(tmp_path / f"{site}.h5ad", backed="r")
        else:
            adata.layers["log"], adata.X = adata.X.copy(), np.zeros(adata.shape, dtype=np.float32)
            options["layer"] = "log"
    expected = infl.tl.fit_federated(plain, lock=None, **FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", anndata.ImplicitModificationWarning)
        run = infl.tl.fit_federated(khan_sites, lock=None, **FAST, **options)
    for name, tensor in expected.model.stored.items():
        torch.testing.assert_close(run.model.stored[name], tensor, rtol=1e-4, atol=1e-6)
    assert khan_sites["site_1"].obs["infl_prediction"].notna().all()


@pytest.mark.data_dir
def test_mudata_with_a_missing_modality() -> None:
    breast = infl.datasets.breast_tcga()
    sites = infl.pp.split_sites(breast, 4, stratify="subtype")
    infl.tl.fit_federated(sites, modality="protein", **(FAST | {"target": "subtype"}))
    for mdata in sites.values():
        measured = mdata.obs_names.isin(mdata.mod["protein"].obs_names)
        assert 0 < measured.sum() < mdata.n_obs
        assert (mdata.obs["infl_prediction"].notna() == measured).all()
        assert (np.isnan(mdata.obsm["X_infl"]).any(1) == ~measured).all()


# -- what can go wrong -------------------------------------------------------------------------------------------------
Break = Callable[[dict[str, AnnData]], dict[str, object] | None]


def _nan(sites: dict[str, AnnData]) -> None:
    sites["site_3"].X[2, 7] = np.nan


def _infinite(sites: dict[str, AnnData]) -> None:
    sites["site_2"].X[0, 3] = np.inf


def _no_target(sites: dict[str, AnnData]) -> None:
    del sites["site_4"].obs["tumour_class"]


def _other_features(sites: dict[str, AnnData]) -> None:
    sites["site_1"].var_names = [f"protein_{i}" for i in range(sites["site_1"].n_vars)]


def _duplicates(sites: dict[str, AnnData]) -> None:
    names = list(sites["site_5"].var_names)
    sites["site_5"].var_names = [names[0], names[0], *names[2:]]


def _no_sample(sites: dict[str, AnnData]) -> None:
    sites["site_2"] = sites["site_2"][:0].copy()


def _same_obs(sites: dict[str, AnnData]) -> None:
    sites["site_1"].obs_names = ["a"] * sites["site_1"].n_obs


def _equal_names(sites: dict[str, AnnData]) -> None:
    sites["SITE_1"] = sites["site_2"].copy()


BAD: dict[str, tuple[Break, dict[str, object], str]] = {
    "target missing at a site": (_no_target, {}, r"site_4.*tumour_class|tumour_class.*site_4"),
    "target misspelt": (lambda s: None, {"target": "tumor_class"}, r"tumour_class"),
    "no target": (lambda s: None, {"target": None}, r"target="),
    "NaN": (_nan, {}, r"NaN.*site_3|site_3.*NaN"),
    "infinite": (_infinite, {}, r"(?i)inf.*site_2|site_2.*inf"),
    "no shared feature": (_other_features, {}, r"feature"),
    "duplicate features": (_duplicates, {}, r"(?i)duplicate.*site_5"),
    "no sample": (_no_sample, {}, r"site_2 has no observations"),
    "obs_names": (_same_obs, {}, r"obs_names.*site_1"),
    "equal names": (_equal_names, {}, r"(?i)site_1"),
    "empty": (lambda s: s.clear(), {}, r"(?i)sites"),
    "unknown model": (lambda s: None, {"model": "clasifier"}, r"'classifier'"),
    "unknown option": (lambda s: None, {"widht": 3}, r"'width'"),
    "key without lock": (lambda s: None, {"lock": None, "key": Keyring.create()}, r"lock=None"),
    "unknown lock": (lambda s: None, {"lock": "iron"}, r"'field'"),
    "unknown seal": (lambda s: None, {"seal": "wax"}, r"'group'"),
    "unknown rule": (lambda s: None, {"aggregation": "median"}, r"'fedavg'"),
    "rule option": (lambda s: None, {"aggregation": "fedprox", "aggregation_options": {"nu": 1}}, r"nu"),
    "rounds = 0": (lambda s: None, {"rounds": 0}, r"rounds=0"),
    "half a round": (lambda s: None, {"rounds": 2.5}, r"rounds=2.5"),
    "negative strength": (lambda s: None, {"strength": -0.1}, r"strength=-0.1"),
    "participation": (lambda s: None, {"participation": 0.0}, r"participation=0"),
    "participation below the minimum": (lambda s: None, {"participation": 0.2}, r"min_sites"),
    "validation": (lambda s: None, {"validation": 1.0}, r"validation=1"),
    "too many needed": (lambda s: None, {"min_sites": 6}, r"min_sites=6.*5 sites"),
    "missing layer": (lambda s: None, {"layer": "counts"}, r"counts"),
    "resume without checkpoint": (lambda s: None, {"resume": True}, r"checkpoint="),
    "site_key with a dict": (lambda s: None, {"site_key": "hospital"}, r"site_key"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_the_objects_are_unchanged(khan_sites: dict[str, AnnData], case: str) -> None:
    change, options, pattern = BAD[case]
    change(khan_sites)
    before = {s: a.copy() for s, a in khan_sites.items()}
    with pytest.raises(InflError) as error:
        infl.tl.fit_federated(khan_sites, **{**FAST, **options})
    text = str(error.value)
    assert re.search(pattern, text), text
    assert "\n" not in text
    assert len(text) < 300
    for site, adata in khan_sites.items():
        pd.testing.assert_frame_equal(adata.obs, before[site].obs)
        np.testing.assert_array_equal(adata.X, before[site].X)
        assert list(adata.uns) == list(before[site].uns)
        assert list(adata.obsm) == []


def test_two_sites_must_be_asked_for(khan: AnnData) -> None:
    sites = infl.pp.split_sites(khan, 2, stratify="tumour_class")
    with pytest.raises(InflError, match="min_sites=2"):
        infl.tl.fit_federated(sites, **FAST)
    run = infl.tl.fit_federated(sites, min_sites=2, **FAST)
    assert run.settings["min_sites"] == 2


def test_class_at_one_site_only_is_a_warning(khan_sites: dict[str, AnnData]) -> None:
    for site, adata in list(khan_sites.items())[1:]:
        khan_sites[site] = adata[adata.obs["tumour_class"] != "class_1"].copy()
    with pytest.warns(InflWarning, match="class_1"):
        run = infl.tl.fit_federated(khan_sites, **FAST)
    assert "class_1" in run.model.header.panel["classes"]


def test_predict_says_what_is_wrong(khan_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(khan_sites, **FAST)
    adata = khan_sites["site_1"]
    with pytest.raises(InflError, match="fingerprint|version"):
        infl.tl.predict(adata, run.model, key=Keyring.create())
    with pytest.raises(InflError, match="lacks 2208 of 2308 features"):
        infl.tl.predict(adata[:, :100].copy(), run.model, key=run.key)
    with pytest.raises(InflError, match=r"cannot read model\.infl\.safetensors"):
        infl.tl.predict(adata, "model.infl.safetensors", key=run.key)
    with pytest.raises(InflError, match="load_model"):
        infl.tl.predict(adata, run.history, key=run.key)


def test_fresh_key_is_announced_once(khan_sites: dict[str, AnnData], capsys: pytest.CaptureFixture[str]) -> None:
    run = infl.tl.fit_federated(khan_sites, **FAST)
    said = capsys.readouterr().err
    assert said.count("run.key.save(") == 1
    infl.tl.fit_federated(khan_sites, key=run.key, **FAST)
    assert capsys.readouterr().err == ""


def test_unlocked_run_has_no_key_in_its_model(khan_sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(khan_sites, lock=None, seal="none", **FAST)
    assert run.key is None
    assert run.model.header.fingerprint == ""
    infl.tl.predict(khan_sites["site_1"], run.model)
    assert run.summary().count("\n") == 3


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("n_rounds", "rounds"),
        ("epochs", "local_epochs"),
        ("batch_key", "site_key"),
        ("max_epochs", "rounds"),
        ("widht", "width"),
    ],
)
def test_what_other_packages_call_it_is_understood(khan_sites: dict[str, AnnData], option: str, meant: str) -> None:
    for call in (infl.tl.fit_federated, infl.tl.compare):
        with pytest.raises(SettingsError, match=f"has no option '{option}': did you mean '{meant}'"):
            call(khan_sites, target="tumour_class", **{option: 3})


def test_a_representation_is_no_option_and_the_line_says_how_to_fit_on_it(khan_sites: dict[str, AnnData]) -> None:
    with pytest.raises(
        SettingsError, match=r"has no option 'use_rep': .*AnnData\(adata.obsm\['X_pca'\], obs=adata.obs\)"
    ):
        infl.tl.fit_federated(khan_sites, target="tumour_class", use_rep="X_pca")


def test_a_path_is_not_read(khan_sites: dict[str, AnnData]) -> None:
    with pytest.raises(DataError, match=r"not str; read a file with anndata.read_h5ad\(path\)"):
        infl.tl.fit_federated("cohort.h5ad", target="tumour_class", site_key="hospital")


def _contents(adata: AnnData) -> tuple[list[str], ...]:
    return list(adata.obs), list(adata.obsm), list(adata.uns)


@pytest.mark.parametrize("kind", ["anndata", "mudata"])
def test_a_view_of_a_file_is_refused_before_the_first_round(
    khan_sites: dict[str, AnnData], tmp_path: Path, kind: str
) -> None:
    from mudata import MuData, read_h5mu

    if kind == "anndata":
        sites = dict(khan_sites)
        sites["site_2"].write_h5ad(tmp_path / "a.h5ad")
        sites["site_2"] = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")[:12]
    else:
        sites = {name: MuData({"rna": a}) for name, a in khan_sites.items()}
        for mdata in sites.values():
            mdata.obs["tumour_class"] = mdata["rna"].obs["tumour_class"]
        sites["site_2"].write(tmp_path / "a.h5mu")
        sites["site_2"] = read_h5mu(tmp_path / "a.h5mu", backed=True)[:12]
    before = {name: _contents(a) for name, a in sites.items()}
    with pytest.raises(DataError, match="site_2 is a view of a file on disk") as error:
        infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False, checkpoint=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    assert {name: _contents(a) for name, a in sites.items()} == before


def test_a_run_outlives_results_that_cannot_be_written(
    khan_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = infl.models.Classifier.write
    khan_sites["site_1"].uns["infl"] = {"mine": 1}

    def full(self: infl.models.Classifier, adata: AnnData, *args: object, **options: object) -> None:
        write(self, adata, *args, **options)  # type: ignore[arg-type]
        if adata is khan_sites["site_4"]:
            raise OSError("the disk is full")

    monkeypatch.setattr(infl.models.Classifier, "write", full)
    before = {name: _contents(a) for name, a in khan_sites.items()}
    with pytest.warns(InflWarning, match="results could not be written .*the disk is full"):
        run = infl.tl.fit_federated(khan_sites, target="tumour_class", rounds=1, progress=False)
    assert {name: _contents(a) for name, a in khan_sites.items()} == before
    assert khan_sites["site_1"].uns["infl"] == {"mine": 1}
    monkeypatch.undo()
    infl.tl.predict(khan_sites["site_4"], run.model, key=run.key)
    assert "infl_prediction" in khan_sites["site_4"].obs
