"""Laws of split_sites: a partition, even or skewed as asked, the same for the same seed."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from infl._mudata import without_pull
from infl.errors import DataError, SettingsError
from infl.pp import split_sites


def labelled(labels) -> AnnData:
    n = len(labels)
    obs = pd.DataFrame({"label": [f"c{label}" for label in labels]}, index=[f"o{i}" for i in range(n)])
    return AnnData(np.arange(n * 2, dtype=np.float32).reshape(n, 2), obs=obs)


label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(label_lists, st.integers(1, 8), st.booleans(), st.none() | st.floats(1e-3, 1e3), st.integers(0, 99))
def test_every_observation_is_at_exactly_one_site(labels, n_sites, stratified, alpha, seed):
    adata = labelled(labels)
    n_sites = min(n_sites, adata.n_obs)
    how = {"stratify": "label"} if stratified or alpha else {}
    sites = split_sites(adata, n_sites, alpha=alpha, seed=seed, **how)
    assert list(sites) == [f"site_{i + 1}" for i in range(n_sites)]
    names = [name for site in sites.values() for name in site.obs_names]
    assert sorted(names) == sorted(adata.obs_names)
    for site in sites.values():
        assert site.n_obs > 0
        rows = adata.obs_names.get_indexer(site.obs_names)
        assert (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(site.X, adata.X[rows])


@given(label_lists, st.integers(1, 8), st.integers(0, 99))
def test_same_seed_same_sites(labels, n_sites, seed):
    adata = labelled(labels)
    n_sites = min(n_sites, adata.n_obs)
    for how in ({}, {"stratify": "label"}, {"stratify": "label", "alpha": 0.3}):
        first, second = (split_sites(adata, n_sites, seed=seed, **how) for _ in range(2))
        assert all(first[site].obs_names.equals(second[site].obs_names) for site in first)


@given(label_lists, st.integers(1, 8), st.integers(0, 99))
def test_strata_and_sizes_differ_by_one_at_most(labels, n_sites, seed):
    adata = labelled(labels)
    n_sites = min(n_sites, adata.n_obs)
    sites = split_sites(adata, n_sites, stratify="label", seed=seed).values()
    counts = np.array([[(site.obs["label"] == label).sum() for label in set(adata.obs["label"])] for site in sites])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1


def test_nested_strata_are_even_at_both_levels(khan):
    sites = split_sites(khan, 5, stratify=["tumour_class", "published_split"]).values()
    for columns in (["tumour_class"], ["tumour_class", "published_split"]):
        counts = pd.DataFrame([site.obs.groupby(columns, observed=False).size() for site in sites])
        assert np.ptp(counts.to_numpy(), axis=0).max() <= 1


def test_different_seeds_differ(khan):
    assert not split_sites(khan, seed=0)["site_1"].obs_names.equals(split_sites(khan, seed=1)["site_1"].obs_names)


def largest_shares(adata, alpha):
    """Mean share of a class at the site that has most of it."""
    tables = [
        pd.DataFrame(
            [
                s.obs["tumour_class"].value_counts()
                for s in split_sites(adata, stratify="tumour_class", alpha=alpha, seed=i).values()
            ]
        )
        for i in range(20)
    ]
    return np.mean([(table.max() / table.sum()).mean() for table in tables])


def test_smaller_alpha_means_more_skew(khan):
    even, mild, strong = (largest_shares(khan, alpha) for alpha in (1000.0, 1.0, 0.05))
    assert even < 0.40 < mild < strong
    assert strong > 0.75


@given(st.floats(1e-300, 1e-2), st.integers(2, 7), st.integers(0, 99))
def test_skew_leaves_every_site_enough_to_learn_from(alpha, n_sites, seed):
    adata = labelled([i % 3 for i in range(60)])
    for site in split_sites(adata, n_sites, stratify="label", alpha=alpha, seed=seed).values():
        counts = site.obs["label"].value_counts()
        assert site.n_obs >= 5
        assert site.n_obs - counts.iloc[0] >= 2


def test_by_takes_the_sites_of_a_column(khan):
    sites = split_sites(khan, by="published_split")
    assert {name: site.n_obs for name, site in sites.items()} == {"test": 20, "train": 63}


def test_by_ignores_values_that_do_not_occur_and_names_numbers(khan):
    khan.obs["hospital"] = pd.Categorical(np.arange(83) % 2, categories=[0, 1, 2])
    assert list(split_sites(khan, by="hospital")) == ["0", "1"]


def test_copies_are_independent_and_the_original_is_untouched(khan):
    before = khan.X.copy()
    site = split_sites(khan)["site_1"]
    assert not site.is_view
    site.X[:] = 0
    np.testing.assert_array_equal(khan.X, before)


@pytest.mark.parametrize("kind", ["view", "backed", "backed view", "sparse", "integer"])
def test_any_kind_of_anndata(khan, kind, tmp_path):
    khan.layers["twice"] = khan.X * 2
    plain = split_sites(khan, 3, seed=4)
    if kind == "view":
        khan = khan[:, :]
    if kind == "sparse":
        khan.X = sparse.csr_matrix(khan.X)
    if kind == "integer":
        khan.X = (khan.X * 100).astype(np.int32)
    if kind.startswith("backed"):
        khan.write_h5ad(tmp_path / "khan.h5ad")
        khan = ad.read_h5ad(tmp_path / "khan.h5ad", backed="r")
        khan = khan[:, :] if kind == "backed view" else khan
    for name, site in split_sites(khan, 3, seed=4).items():
        assert not site.is_view and not site.isbacked
        assert site.obs_names.equals(plain[name].obs_names)
        assert sparse.issparse(site.X) == (kind == "sparse")
        assert site.X.dtype == khan.X.dtype
        np.testing.assert_array_equal(site.layers["twice"], plain[name].layers["twice"])


@pytest.mark.data_dir
@pytest.mark.parametrize("backed", [False, True])
def test_mudata_with_a_modality_that_some_lack(breast, backed, tmp_path):
    whole = breast
    if backed:
        with without_pull():
            breast.write_h5mu(tmp_path / "breast.h5mu")
            whole = md.read_h5mu(tmp_path / "breast.h5mu", backed="r")
    sites = split_sites(whole, 4, stratify="subtype")
    assert sorted(n for site in sites.values() for n in site.obs_names) == sorted(breast.obs_names)
    assert sum(site["protein"].n_obs for site in sites.values()) == 150
    for site in sites.values():
        assert not site.isbacked and not site["rna"].isbacked
        assert site.uns["source"] == breast.uns["source"]
        assert site.obs["subtype"].equals(breast.obs["subtype"].reindex(site.obs_names).cat.remove_unused_categories())
        np.testing.assert_array_equal(site["protein"].X, breast["protein"][site["protein"].obs_names].X)


def test_errors_name_what_is_wrong(khan):
    khan.obs["hole"] = pd.Series(["a", None] + ["b"] * 81, index=khan.obs_names)
    khan.obs["case"] = ["A ", "a"] + ["b"] * 81
    khan.obs["age"] = np.linspace(1, 9, 83)
    cases = [
        (
            DataError,
            "by 'tumor_class' is missing in obs of the data; did you mean 'tumour_class'?",
            {"by": "tumor_class"},
        ),
        (DataError, "stratify 'x' is missing in obs of the data; it has 'tumour_class'", {"stratify": "x"}),
        (DataError, "by 'hole' has no value for 1 of 83 observations at the data; fill them in", {"by": "hole"}),
        (DataError, "by 'case' has values that differ in case or white space only: 'A ', 'a'", {"by": "case"}),
        (DataError, "stratify 'age' is numeric with 83 values", {"stratify": "age"}),
        (DataError, "n_sites is 84, but there are 83 observations", {"n_sites": 84}),
        (SettingsError, "n_sites=0: give a whole number of at least 1", {"n_sites": 0}),
        (SettingsError, "n_sites=2.5: give a whole number of at least 1", {"n_sites": 2.5}),
        (
            SettingsError,
            "n_sites='hospital': give a whole number of at least 1; a column of obs is by=",
            {"n_sites": "hospital"},
        ),
        (SettingsError, "alpha skews labels, so it needs stratify", {"alpha": 1.0}),
        (SettingsError, "alpha=0.0: give a number above 0", {"alpha": 0.0, "stratify": "tumour_class"}),
        (SettingsError, "alpha=-1: give a number above 0", {"alpha": -1, "stratify": "tumour_class"}),
        (SettingsError, "alpha=nan: give a number above 0", {"alpha": float("nan"), "stratify": "tumour_class"}),
        (SettingsError, "by takes the sites from a column", {"by": "tumour_class", "alpha": 1.0}),
    ]
    for kind, text, arguments in cases:
        with pytest.raises(kind) as caught:
            split_sites(khan, **arguments)
        assert text in str(caught.value)
    with pytest.raises(DataError, match="adata=<DataFrame>: give an AnnData or MuData"):
        split_sites(khan.obs)
