"""Clusters over sites: those of scikit-learn in the pooled data, called alike everywhere, and no sum over a few."""

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_info, threadpool_limits

import infl
import infl.sums.over_sites as over_sites
from infl.errors import DataError, SettingsError
from infl.keys import Keyring
from infl.tl import cluster
from infl.tl._tree import cut


def dealt(x, n_sites=3, seed=0) -> dict[str, AnnData]:
    """Sites of unequal size."""
    where = np.random.default_rng(seed).choice(n_sites, len(x), p=np.arange(1, n_sites + 1) / sum(range(n_sites + 1)))
    sites = {f"s{i}": AnnData(obsm={"X_infl": x[where == i]}, shape=((where == i).sum(), 0)) for i in range(n_sites)}
    for name, adata in sites.items():
        adata.obs_names = [f"{name}-{i}" for i in range(adata.n_obs)]
        adata.obs["row"] = np.flatnonzero(where == int(name[1:]))
    return sites


def labels_of(sites) -> np.ndarray:
    """In the order that the observations had before they were dealt out."""
    rows = np.concatenate([adata.obs["row"] for adata in sites.values()])
    labels = np.concatenate([adata.obs["infl_cluster"].astype(str) for adata in sites.values()])
    return labels[np.argsort(rows)]


@pytest.fixture(scope="module")
def blood() -> AnnData:
    """700 blood cells in ten principal components; scanpy brings them along."""
    adata = sc.datasets.pbmc68k_reduced()
    return AnnData(obs=adata.obs[["bulk_labels"]], obsm={"X_infl": adata.obsm["X_pca"][:, :10]})


@pytest.mark.parametrize("k", [3, 8])
def test_kmeans_is_the_pooled_one(blood, k):
    x = blood.obsm["X_infl"].astype(float)
    sites = dealt(x)
    cluster(sites, k, key=Keyring.create())
    pooled = KMeans(k, n_init=20, random_state=0).fit(x)
    facts = sites["s1"].uns["infl_cluster"]
    assert facts["inertia"] <= pooled.inertia_ * 1.001
    assert adjusted_rand_score(labels_of(sites), pooled.labels_) > 0.95
    # it stands still: the means are those of the clusters
    np.testing.assert_allclose(
        facts["means"], [x[labels_of(sites) == str(i)].mean(axis=0) for i in range(k)], atol=1e-2
    )


def test_mixture_is_the_pooled_one():
    x, _ = make_blobs(900, 4, centers=5, cluster_std=[0.4, 0.8, 1.2, 0.6, 1.0], random_state=3)
    sites = dealt(x)
    cluster(sites, 5, method="gmm")
    pooled = GaussianMixture(5, n_init=10, random_state=0, tol=1e-4, max_iter=300).fit(x)
    assert adjusted_rand_score(labels_of(sites), pooled.predict(x)) > 0.99
    facts = sites["s0"].uns["infl_cluster"]
    np.testing.assert_allclose(facts["bic"], pooled.bic(x), rtol=1e-3)
    order = [np.argmin(((pooled.means_ - mean) ** 2).sum(axis=1)) for mean in facts["means"]]
    np.testing.assert_allclose(facts["weights"], pooled.weights_[order], atol=0.01)
    np.testing.assert_allclose(facts["covariances"], pooled.covariances_[order], atol=0.1)


def test_one_cluster_more_cuts_one_in_two(blood):
    before = None
    for k in (4, 5, 6, 7):
        sites = dealt(blood.obsm["X_infl"][::2])
        cluster(sites, k, method="ward", n_init=2, key=Keyring.create())
        labels = labels_of(sites)
        if before is not None:
            held = {(old, new) for old, new in zip(before, labels, strict=True)}
            assert len(held) == k  # every cluster lies in one of those before
        before = labels


def test_groups_are_joined_where_it_adds_least():
    """By distance and numbers: a small group joins a far one before two large ones that are nearer are joined."""
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 6.0]])
    assert cut(means, np.array([400, 5, 400]), 2).tolist() == [0, 0, 1]
    assert cut(means, np.array([400, 400, 5]), 2).tolist() == [0, 1, 0]
    x = np.concatenate([m + 0.3 * rng.standard_normal((60, 2)) for m in means])
    sites = dealt(x)
    cluster(sites, 3, method="ward")
    assert adjusted_rand_score(labels_of(sites), np.repeat([0, 1, 2], 60)) == 1.0
    facts = sites["s0"].uns["infl_cluster"]
    own = [x[labels_of(sites) == str(i)].mean(axis=0) for i in range(3)]
    np.testing.assert_allclose(facts["means"], own, atol=0.05)


def test_spheres_are_equally_wide_and_leave_a_large_group_in_one_piece():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal((0, 0), 1, (900, 2)), rng.normal((4.5, 0), 1, (45, 2))])
    truth, share = np.repeat([0, 1], [900, 45]), {}
    for method in ("kmeans", "spheres"):
        sites = dealt(x)
        cluster(sites, 2, method=method, use_rep="X_infl")
        share[method] = adjusted_rand_score(truth, labels_of(sites))
    assert share["spheres"] > 0.85 > 0.5 > share["kmeans"]
    facts = sites["s0"].uns["infl_cluster"]
    variance = facts["covariances"][0, 0, 0]
    np.testing.assert_allclose(facts["covariances"], np.broadcast_to(variance * np.eye(2), (2, 2, 2)))
    assert variance == pytest.approx(1, abs=0.1) and facts["weights"] == pytest.approx([900 / 945, 45 / 945], abs=0.02)


def test_leiden_finds_the_same_groups_at_sites_that_have_not_all_of_them():
    x, truth = make_blobs(600, 6, centers=4, cluster_std=0.6, random_state=1)
    sites = {}
    for name, lacks in (("a", 0), ("b", 3), ("c", None)):
        mine = np.flatnonzero((np.arange(600) % 3 == "abc".index(name)) & (truth != lacks))
        sites[name] = AnnData(obsm={"X_infl": x[mine]}, shape=(len(mine), 0))
        sites[name].obs["truth"] = truth[mine]
    cluster(sites, method="leiden", resolution=0.2)
    both = np.vstack([adata.obs[["truth", "infl_cluster"]].to_numpy(dtype=int) for adata in sites.values()])
    assert adjusted_rand_score(*both.T) == 1
    assert len(sites["a"].obs["infl_cluster"].cat.categories) == 4 and sites["a"].obs["infl_cluster"].nunique() == 3
    assert sites["a"].uns["infl_cluster"]["n_obs"].sum() == len(both)


@pytest.mark.parametrize("method", ["kmeans", "gmm", "spheres", "ward", "leiden"])
def test_one_seed_one_result_with_and_without_the_seal(blood, method):
    k = None if method == "leiden" else 6
    results = []
    for key in (None, None, Keyring.create()):
        sites = dealt(blood.obsm["X_infl"][::2])
        cluster(sites, k, method=method, seed=4, n_init=2, key=key)
        results.append(labels_of(sites))
        sizes = sites["s0"].uns["infl_cluster"]["n_obs"]
        assert (np.diff(sizes) <= 0).all() and sizes.sum() == 350
        assert sites["s0"].obs["infl_cluster"].cat.categories.equals(sites["s2"].obs["infl_cluster"].cat.categories)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("method", ["kmeans", "gmm", "spheres", "ward"])
@settings(max_examples=10)  # without the bound, two thirds or more of such data show a sum over a few
@given(seed=st.integers(0, 1000), k=st.integers(2, 6), n=st.integers(30, 80))
def test_no_sum_is_over_a_few_observations(method, seed, k, n):
    """What is summed of a cluster is 0 where fewer than five belong to it."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2)) * 10.0 ** rng.integers(-1, 2, (n, 1))
    seen = []

    def watched(shares, cohort, packing, purpose, key):
        parts = dict(shares)
        total = {name: sum(np.asarray(part[name]) for part in parts.values()) for name in next(iter(parts.values()))}
        if purpose == "cluster: numbers":
            seen.append(total["n"])
        if purpose in ("cluster: sums", "mixture: squares"):
            (summed,) = total.values()
            assert (summed[seen[-1] < 5 - 0.5] == 0).all()
        if purpose == "cluster: moments":
            assert total["n"] >= 5
        return original(parts.items(), cohort, packing, purpose, key)

    original, over_sites._added = over_sites._added, watched
    try:
        cluster(dealt(x, 2), k, n_init=2, method=method)
    finally:
        over_sites._added = original
    assert seen


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_openmp_has_one_thread_for_few_observations_whatever_numba_has_set(blood, method, monkeypatch):
    """Two threads that wait for each other by spinning take ten times as long where other processes want the cores."""
    found = []

    def watched(x, means):
        found.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp")
        return pairwise_distances_argmin(x, means)

    monkeypatch.setattr("infl.tl._centres.pairwise_distances_argmin", watched)
    with threadpool_limits(2, user_api="openmp"):
        cluster(dealt(blood.obsm["X_infl"].astype(float)), 3, method=method, n_init=1)
        assert {library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp"} == {2}
    assert set(found) == {1}


def test_ready_for_scanpy_after_a_federated_pca(khan_sites):
    infl.pp.pca(khan_sites, 10)
    cluster(khan_sites, 4, use_rep="X_pca", key_added="group")
    sc.pl.pca(khan_sites["site_1"], color="group", show=False)
    sites = {name: adata[:3].copy() if name == "site_2" else adata for name, adata in khan_sites.items()}
    cluster(sites, method="leiden", use_rep="X_pca")  # a site too small for communities of its own
    assert sites["site_2"].obs["infl_cluster"].notna().all()


def test_what_cannot_work_is_one_line_and_alters_nothing(blood):
    sites = dealt(blood.obsm["X_infl"])
    with pytest.raises(
        SettingsError, match="method='louvain': give one of 'kmeans', 'gmm', 'spheres', 'ward', 'leiden'"
    ):
        cluster(sites, 3, method="louvain")
    for k in (None, 0, 141):
        with pytest.raises(SettingsError, match=f"n_clusters must be from 1 to 140 for 700 observations .*, not {k}"):
            cluster(sites, k)
    with pytest.raises(SettingsError, match="give resolution= instead of n_clusters"):
        cluster(sites, 3, method="leiden")
    with pytest.raises(SettingsError, match="n_init=0: give a whole number"):
        cluster(sites, 3, n_init=0)
    with pytest.raises(DataError, match="use_rep 'X_pca' is missing in obsm of s0; it has 'X_infl'"):
        cluster(sites, 3, use_rep="X_pca")
    few = {"a": sites["s0"][:4].copy(), "b": sites["s1"][:4].copy()}
    with pytest.raises(DataError, match="no site has a community of 5 observations or more"):
        cluster(few, method="leiden")
    sites["s2"].obsm["X_infl"] = sites["s2"].obsm["X_infl"][:, :4]
    with pytest.raises(DataError, match=r"obsm\['X_infl'\] has 10 coordinates at s0 and 4 at s2: make it by one model"):
        cluster(sites, 3)
    sites["s1"].obsm["X_infl"][0, 0] = np.nan
    with pytest.raises(DataError, match=r"obsm\['X_infl'\] of s1 has NaN"):
        cluster(sites, 3)
    assert all("infl_cluster" not in adata.obs for adata in sites.values())
