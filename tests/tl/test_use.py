"""What a fit refuses is refused when its model is used, in the same words; what can be masked is counted."""

import warnings

import anndata
import numpy as np
import pytest
from anndata import AnnData
from mudata import MuData
from tests.tl.conftest import USES, cohort, fit, refused

import infl
from infl._mudata import without_pull
from infl.errors import InflWarning, SettingsError
from infl.tl._use import MOST_MASKED

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


# -- personal models, and what is locked -------------------------------------------------------------------------------


def test_a_modality_of_what_has_none(khan_sites: dict[str, AnnData]) -> None:
    for call in (infl.tl.fit_federated, infl.tl.compare):
        with pytest.raises(SettingsError, match="modality='rna' is of a MuData"):
            call(khan_sites, target="tumour_class", modality="rna")
