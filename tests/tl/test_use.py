"""What a fit refuses is refused when its model is used, in the same words; what can be masked is counted."""

import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import infl
from infl._mudata import without_pull
from infl.errors import MAX_LENGTH, FileError, InflError, InflWarning, KeyringError, SettingsError
from infl.federation.run import FederatedRun
from infl.tl._use import MOST_MASKED

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


# -- the checks of the fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", USES)
def test_duplicate_features_are_refused_where_the_model_needs_them(run, query, use) -> None:
    query.var_names = [*query.var_names[:-1], "g0"]
    assert "duplicate feature names at" in refused(USES[use], query, run)
    assert not query.obsm and not query.uns


def test_duplicate_features_that_the_model_does_not_read_are_nobodys_business(run, query) -> None:
    alone = infl.tl.predict(query, run, copy=True)
    more = anndata.concat([query, query[:, :2].copy()], axis=1, merge="first")
    more.var_names = [*query.var_names, "other", "other"]
    infl.tl.predict(more, run)
    np.testing.assert_allclose(more.obsm["X_infl"], alone.obsm["X_infl"], atol=1e-5)  # memory lies otherwise


@pytest.mark.parametrize("use", USES)
def test_other_units_are_refused(run, query, use) -> None:
    query.X = query.layers["counts"]
    text = refused(USES[use], query, run)
    assert text.startswith("values differ in kind: ") and "has raw counts, the fit has logarithms" in text


def test_units_can_be_said_to_agree_and_what_is_unclear_is_taken(run, query) -> None:
    query.X = query.layers["counts"]
    infl.tl.predict(query, run, check_units=False)
    query.X = np.zeros_like(query.X)
    infl.tl.embed(query, run)


def test_ranks_need_no_units() -> None:
    run, query = fit(cohort(), standardise="rank"), cohort("counts")["site_1"]
    infl.tl.predict(query, run)


@pytest.mark.parametrize("use", USES)
def test_a_missing_layer_is_one_line(query, use) -> None:
    run = fit(cohort(), layer="log")
    del query.layers["log"]
    assert "layer 'log' is missing at" in refused(USES[use], query, run)


def test_another_layer_is_read_on_request(run, query) -> None:
    expected = infl.tl.predict(query, run, copy=True)
    query.X = query.layers["counts"]
    infl.tl.predict(query, run, layer="log")
    np.testing.assert_array_equal(query.obsm["X_infl"], expected.obsm["X_infl"])
    of_layer = fit(cohort("counts"), layer="log")
    query.X = query.layers.pop("log")
    infl.tl.predict(query, of_layer, layer="X")
    assert "layer 'nope' is missing" in refused(lambda: infl.tl.embed(query, run, layer="nope"))


@pytest.mark.parametrize("use", ["personalise", "calibrate_lock", "site_metrics", "audit"])
def test_what_is_trained_on_or_judged_by_may_lack_nothing(run, query, use) -> None:
    query.X[3, 2] = np.nan
    assert "NaN in feature 'g2' at site_1 (1 such values in 1 features of X)" in refused(USES[use], query, run)
    if use != "audit":
        assert "lacks 1 of 12 features" in refused(USES[use], cohort()["site_1"][:, 1:].copy(), run)


def test_infinite_values_are_never_masked(run, query) -> None:
    query.X[3, 2] = np.inf
    assert "infinite value in feature 'g2' at the data" in refused(infl.tl.predict, query, run)


def test_missing_features_and_nan_are_masked_alike_and_counted(run, query) -> None:
    fewer, holes, marked = query[:, 2:].copy(), query.copy(), query.copy()
    holes.X[:, :2] = np.nan
    marked.X[:, :2], marked.var["infl_present"] = 0, np.arange(12) >= 2
    with pytest.warns(InflWarning, match=r"the data lacks 2 of 12 features, first 'g0': they are masked"):
        infl.tl.predict(fewer, run)
    with pytest.warns(InflWarning, match=r"the data has 80 NaN in the model's features: they are masked"):
        infl.tl.predict(holes, run)
    with pytest.warns(InflWarning, match="lacks 2 of 12 features"):
        infl.tl.predict(marked, run)
    np.testing.assert_array_equal(fewer.obsm["X_infl"], holes.obsm["X_infl"])
    np.testing.assert_array_equal(fewer.obsm["X_infl"], marked.obsm["X_infl"])


@pytest.mark.parametrize("what", ["features", "NaN"])
def test_beyond_a_stated_share_data_are_refused(run, query, what) -> None:
    assert MOST_MASKED == 0.5
    if what == "features":
        query = query[:, :5].copy()
    else:
        query.X[:, 5:] = np.nan
    text = refused(infl.tl.predict, query, run)
    assert "58% of what the model reads" in text and "50% can be masked" in text


def test_a_model_of_united_panels_knows_what_a_site_lacks() -> None:
    sites = cohort()
    sites["site_1"] = sites["site_1"][:, :4].copy()
    run = fit(sites, features="union")
    with warnings.catch_warnings():
        warnings.simplefilter("error", InflWarning)
        infl.tl.predict(sites["site_1"], run)


def test_models_of_counts_take_nothing_missing() -> None:
    pytest.importorskip("scvi", reason="needs scvi-tools: pip install 'infl[scvi]'")
    sites = cohort("counts")
    run = infl.tl.fit_federated(sites, "scvi", rounds=1, n_hidden=8, n_latent=2, progress=False)
    query = cohort("counts")["site_1"]
    query.X[0, 1] = np.nan
    for use in (infl.tl.predict, infl.tl.embed, infl.tl.denoise):
        assert "NaN in feature 'g1' at the data" in refused(use, query, run)
        assert "lacks 2 of 12 features" in refused(use, cohort("counts")["site_1"][:, 2:].copy(), run)
    query = cohort()["site_1"]
    infl.tl.denoise(query, run, layer="counts")
    assert query.obsm["infl_denoised"].shape == (40, 12)


def test_a_class_that_the_model_does_not_know(run, query) -> None:
    query.obs["label"] = np.where(np.arange(40) % 5, query.obs["label"], "new")
    assert "site_1 has 'new' in 'label', which is none of the model's classes" in refused(
        USES["personalise"], query, run
    )


def test_names_of_observations_that_occur_twice(run, query) -> None:
    query.obs_names = ["x"] * 40
    assert "duplicate obs_names at the data" in refused(infl.tl.predict, query, run)


# -- a modality whose names its MuData does not know -------------------------------------------------------------------


def multimodal(site: str = "site_1") -> MuData:
    rna = cohort()[site]
    protein = rna[:, :4].copy()
    protein.var_names = "p_" + protein.var_names
    with without_pull():
        mdata = MuData({"rna": rna, "protein": protein})
    mdata.obs["label"] = rna.obs["label"]
    return mdata


def renamed(mdata: MuData) -> MuData:
    for table in mdata.mod.values():
        table.obs_names = "new_" + table.obs_names
    return mdata


@pytest.mark.parametrize("options", [{}, {"modality": "rna"}])
def test_a_mudata_that_was_not_updated_is_refused_at_fit_and_use(options) -> None:
    sites = {site: multimodal(site) for site in cohort()}
    text = refused(lambda: fit({site: renamed(multimodal(site)) for site in sites}, **options))
    assert "modality 'rna' of site_1 has 40 observations" in text and ".update()" in text
    run = fit(sites, **options)
    for use in (infl.tl.predict, infl.tl.embed):
        assert ".update()" in refused(use, renamed(multimodal()), run)
    assert ".update()" in refused(infl.tl.personalise, {"site_1": renamed(multimodal())}, run)
    assert ".update()" in refused(infl.pp.panel_of, {"a": renamed(multimodal())})


@pytest.mark.parametrize("model", ["mosaic", "scvi", "spatial"])
def test_every_model_refuses_it(model) -> None:
    if model == "scvi":
        pytest.importorskip("scvi", reason="needs scvi-tools: pip install 'infl[scvi]'")
    sites = {site: renamed(multimodal(site)) for site in cohort()}
    options = {"mosaic": {}, "scvi": {"modality": "rna"}, "spatial": {"modality": "rna", "n_domains": 2}}[model]
    assert ".update()" in refused(lambda: infl.tl.fit_federated(sites, model, rounds=1, progress=False, **options))


# -- what a run brings, and what is kept -------------------------------------------------------------------------------


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


# -- personal models, and what is locked -------------------------------------------------------------------------------


def test_a_personal_model_is_trained_on_and_stored_under_the_runs_key(run) -> None:
    by_run, by_hand = (
        infl.tl.personalise(run, cohort(), epochs=2),
        infl.tl.personalise(run.model, cohort(), key=run.key, epochs=2),
    )
    pd.testing.assert_frame_equal(by_run.table, by_hand.table)
    for model in by_run.models.values():
        assert model.private_arrays(None) == {} and model.private_arrays(run.key)
    for use in (infl.tl.personalise, infl.tl.site_metrics):
        arguments = (cohort(), run.model) if use is infl.tl.personalise else (run.model, cohort())
        with pytest.raises(KeyringError, match="this model is locked with key .*pass key="):
            use(*arguments)
    with pytest.raises(KeyringError, match="pass key="):
        infl.tl.calibrate_lock(run.model, cohort())


def test_personal_models_are_chosen_by_the_headline_metric(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from infl.models.classifier import Classifier

    told = iter([(0.5, 0.66), (0.4, 0.54), (0.6, 0.66), (0.7, 0.7), (0.3, 0.6)] * 3)  # loss, balanced accuracy
    original = Classifier.summarise

    def summarise(self, sums):
        loss, accuracy = next(told)
        return original(self, sums) | {"loss": loss, "balanced_accuracy": accuracy}

    monkeypatch.setattr(Classifier, "summarise", summarise)
    table = infl.tl.personalise(run, cohort(), epochs=4).table
    assert table["epochs"].tolist() == [3, 3, 3]
    assert table["balanced_accuracy_after"].tolist() == [0.7] * 3


def test_personal_training_clips_gradients() -> None:
    moved = {}
    for clip in (None, 1e-8):
        run = fit(cohort(), optimiser="sgd", lr=0.1, grad_clip=clip, rounds=1, seed=0)
        before = run.model.effective(run.key)
        own = infl.tl.personalise(run, cohort(), epochs=3).models
        moved[clip] = max(
            float((weight - before[name]).abs().max())
            for model in own.values()
            for name, weight in model.effective(run.key).items()
        )
    assert moved[1e-8] < 1e-4 < moved[None]  # what is left is the decay of weights


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


def test_a_modality_of_what_has_none(khan_sites: dict[str, AnnData]) -> None:
    for call in (infl.tl.fit_federated, infl.tl.compare):
        with pytest.raises(SettingsError, match="modality='rna' is of a MuData"):
            call(khan_sites, target="tumour_class", modality="rna")
