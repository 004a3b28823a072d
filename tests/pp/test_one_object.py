"""Functions that work on a dict of sites work on one object with ``site_key=`` alike, and refuse wrong arguments."""

import warnings
from collections.abc import Callable
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from scipy import sparse

import infl
from infl.errors import DataError, InflError, InflWarning, SettingsError

SITES = ("a", "b", "c")


def made(storage: Callable[[np.ndarray], Any] = np.asarray, twice: bool = False) -> AnnData:
    """Counts of 60 cells, the three hospitals' rows mixed."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1, 3, (60, 20))).astype(np.float32)
    hospital = rng.permutation(np.repeat(SITES, 20))
    within = pd.Series(hospital).groupby(hospital).cumcount()  # the same names at all hospitals
    names = [f"cell_{i}" for i in (within if twice else range(60))]
    obs = pd.DataFrame({"hospital": pd.Categorical(hospital), "type": rng.choice(["x", "y"], 60)}, index=names)
    adata = AnnData(storage(counts), obs=obs, var=pd.DataFrame(index=[f"gene_{i}" for i in range(20)]))
    adata.layers["raw"] = adata.X.copy()
    adata.layers["log"] = storage(np.log1p(counts))
    adata.obsm["X_infl"] = rng.normal(size=(60, 3))
    return adata


def apart(adata: AnnData) -> dict[str, AnnData]:
    return {site: adata[adata.obs["hospital"] == site].copy() for site in SITES}


CALLS: dict[str, Callable[..., Any]] = {
    "normalize_total": lambda s, **k: infl.pp.normalize_total(s, key_added="factor", **k),
    "log1p": infl.pp.log1p,
    "scale": lambda s, **k: infl.pp.scale(s, max_value=2, layer="raw", **k),
    "moments": infl.pp.moments,
    "filter_cells": lambda s, **k: infl.pp.filter_cells(s, min_counts=60, **k),
    "filter_genes": lambda s, **k: infl.pp.filter_genes(s, min_counts=150, **k),
    "quantiles": infl.pp.quantiles,
    "impute": lambda s, **k: infl.pp.impute(s, layer="log", **k),
    "score_genes": lambda s, **k: infl.tl.score_genes(s, ["gene_1", "gene_2"], n_bins=4, layer="log", **k),
    "pca": lambda s, **k: infl.pp.pca(s, n_comps=3, **k),
    "harmony_integrate": lambda s, **k: infl.pp.harmony_integrate(s, basis="X_infl", **k),
    "highly_variable_genes": lambda s, **k: infl.pp.highly_variable_genes(s, n_top_genes=5, check_values=False, subset=True, **k),
    "qc_summary": lambda s, **k: infl.pp.qc_summary(s, inplace=True, **k),
    "harmonise": lambda s, **k: infl.pp.harmonise(s, target="type", labels={"x": "z"}, aliases={"gene_1": "G1"}, **k),
    "cluster": lambda s, **k: infl.tl.cluster(s, 3, n_init=1, **k),
    "rank_genes_groups": lambda s, **k: infl.tl.rank_genes_groups(s, "type", layer="log", pts=True, **k),
    "de": lambda s, **k: infl.tl.de(s, "~ type", layer="log", **k),
}  # fmt: skip


def assert_alike(one: AnnData, sites: dict[str, AnnData]) -> None:
    for site, of_site in sites.items():
        part = one[one.obs["hospital"] == site]
        assert list(part.var_names) == list(of_site.var_names)
        assert set(part.obs) == set(of_site.obs) and set(part.obsm) == set(of_site.obsm)
        for name in of_site.obs:
            assert part.obs[name].astype(str).tolist() == of_site.obs[name].astype(str).tolist()
            assert part.obs[name].dtype.kind == of_site.obs[name].dtype.kind
        for name in of_site.obsm:
            np.testing.assert_array_equal(part.obsm[name], of_site.obsm[name])
        for a, b in (
            (part.X, of_site.X),
            *((part.layers[name], of_site.layers[name]) for name in of_site.layers if name),
        ):
            assert a.dtype == b.dtype and sparse.issparse(a) == sparse.issparse(b)
            np.testing.assert_array_equal(
                a.toarray() if sparse.issparse(a) else a, b.toarray() if sparse.issparse(b) else b
            )
        pd.testing.assert_frame_equal(one.var, of_site.var)
        assert set(one.varm) == set(of_site.varm) and set(one.uns) == set(of_site.uns)


@pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", CALLS)
def test_one_object_is_the_same_as_its_parts(name: str, storage: Any) -> None:
    one = made(storage, twice=True)
    sites = apart(one)
    of_sites, of_one = CALLS[name](sites), CALLS[name](one, site_key="hospital")
    assert_alike(one, sites)
    if isinstance(of_sites, pd.DataFrame):
        pd.testing.assert_frame_equal(of_one, of_sites)


@pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
@pytest.mark.parametrize("name", ["normalize_total", "log1p", "scale", "pca"])
def test_a_copy_of_one_object(name: str) -> None:
    one = made()
    before = one.copy()
    copied = CALLS[name](one, site_key="hospital", copy=True)
    CALLS[name](before, site_key="hospital")
    assert_alike(copied, apart(before))
    assert ("hospital" in one.obs and not set(copied.uns) <= set(one.uns)) or name in ("normalize_total", "scale")
    np.testing.assert_array_equal(one.X, made().X)
    assert set(one.obsm) == {"X_infl"} and list(one.var) == []


def test_what_reads_alone_writes_nothing_and_takes_views() -> None:
    one = made()
    table = infl.pp.moments(one[::2], site_key="hospital", inplace=False)
    assert table["n_obs"].eq(30).all() and list(one.var) == []
    assert infl.pp.panel_of(one, target="type", site_key="hospital").classes == ("x", "y")
    assert infl.pl.sites(one, "type", site_key="hospital").get_yticklabels()[0].get_text() == "a"
    plt.close("all")


def test_clusters_of_one_mudata() -> None:
    one = made()
    both = mudata.MuData({"rna": one, "adt": one[:, :4].copy()})
    both.obsm["X_infl"], both.obs["hospital"] = one.obsm["X_infl"], one.obs["hospital"]
    infl.tl.cluster(both, 3, site_key="hospital", n_init=1)
    infl.tl.cluster(one, 3, site_key="hospital", n_init=1)
    assert both.obs["infl_cluster"].tolist() == one.obs["infl_cluster"].tolist()


def test_one_object_without_its_column_and_on_disk(tmp_path: Any) -> None:
    one = made()
    with pytest.raises(SettingsError, match="pass site_key="):
        infl.pp.normalize_total(one)
    with pytest.raises(DataError, match="site_key"):
        infl.pp.normalize_total(one, site_key="ward")
    with pytest.raises(SettingsError, match="already apart"):
        infl.pp.normalize_total(apart(one), site_key="hospital")
    one.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(DataError, match="to_memory"):
        infl.pp.moments(backed, site_key="hospital")


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("normalize_total", {"target_sum": -1}), ("normalize_total", {"target_sum": True}), ("normalize_total", {"copy": 1}),
    ("normalize_total", {"key_added": "a/b"}), ("normalize_total", {"key_added": 3}), ("normalize_total", {"max_fraction": 2}),
    ("normalize_total", {"exclude_highly_expressed": "no"}), ("normalize_total", {"layer": 3}), ("normalize_total", {"key": "c.key"}),
    ("log1p", {"base": 1}), ("log1p", {"base": "e"}), ("log1p", {"base": 0}),
    ("scale", {"max_value": "10"}), ("scale", {"zero_center": 0}), ("scale", {"mask_obs": 3}),
    ("filter_cells", {"min_counts": -1}), ("filter_cells", {"min_genes": "3"}), ("filter_genes", {"max_cells": True}),
    ("filter_genes", {"inplace": 0}), ("impute", {"method": "median"}), ("impute", {"share": 0.6}), ("quantiles", {"width": 2}),
    ("moments", {"inplace": 0}), ("moments", {"layer": ["raw"]}),
    ("highly_variable_genes", {"n_top_genes": 0}), ("highly_variable_genes", {"n_top_genes": 2.5}),
    ("highly_variable_genes", {"flavor": "seurat_v4"}), ("highly_variable_genes", {"n_bins": 0}),
    ("highly_variable_genes", {"span": 0}), ("highly_variable_genes", {"min_mean": "0"}),
    ("highly_variable_genes", {"batch_key": 3}), ("highly_variable_genes", {"subset": "yes"}),
    ("pca", {"n_comps": 0}), ("pca", {"n_comps": "3"}), ("pca", {"seed": -1}), ("pca", {"svd_solver": "lobpcg"}),
    ("pca", {"key_added": "a/b"}), ("pca", {"zero_center": 1}), ("pca", {"dtype": "complex"}), ("pca", {"dtype": 3}),
    ("harmony_integrate", {"theta": -1}), ("harmony_integrate", {"basis": 3}), ("harmony_integrate", {"adjusted_basis": "a/b"}),
    ("harmony_integrate", {"sigma": 0}), ("harmony_integrate", {"max_iter_harmony": 0}), ("harmony_integrate", {"n_clusters": 0}),
    ("harmony_integrate", {"seed": -1}), ("harmony_integrate", {"key": 8}), ("harmony_integrate", {"dtype": 3}),
    ("harmony_integrate", {"batch_key": ["type"]}),
    ("qc_summary", {"round_to": 0}), ("qc_summary", {"qc_vars": 3}), ("qc_summary", {"percent_top": "50"}),
    ("qc_summary", {"percent_top": [0]}), ("qc_summary", {"log1p": 1}),
    ("harmonise", {"features": "both"}), ("harmonise", {"labels": ["x"]}), ("harmonise", {"aliases": "TP53"}),
    ("harmonise", {"check_units": 0}), ("panel_of", {"target": 3}), ("panel_of", {"features": None}),
    ("split_sites", {"n_sites": 0}), ("split_sites", {"n_sites": 2.0}), ("split_sites", {"alpha": -1}),
    ("split_sites", {"seed": -1}), ("split_sites", {"by": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), WRONG, ids=str)
def test_preprocessing_refuses_in_one_line_and_changes_nothing(name: str, options: dict[str, Any]) -> None:
    one = made()
    sites: Any = one if name == "split_sites" else apart(one)
    before = apart(one)
    with pytest.raises(InflError) as error:
        getattr(infl.pp, name)(sites, **options)
    assert "\n" not in str(error.value) and next(iter(options)) in str(error.value)
    if name != "split_sites":
        assert_alike(one, sites), assert_alike(one, before)


PICTURES: list[tuple[str, dict[str, Any]]] = [
    ("sites", {"target": 3}), ("sites", {"ax": "left"}), ("sites", {"show": "no"}), ("sites", {"return_fig": 1}),
    ("spatial", {"n_columns": 0}), ("spatial", {"size": -1}), ("spatial", {"color": None}), ("spatial", {"section_key": 3}),
    ("confusion", {"reference": 3}), ("confusion", {"reference": "type", "found": ["x"]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), PICTURES, ids=str)
def test_pictures_refuse_in_one_line(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InflError, match=list(options)[-1]):
        getattr(infl.pl, name)(apart(made()), **options)


@pytest.mark.parametrize("name", ["audit", "compare"])
def test_pictures_of_tables_refuse_what_is_none(name: str) -> None:
    with pytest.raises(DataError, match="draws what infl.tl"):
        getattr(infl.pl, name)("table.csv")


def test_warnings_name_the_line_of_the_user() -> None:
    sites = apart(made())
    sites["a"].X = np.log1p(sites["a"].X)
    sites["b"].X[0] = 0
    sites["b"].obs["type"] = "x"
    for call in (
        lambda: infl.pp.moments(sites, inplace=False),
        lambda: infl.pp.panel_of(sites, target="type"),
        lambda: infl.pp.normalize_total({"b": sites["b"], "c": sites["c"]}),
        lambda: infl.tl.fit_federated(sites, target="type", rounds=1, progress=False, seal="none"),
    ):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", InflWarning)
            call()
        assert seen and {w.filename for w in seen if w.category is InflWarning} == {__file__}


def laden() -> AnnData:
    """With what people have in their objects beside what is read."""
    one = made()
    h = one.obs["hospital"].to_numpy()
    one.obs["kind"] = pd.Categorical(
        np.select([h == "a", h == "b"], ["z", "m"], "a"), categories=["none", "a", "m", "z"]
    )
    one.uns["kind_colors"] = ["red", "green", "blue", "black"]
    one.obs["stage"] = pd.Categorical(np.where(h == "a", "I", "II"), categories=["I", "II", "III"], ordered=True)
    one.obsm["table"] = pd.DataFrame({"c": pd.Categorical(np.where(h == "a", "k", "l"))}, index=one.obs_names)
    one.var["chromosome"] = pd.Categorical(np.resize(["1", "2"], one.n_vars), categories=["1", "2", "X"])
    one.uns["many"] = [np.arange(3), np.arange(3)]
    one.uns["more"] = {"index": pd.Index(["a"]), "na": pd.NA, "objects": np.array([[1], "a"], dtype=object)}
    one.obs["mixed"] = pd.array([1, None] * 30, dtype="Int64")
    return one


@pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
@pytest.mark.parametrize(
    "name", [*(n for n in CALLS if "filter" not in n), "panel_of", "moments, read", "qc_summary, read", "hvg, read"]
)
def test_what_was_not_written_is_left_as_it_was(name: str) -> None:
    calls = CALLS | {
        "panel_of": infl.pp.panel_of,
        "highly_variable_genes": lambda s, **k: infl.pp.highly_variable_genes(s, check_values=False, **k),
        "moments, read": lambda s, **k: infl.pp.moments(s, inplace=False, **k),
        "qc_summary, read": infl.pp.qc_summary,
        "hvg, read": lambda s, **k: infl.pp.highly_variable_genes(s, inplace=False, check_values=False, **k),
    }
    one, before = laden(), laden()
    calls[name](one, site_key="hospital")
    for column in ("kind", "stage", "mixed", "hospital"):
        pd.testing.assert_series_equal(one.obs[column], before.obs[column])
    pd.testing.assert_frame_equal(one.obsm["table"], before.obsm["table"])
    assert one.var["chromosome"].dtype == before.var["chromosome"].dtype
    assert one.var["chromosome"].tolist() == before.var["chromosome"].tolist()
    assert one.uns["kind_colors"] == before.uns["kind_colors"] and list(one.uns["more"]) == list(before.uns["more"])
    if "read" in name or name == "panel_of":
        np.testing.assert_array_equal(one.X, before.X)
        assert (
            list(one.obs) == list(before.obs) and list(one.var) == list(before.var) and set(one.uns) == set(before.uns)
        )


def test_a_united_panel_of_one_object() -> None:
    one = made()
    one.var["infl_present"] = np.arange(20) < 15
    sites = apart(one)
    infl.pp.harmonise(sites, aliases={"gene_3": "KRAS"})
    infl.pp.harmonise(one, site_key="hospital", aliases={"gene_3": "KRAS"})
    assert_alike(one, sites)
    assert one.n_vars == 15 and "KRAS" in one.var_names and "infl_present" not in one.var


@pytest.mark.parametrize("name", ["normalize_total", "cluster"])
def test_the_column_of_sites_is_not_written_over(name: str) -> None:
    one = made()
    with pytest.raises(SettingsError, match="key_added='hospital'"):
        if name == "cluster":
            infl.tl.cluster(one, 2, site_key="hospital", key_added="hospital")
        else:
            infl.pp.normalize_total(one, site_key="hospital", key_added="hospital")
    pd.testing.assert_frame_equal(one.obs, made().obs)


@pytest.mark.parametrize("names", [{"x": ""}, {"x": None}, {"x": "nan"}, {"x": 1}, {"x": " "}], ids=str)
@pytest.mark.parametrize("option", ["labels", "aliases"])
def test_new_names_that_are_none(option: str, names: dict[str, Any]) -> None:
    names = names if option == "labels" else {"gene_1": names["x"]}
    sites = apart(made())
    with pytest.raises(InflError, match=f"{option}="):
        infl.pp.harmonise(sites, target="type", **{option: names})
    assert_alike(made(), sites)


def test_columns_of_lists_are_no_labels_and_no_sites() -> None:
    one = made()
    one.obs["lists"] = [["a"], ["b"], ["a"]] * 20
    with pytest.raises(DataError, match="'lists' has values that are no labels"):
        infl.pp.moments(one, site_key="lists", inplace=False)
    with pytest.raises(DataError, match="'lists' has values that are no labels"):
        infl.pp.panel_of(apart(one), target="lists")


@pytest.mark.parametrize(
    "wrong", [sparse.csr_matrix(np.ones((20, 3))), np.full((20, 3), "a"), np.ones((20, 3, 2)), np.ones((20, 0))],
    ids=["sparse", "text", "three axes", "none"],
)  # fmt: skip
def test_coordinates_that_cannot_be_clustered(wrong: Any) -> None:
    sites = apart(made())
    for adata in sites.values():
        adata.obsm["X_infl"] = wrong
    with pytest.raises(DataError, match=r"obsm\['X_infl'\] of a"):
        infl.tl.cluster(sites, 2)


def test_the_same_barcodes_at_predict() -> None:
    one = made(twice=True)
    run = infl.tl.fit_federated(one, target="type", site_key="hospital", rounds=1, progress=False)
    infl.tl.predict(one, run, site_key="hospital", key_added="again")
    for site in SITES:
        rows = np.flatnonzero(one.obs["hospital"] == site)
        part = infl.tl.predict(one[rows].copy(), run.model, key=run.key, copy=True)
        np.testing.assert_array_equal(one.obsm["X_again"][rows], part.obsm["X_infl"])


def test_predictions_of_a_view_of_a_file(tmp_path: Any) -> None:
    one = made()
    run = infl.tl.fit_federated(apart(one), target="type", rounds=1, progress=False)
    one.write_h5ad(tmp_path / "a.h5ad")
    view = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")[10:30]
    with pytest.raises(DataError, match="to_memory"):
        infl.tl.predict(view, run)
    assert infl.tl.predict(view, run, copy=True).n_obs == 20


def test_names_with_signs_of_formulas(tmp_path: Any) -> None:
    sites = dict(zip(("a$b_$c", "x^2", "$x_1^{2}$"), apart(made()).values(), strict=True))
    infl.pl.sites(sites, "type", save=tmp_path / "sites.png")
    with pytest.raises(InflError, match="save=3"):
        infl.pl.sites(sites, save=3)
    plt.close("all")
