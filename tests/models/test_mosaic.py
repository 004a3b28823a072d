"""Mosaic integration, on sections that are simulated here: three domains in stripes, counts, a batch effect a site."""

from contextlib import nullcontext

import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from sklearn.metrics import adjusted_rand_score

import infl
from infl._mudata import without_pull
from infl.data.units import units_of
from infl.errors import DataError, InflWarning, SettingsError
from infl.keys import Keyring
from infl.models import load_model
from infl.models.modalities import KINDS, kind_of
from infl.models.mosaic import Mosaic
from infl.models.pooling import pool
from infl.sums.alignment import BEGINNINGS, FEWEST, Alignment, transport
from infl.tl._predict import infer

SIDE = 12
DOMAIN = np.repeat(np.arange(3), SIDE * SIDE // 3)
XY = np.indices((SIDE, SIDE)).reshape(2, -1).T.astype(float)
N_FEATURES = {"rna": 18, "adt": 9, "atac": 12}


def table(modality: str, site: str, seed: int) -> AnnData:
    """A third of the features is high in each domain."""
    rng, p = np.random.default_rng([seed, N_FEATURES[modality]]), N_FEATURES[modality]
    rate = np.where(DOMAIN[:, None] == np.arange(p) % 3, 6.0, 2.0) * rng.uniform(0.7, 1.4, p)
    x = rng.poisson(rate) if modality != "atac" else rng.random(rate.shape) < rate / 10
    names = [f"{modality}_{i}" for i in range(p)]
    obs = pd.DataFrame({"domain": DOMAIN.astype(str)}, index=[f"{site}-{i}" for i in range(len(x))])
    return AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=names), obsm={"spatial": XY})


def section(site: str, seed: int, *modalities: str) -> MuData:
    with without_pull():
        mdata = MuData({m: table(m, site, seed) for m in modalities})
    mdata.obsm["spatial"] = XY
    return mdata


@pytest.fixture
def sites() -> dict[str, MuData]:
    return {"a": section("a", 0, "rna", "adt"), "b": section("b", 1, "rna"), "c": section("c", 2, "adt")}


def fit(sites, **options):
    options = {"n_domains": 3, "rounds": 6, "batch_size": 16, "lr": 1e-2, "width": 0, "n_latent": 4} | options
    options = {"key": None, "lock": None, "seal": "none"} | options if "key" not in options else options
    with pytest.warns(InflWarning, match="coordinator reads") if options.get("seal") == "none" else nullcontext():
        return infl.tl.fit_federated(sites, model="mosaic", progress=False, **options)


def correlation(a, b) -> float:
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(np.asarray(a).T, np.asarray(b).T, strict=True)]))


# -- what comes out -----------------------------------------------------------------------------------------------------


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


def test_imputed_against_measured_is_drawn(sites):
    fit(sites, rounds=2, impute="all")
    assert list(sites["a"].mod) == ["rna", "adt", "infl_adt", "infl_rna"]
    ax = infl.pl.imputation(sites["a"], "adt")
    dots = ax.collections[0].get_offsets()[:, 1]
    shown = np.sort([correlation(*[t[:, [i]] for t in _pair(sites["a"])]) for i in range(N_FEATURES["adt"])])
    assert np.allclose(np.sort(dots), shown, atol=1e-6)
    assert len(ax.figure.axes) == 4 and all(panel.get_xlabel() for panel in ax.figure.axes)
    one = infl.pl.imputation(sites["b"], "adt", measured=table("adt", "b", 1), feature="adt_0")
    assert one.get_title().startswith("adt_0: r = ") and len(one.collections[0].get_offsets()) == len(DOMAIN)
    plt.close("all")
    with pytest.raises(DataError, match="was not measured here"):
        infl.pl.imputation(sites["b"], "adt")
    with pytest.raises(DataError, match="no imputed modality 'infl_atac'"):
        infl.pl.imputation(sites["b"], "atac")
    with pytest.raises(DataError, match="no feature 'x'"):
        infl.pl.imputation(sites["a"], "adt", feature="x")


def _pair(mdata):
    return mdata["infl_adt"].X, KINDS["clr"](mdata["adt"].X, False)


# -- what is wrong ------------------------------------------------------------------------------------------------------


def test_modalities_that_are_nowhere_together(sites):
    with pytest.raises(DataError, match="'adt' and 'rna' cannot be aligned: no site has 10 spots with both"):
        Mosaic().agree({"b": sites["b"], "c": sites["c"]})


def test_modalities_may_be_linked_by_a_third():
    linked = {"a": section("a", 0, "rna", "adt"), "b": section("b", 1, "adt", "atac")}
    assert list(Mosaic().agree(linked)["modalities"]) == ["adt", "atac", "rna"]


def test_spots_with_both_are_what_counts(sites):
    adt = sites["a"]["adt"].copy()
    adt.obs_names = [f"other-{i}" for i in range(adt.n_obs)]
    with without_pull():
        apart = MuData({"rna": sites["a"]["rna"], "adt": adt})
    with pytest.raises(DataError, match="cannot be aligned"):
        Mosaic(spatial_key=None).agree({"a": apart, "b": sites["b"]})


def test_an_empty_modality(sites):
    with without_pull():
        empty = MuData({"rna": sites["b"]["rna"], "adt": sites["a"]["adt"][:0].copy()})
    with pytest.raises(DataError, match="b has no observations in modality 'adt': take it out"):
        Mosaic().agree({**sites, "b": empty})


def test_values_of_two_kinds(sites):
    sites["b"]["rna"].X = np.log1p(sites["b"]["rna"].X)
    with pytest.raises(DataError, match="values differ in kind"):
        Mosaic().agree(sites)


def test_coordinates_at_some_sites_only(sites):
    del sites["c"].obsm["spatial"], sites["c"]["adt"].obsm["spatial"]
    with pytest.raises(DataError, match="c has no coordinates in obsm\\['spatial'\\], a has"):
        Mosaic().agree(sites)
    assert Mosaic(spatial_key=None).agree(sites)["spatial"] is False


def test_coordinates_in_other_units_are_told_of(sites):
    sites["b"].obsm["spatial"] = XY * 100
    with pytest.warns(InflWarning, match="different units"):
        Mosaic().agree(sites)


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


def test_kinds(sites):
    assert Mosaic().agree(sites)["kinds"] == {"adt": "clr", "rna": "counts"}
    assert kind_of("peaks", "raw counts", None) == "accessibility" and kind_of("rna", "logarithms", None) == "values"
    with pytest.raises(SettingsError, match="no site has"):
        Mosaic(kinds={"protein": "clr"}).agree(sites)
    with pytest.raises(SettingsError, match="one of 'counts'"):
        Mosaic(kinds={"rna": "poisson"}).agree(sites)
    with pytest.raises(DataError, match="needs raw counts"):
        kind_of("rna", "scaled values", "counts")


# -- numbers ------------------------------------------------------------------------------------------------------------


def test_kinds_by_hand():
    x = np.array([[1.0, 0.0], [3.0, 4.0]])
    assert np.allclose(KINDS["counts"](x, False) ** 2, x + 3 / 8)
    assert np.allclose(KINDS["counts"](x, True) ** 2, np.array([[4.0, 0.0], [12 / 7, 16 / 7]]) + 3 / 8)
    assert np.allclose(KINDS["clr"](x, False)[:, 0], np.log1p(np.array([1, 3]) / np.exp(np.log([2, 4]).mean())))
    assert KINDS["accessibility"](x, False)[0, 1] == 0


def test_transport_makes_one_covariance_of_another():
    rng = np.random.default_rng(0)
    a, b = (np.cov(rng.standard_normal((3, 9))) for _ in range(2))
    t = transport(a, b)
    assert np.allclose(t @ a @ t, b, atol=1e-4) and np.allclose(t, t.T)


def test_domains_of_sums_are_those_of_the_pooled_sections_and_batches_are_brought_together(monkeypatch, plainly_added):
    monkeypatch.setattr("infl.sums.alignment.FEWEST", 1)  # what a site keeps to itself depends on what a site is
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 100)
    centres = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]])
    z = [centres[labels] + shift + rng.normal(0, spread, (300, 3)) for shift, spread in ((0, 0.4), (0.8, 0.2))]
    domains = Alignment(3, 3)
    sums = domains.sums(lambda sections, state: sections)
    apart, pooled = plainly_added(sums, [[z[0]], [z[1]]]), plainly_added(sums, [z])
    assert all(np.allclose(apart[name], pooled[name]) for name in apart)
    moved = [domains.aligned(section, apart) for section in z]
    for section in moved:
        assert adjusted_rand_score(labels, domains.label(section, apart)) == 1
    assert (domains.label(moved[0], apart) == domains.label(moved[1], apart)).all()
    before = [(section - apart["latent_mean"]) @ apart["latent_axes"] for section in z]

    def gap(pair):
        return np.abs(pair[0][labels == 1].mean(0) - pair[1][labels == 1].mean(0)).max()

    assert gap(moved) < 0.2 * gap(before)
    assert moved[0][labels == 1].std() == pytest.approx(moved[1][labels == 1].std(), rel=0.2)


def test_a_site_says_nothing_of_clusters_that_it_has_few_spots_of():
    z = np.r_[np.zeros((FEWEST, 2)), np.full((FEWEST - 1, 2), 9.0)]
    domains = Alignment(2, 3)
    private = {"latent_mean": np.zeros(2), "latent_axes": np.eye(2)}
    private["centres_0"] = np.tile([[0.0, 0], [9, 9], [50, 50]], (BEGINNINGS, 1, 1))
    centres = domains.sums(lambda sections, state: sections)[1]
    assert centres.exchanges[3] == "centres_0_3"
    sums = centres.local([z], private)
    assert sums["n"][0].tolist() == [FEWEST, 0, 0] and not sums["sum"].any()


# -- comparing ----------------------------------------------------------------------------------------------------------


def test_methods_are_compared_by_what_one_modality_tells_of_the_other(sites):
    options = {"rounds": 30, "batch_size": 16, "lr": 1e-2, "width": 0, "n_latent": 4, "progress": False}
    methods = ["pooled", "alone", "infl", "infl_wrong_key", "baseline"]
    table = infl.tl.compare(sites, "mosaic", seeds=3, methods=methods, **options)
    value = table[table["metric"] == "pearson"].set_index("method")["mean"]
    assert set(table["metric"]) == {"pearson", "pearson_rna", "pearson_adt"}
    assert min(value["infl"], value["baseline"], value["pooled"]) > 0.2
    assert abs(value["infl_wrong_key"]) < 0.15
    assert {r["site"] for r in table.attrs["values"]} == {"", "a"}  # no other site has spots that can judge


def test_what_is_held_out_has_both_modalities_and_lies_together(sites):
    task, rng = Mosaic(), np.random.default_rng(0)
    held = {site: task.hold_out(adata, 0.25, rng) for site, adata in sites.items()}
    assert {site: int(mask.sum()) for site, mask in held.items()} == {"a": len(DOMAIN) // 4, "b": 0, "c": 0}
    apart = np.square(XY[held["a"]][:, None] - XY[held["a"]]).sum(-1)
    assert np.sort(apart, 1)[:, 1].max() <= 2  # each has a neighbour that is held out too


def test_sections_of_sites_that_were_put_together_stay_apart(sites):
    task, together = Mosaic(), pool(sites)
    panel = task.agree(sites)
    data = task.read(together, panel, site="pooled")
    assert [len(section) for section in data.sections] == [len(DOMAIN)] * 3
    alone = task.read(sites["b"], panel, site="b")
    rows = np.flatnonzero([name.startswith("b-") for name in together.obs_names])
    rna = list(panel["modalities"]).index("rna")
    inside = np.isin(data.measured[rna].rows, rows)
    np.testing.assert_allclose(data.measured[rna].x[inside], alone.measured[rna].x, atol=1e-5)


def test_a_few_negative_values_are_no_counts(sites):
    for site in ("a", "b"):
        x = np.log1p(sites[site]["rna"].X)
        x[::50, 0] = -0.3
        sites[site]["rna"].X = x
    assert units_of(sites["a"]["rna"]) is None
    assert Mosaic().agree(sites)["kinds"] == {"adt": "clr", "rna": "values"}
    fit(sites, rounds=1)
    with pytest.raises(DataError, match=r"'rna' has negative values \(at a\) where kind 'counts' needs raw counts"):
        Mosaic(kinds={"rna": "counts"}).agree(sites)
    sites["b"]["rna"].X = np.rint(np.abs(sites["b"]["rna"].X))
    assert Mosaic().agree(sites)["kinds"]["rna"] == "values"


def test_what_is_not_of_the_models_kind_is_refused_at_use(sites):
    run = fit(sites, rounds=1)
    query = section("q", 3, "rna", "adt")
    query["rna"].X = np.log1p(query["rna"].X)
    with pytest.raises(DataError, match="values differ in kind"):
        infl.tl.predict(query, run)
    with pytest.raises(DataError, match=r"kind 'counts' needs raw counts: .*set kinds=\{'rna': 'values'\}"):
        infl.tl.predict(query, run, check_units=False)
