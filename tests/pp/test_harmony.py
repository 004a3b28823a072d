"""Harmony: one algorithm however the cells are dealt out, whose formulas are those of a plain pooled one."""

import warnings
from copy import deepcopy
from dataclasses import replace

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

import infl
import infl.pp._harmony as harmony
import infl.pp._harmony_cells as harmony_cells
import infl.pp._harmony_sums as harmony_sums_of
import infl.pp._sphere as sphere
from infl.errors import DataError, InflError, InflWarning, SettingsError
from infl.pp import harmony_integrate
from infl.pp._harmony_cells import Batches, Cells, Options, shrinkage
from infl.pp._harmony_sums import harmony_sums, start
from infl.pp._sphere import Directions, first_centres
from infl.sums import run_sums

ADJUSTED = "X_pca_harmony"


def cells(n: int = 600, n_batches: int = 3, d: int = 8, seed: int = 0) -> AnnData:
    """Six types of cells in batches that lie apart, types and batches of unequal size."""
    rng = np.random.default_rng(seed)
    types = rng.choice(6, n, p=np.arange(1, 7) / 21)
    batch = rng.choice(n_batches, n, p=np.arange(1, n_batches + 1) / (n_batches * (n_batches + 1) / 2))
    centres, shifts = rng.normal(size=(6, d)) * 3, rng.normal(size=(n_batches, d)) * 1.5
    x = (centres[types] + shifts[batch] + rng.normal(size=(n, d))) * np.linspace(3, 0.5, d)
    obs = pd.DataFrame({"batch": batch, "type": types}, index=[f"c{i}" for i in range(n)]).astype(str)
    return AnnData(obs=obs, obsm={"X_pca": x}, shape=(n, 0))


def dealt(adata: AnnData, where: np.ndarray) -> dict[str, AnnData]:
    return {f"s{site}": adata[where == site].copy() for site in np.unique(where)}


def adjusted(sites: dict[str, AnnData], like: AnnData) -> np.ndarray:
    """What was written at the sites, in the order of the whole."""
    names = np.concatenate([adata.obs_names for adata in sites.values()])
    return np.concatenate([adata.obsm[ADJUSTED] for adata in sites.values()])[
        pd.Index(names).get_indexer(like.obs_names)
    ]


def of_other_batches(x: np.ndarray, batch: np.ndarray, k: int = 15) -> float:
    """Share of nearest neighbours that are of other batches."""
    near = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x, return_distance=False)[:, 1:]
    return float((batch[near] != batch[:, None]).mean())


def plain_harmony(x: np.ndarray, batch: np.ndarray, centres: np.ndarray, *, corrections: int, steps: int) -> np.ndarray:
    """Harmony of pooled data, with memberships (n, k) and regressions written out."""
    theta, sigma, alpha = 2.0, 0.1, 0.2
    phi = (batch[:, None] == np.unique(batch)).astype(float)
    share, design = phi.mean(0), np.column_stack([np.ones(len(x)), phi])
    y, z, observed, result = sphere.directions(centres), sphere.directions(x), None, x
    for _ in range(corrections):
        distance = 2 * (1 - z @ y.T)
        for step in range(-1 if observed is None else 0, steps):
            r = np.exp(-distance / sigma)
            if step >= 0:
                expected = observed.sum(1, keepdims=True) * share
                r *= phi @ (((2 * expected + 1) / (observed + expected + 1)) ** theta).T
            r /= r.sum(1, keepdims=True)
            new = r.T @ phi
            observed = new if step in (-1, steps - 1) else (observed + new) / 2
        result = x.copy()
        for k in np.flatnonzero(observed.sum(1) >= 5):
            ridge = np.diag([0, *alpha * observed[k].sum() * share])
            weights = np.linalg.solve(design.T * r[:, k] @ design + ridge, design.T * r[:, k] @ x)
            y[k] = weights[0] / np.linalg.norm(weights[0])
            weights[0] = 0
            result -= r[:, k, None] * (design @ weights)
        z = sphere.directions(result)
    return result


@pytest.mark.filterwarnings("ignore:Harmony did not converge")
def test_the_formulas_are_those_of_plain_harmony():
    adata = cells()
    x, batch = adata.obsm["X_pca"], adata.obs["batch"].to_numpy()
    start_at = first_centres({"all": Directions.of(x)}, 20, seed=0, key=None, about="")
    options = {"max_iter_harmony": 3, "tol_harmony": 0, "batch_prune_threshold": None}
    for steps in (1, 4):
        want = plain_harmony(x, batch, start_at, corrections=3, steps=steps)
        sites = dealt(adata, np.arange(600) % 4)
        harmony_integrate(sites, "batch", n_clusters=20, max_iter_clustering=steps, **options)
        assert not sites["s0"].uns[ADJUSTED]["converged"]
        np.testing.assert_allclose(adjusted(sites, adata), want, atol=1e-7)


@pytest.mark.filterwarnings("ignore:s0 alone has batches")
@pytest.mark.parametrize("how", ["by batch", "mixed", "one batch apart", "tiny"])
@pytest.mark.parametrize("sealed", [True, False])
def test_it_is_one_result_however_cells_are_dealt_out(key, how, sealed):
    adata = cells()
    batch, i = adata.obs["batch"].astype(int).to_numpy(), np.arange(600)
    where = {
        "by batch": batch,
        "mixed": i % 4,
        "one batch apart": np.where(batch == 0, 0, 1 + i % 3),
        "tiny": np.where(i < 3, i, 3 + i % 2),
    }[how]
    whole = dealt(adata, np.zeros(600, dtype=int))
    harmony_integrate(whole, "batch")
    sites = dealt(adata, where)
    harmony_integrate(sites, None if how == "by batch" else "batch", key=key if sealed else None)
    want, found = adjusted(whole, adata), adjusted(sites, adata)
    assert np.abs(found - want).max() <= 1e-6
    assert np.abs(want - adata.obsm["X_pca"]).max() > 1
    facts = [adata.uns[ADJUSTED] for adata in sites.values()]
    assert all(fact["converged"] for fact in facts)
    np.testing.assert_allclose(facts[0]["objective"], whole["s0"].uns[ADJUSTED]["objective"], rtol=1e-9)


@pytest.mark.data_dir
@pytest.mark.parametrize("name", ["stemcells", "her2st_labelled"])
def test_sites_of_real_data_find_what_one_site_finds(key, name):
    adata = getattr(infl.datasets, name)()
    sc.pp.pca(adata, 30)
    by = "study" if name == "stemcells" else "patient"
    where = pd.factorize(adata.obs[by])[0]
    whole, sites = dealt(adata, np.zeros(adata.n_obs, dtype=int)), dealt(adata, where)
    harmony_integrate(whole, by)
    harmony_integrate(sites, key=key)
    assert np.abs(adjusted(sites, adata) - adjusted(whole, adata)).max() <= 1e-6 * np.abs(adata.obsm["X_pca"]).max()


def test_batches_mix_and_types_stay_apart():
    adata = cells(1500)
    batch, types = adata.obs["batch"].to_numpy(), adata.obs["type"].to_numpy()
    sites = dealt(adata, adata.obs["batch"].astype(int).to_numpy())
    harmony_integrate(sites)
    before, after = adata.obsm["X_pca"], adjusted(sites, adata)
    by_chance = 1 - (adata.obs["batch"].value_counts(normalize=True) ** 2).sum()
    assert of_other_batches(after, batch) > 0.8 * by_chance > 3 * of_other_batches(before, batch)
    assert of_other_batches(after, types) <= of_other_batches(before, types) + 0.01


def test_more_of_theta_mixes_more_and_none_of_it_is_a_regression_alone():
    adata = cells(1500)
    mixed = {}
    for theta in (0, 2):
        sites = dealt(adata, adata.obs["batch"].astype(int).to_numpy())
        harmony_integrate(sites, theta=theta)
        mixed[theta] = of_other_batches(adjusted(sites, adata), adata.obs["batch"].to_numpy())
    assert mixed[2] > mixed[0]


def test_seeds_differ_and_one_seed_is_one_result():
    adata, found = cells(), []
    for seed in (0, 0, 1):
        sites = dealt(adata, np.arange(600) % 3)
        harmony_integrate(sites, "batch", random_state=seed)
        found.append(adjusted(sites, adata))
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-3


@given(weights=st.lists(st.floats(0, 50), min_size=2, max_size=5), alpha=st.floats(0.05, 2), seed=st.integers(0, 9))
@settings(max_examples=40)
def test_intercept_and_effects_are_those_of_the_ridge_regression(weights, alpha, seed):
    of_batches = np.array(weights) + 0.01
    expected = np.random.default_rng(seed).uniform(0.1, 20, len(weights))
    sums = np.random.default_rng(seed + 1).normal(size=(len(weights), 3)) * of_batches[:, None]
    design = np.diag([of_batches.sum(), *(of_batches + alpha * expected)])
    design[0, 1:] = design[1:, 0] = of_batches
    want = np.linalg.solve(design, np.vstack([sums.sum(0), sums]))
    factor, rest = shrinkage(of_batches[None], expected[None], np.ones((1, len(weights)), dtype=bool), alpha)
    intercept = (rest[0] @ sums) / (rest[0] @ of_batches)
    np.testing.assert_allclose(intercept, want[0], rtol=1e-6, atol=1e-8)
    effects = factor[0, :, None] * (sums - of_batches[:, None] * intercept)
    np.testing.assert_allclose(effects, want[1:], rtol=1e-6, atol=1e-7)


def test_half_the_way_settles_where_all_the_way_swings(monkeypatch):
    x = cells(1500).obsm["X_pca"]
    batch = np.sort(np.random.default_rng(0).integers(0, 2, 1500))
    first = int((batch == 0).sum())
    batches = Batches([slice(0, first), slice(first, 1500)], np.array([0, 1]), np.bincount(batch).astype(float), 1500)
    centres, last = first_centres({"a": Directions.of(x)}, 20, seed=0, key=None, about=""), {}
    for step in (0.5, 1.0):
        monkeypatch.setattr(harmony_cells, "STEP", step)
        monkeypatch.setattr(harmony_sums_of, "STEP", step)
        memberships, clusters, _ = harmony_sums(20, 8, 2, steps=1)
        clusters = replace(clusters, finish=None)
        site, state = Cells(x, batches, Options(theta=6, sigma=0.5)), start(centres, 2)
        state = run_sums([memberships, *[clusters] * 29], {"a": site}, None, state=state)
        after = run_sums([clusters], {"a": site}, None, state=state)
        last[step] = np.abs(after["shared"] - state["shared"]).max()
    assert last[0.5] < 1 < 50 < last[1.0]


# -- what leaves a site -------------------------------------------------------------------------------------------------


def test_of_a_batch_that_one_site_has_nothing_has_its_own_number():
    for one in harmony_sums(20, 8, 0, steps=4):
        assert set(one.shapes) <= {"totals", "objective", "sum", "weight"}
    for one in harmony_sums(20, 8, 2, steps=4):
        assert {"shared": (20, 2), "shared_sum": (20, 2, 8)}.items() & dict(one.shapes).items()


def test_sums_of_one_site_with_batches_of_its_own_can_be_worked_out_and_it_is_warned_of(monkeypatch):
    """Whoever has the sums takes off what the shared batches add up to; with two such sites, that is a sum over both."""
    adata, opened, own = cells(n_batches=4), [], []
    batch, i = adata.obs["batch"].astype(int).to_numpy(), np.arange(600)
    reached = harmony_sums_of._reached
    monkeypatch.setattr(
        harmony_sums_of, "_reached", lambda total, state, step: opened.append(total) or reached(total, state, step)
    )
    cluster = Cells.cluster

    def clustered(site, state):
        weights = cluster(site, state)
        own.append(weights[:, site.batches.shared < 0].sum(1))
        return weights

    monkeypatch.setattr(Cells, "cluster", clustered)
    with pytest.warns(
        InflWarning, match="^s0 alone has batches that no other site has: as all other batches are summed"
    ):
        harmony_integrate(dealt(adata, np.where(batch == 0, 0, 1 + i % 3)), "batch")
    np.testing.assert_allclose(opened[-1]["totals"] - opened[-1]["shared"].sum(1), own[-4], atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InflWarning)
        harmony_integrate(dealt(adata, np.where(batch < 2, batch, 2 + i % 2)), "batch")
    left = opened[-1]["totals"] - opened[-1]["shared"].sum(1)
    np.testing.assert_allclose(left, own[-4] + own[-3], atol=1e-6)
    assert np.abs(left - own[-4]).max() > 5


def test_a_batch_of_fewer_than_five_observations_over_sites_has_no_sums(monkeypatch):
    """Of one cell at each of two sites, the sum would tell one the coordinates of the other's."""
    adata, shapes = cells(), []
    adata.obs.loc[adata.obs_names[[0, 1]], "batch"] = "few"
    monkeypatch.setattr(
        harmony, "harmony_sums", lambda k, d, n, of=harmony_sums, **o: shapes.append(n) or of(k, d, n, **o)
    )
    sites = dealt(adata, np.arange(600) % 2)
    harmony_integrate(sites, "batch")
    adata.obs.loc[adata.obs_names[2:5], "batch"] = "few"
    harmony_integrate(dealt(adata, np.arange(600) % 2), "batch")
    assert shapes == [3, 4] and all(np.isfinite(site.obsm[ADJUSTED]).all() for site in sites.values())


def test_no_sum_is_over_fewer_than_five_observations(monkeypatch):
    seen = []
    monkeypatch.setattr(
        sphere, "_next_cut", lambda total, state, of=sphere._next_cut: seen.append(total["n"]) or of(total, state)
    )
    monkeypatch.setattr(sphere, "_moved", lambda total, state, of=sphere._moved: seen.append(np.where(total["sum"].any(1), state["n"], 0)) or of(total, state))  # fmt: skip
    x = cells(200).obsm["X_pca"]
    x[:3] *= -100  # three cells by themselves
    sites = {"a": Directions.of(x[:90]), "b": Directions.of(x[90:])}
    centres = first_centres(sites, 40, seed=0, key=None, about="")
    assert len(seen) > 5 and 20 < len(centres) <= 40
    assert all(n.sum() <= 200 and (n[n > 0] >= 5).all() for n in seen)


def test_a_cluster_of_fewer_than_five_is_left_as_it_is():
    x = np.vstack([np.tile([1.0, 0, 0], (20, 1)), np.tile([0, 1.0, 0], (4, 1))])
    x = x + np.random.default_rng(0).normal(size=x.shape) * 0.01
    batches = Batches([slice(0, 10), slice(10, 24)], np.array([-1, 0]), np.array([10.0, 14.0]), 24)
    site, state = Cells(x, batches, Options()), start(np.eye(3)[:2], 1)
    for one in harmony_sums(2, 3, 1, steps=2):
        state = run_sums([one], {"a": site}, None, state=state)
    np.testing.assert_allclose(state["totals"], [20, 4], atol=0.1)
    assert state["shared_sum"][0].any() and not state["shared_sum"][1].any()
    assert not state["intercepts"][1].any() and state["centres"][1].tolist() == [0, 1, 0]
    np.testing.assert_allclose(site.corrected(state)[20:], x[20:], atol=1e-3)
    assert np.abs(site.corrected(state)[:20] - x[:20]).max() > 1e-3


@given(site=st.sampled_from(["s0", "s1"]), at=st.integers(0, 90), of=st.integers(0, 90), n_done=st.integers(0, 3))
@settings(max_examples=25)
def test_one_record_changes_weights_by_no_more_than_the_sums_say(site, at, of, n_done):
    adata = cells(200, 2)
    sites = dealt(adata, np.arange(200) % 2)
    x = {s: a.obsm["X_pca"] for s, a in sites.items()}
    labels = {s: a.obs["batch"].to_numpy() for s, a in sites.items()}
    shared, _ = harmony._shared(x, labels, None)
    (at_sites, _), n_shared = harmony._cells(x, labels, 200, shared, Options()), len(shared)
    memberships, clusters, regressions = harmony_sums(12, 8, n_shared, steps=1)
    state = run_sums(
        [memberships], at_sites, None, state=start(np.random.default_rng(0).normal(size=(12, 8)), n_shared)
    )
    state = run_sums([clusters, regressions] * n_done, at_sites, None, state=state)
    for one in (memberships, clusters):
        before, after = deepcopy(at_sites[site]), deepcopy(at_sites[site])
        after.x[at] = after.x[of]
        behind = one.behind(before, state)
        shares = [one.local(view, state) for view in (before, after)]
        assert set(one.sensitivity) == {"totals", "shared"}
        for name, bound in one.sensitivity.items():
            assert np.abs(shares[0][name] - shares[1][name]).max() <= bound + 1e-9
            assert not shares[0][name][behind[name] == 0].any()


# -- what users do ------------------------------------------------------------------------------------------------------


def test_the_batch_may_be_given_as_scanpy_calls_it(key):
    adata, found = cells(), []
    for options in ({"batch_key": "batch", "key": key}, {"key": "batch"}):
        sites = dealt(adata, np.arange(600) % 3)
        harmony_integrate(sites, **options)
        found.append(adjusted(sites, adata))
    np.testing.assert_allclose(found[0], found[1], atol=1e-9)
    with pytest.raises(SettingsError, match="both name a column"):
        harmony_integrate(sites, "batch", key="type")


def test_one_object_has_the_rows_where_they_were():
    adata = cells()
    adata.obs["hospital"] = np.random.default_rng(1).choice(["a", "b", "c"], 600)
    sites = {name: adata[adata.obs["hospital"] == name].copy() for name in "abc"}
    harmony_integrate(adata, "batch", site_key="hospital")
    harmony_integrate(sites, "batch")
    np.testing.assert_array_equal(adata.obsm[ADJUSTED], adjusted(sites, adata))
    assert adata.uns[ADJUSTED]["params"]["batch_key"] == "batch"


def test_mudata():
    adata = cells()
    sites = dealt(adata, np.arange(600) % 2)
    both = {}
    for site, of_site in sites.items():
        both[site] = mudata.MuData({"rna": AnnData(np.ones((of_site.n_obs, 2)), obs=of_site.obs[["type"]].copy())})
        both[site].obs["batch"], both[site].obsm["X_pca"] = of_site.obs["batch"], of_site.obsm["X_pca"]
    harmony_integrate(sites, "batch")
    harmony_integrate(both, "batch")
    for site in sites:
        np.testing.assert_array_equal(both[site].obsm[ADJUSTED], sites[site].obsm[ADJUSTED])


def test_types_other_names_and_what_was_there_before():
    adata = cells()
    sites, single = dealt(adata, np.arange(600) % 2), dealt(adata, np.arange(600) % 2)
    for of_site in single.values():
        of_site.obsm["X_svd"] = of_site.obsm.pop("X_pca").astype(np.float32)
        of_site.obsm["X_mixed"] = np.zeros((of_site.n_obs, 1))
    harmony_integrate(sites, "batch")
    harmony_integrate(single, "batch", basis="X_svd", adjusted_basis="X_mixed", dtype="float32")
    assert sites["s0"].obsm[ADJUSTED].dtype == np.float64 and single["s0"].obsm["X_mixed"].dtype == np.float32
    np.testing.assert_allclose(single["s0"].obsm["X_mixed"], sites["s0"].obsm[ADJUSTED], atol=1e-2)
    assert single["s0"].obsm["X_svd"].dtype == np.float32 and ADJUSTED not in single["s0"].obsm


def test_batches_that_are_numbers_or_categories_are_one_where_they_are_called_alike():
    adata = cells()
    sites, mixed = dealt(adata, np.arange(600) % 3), dealt(adata, np.arange(600) % 3)
    mixed["s0"].obs["batch"] = mixed["s0"].obs["batch"].astype(float)
    mixed["s1"].obs["batch"] = pd.Categorical(mixed["s1"].obs["batch"], categories=["9", "2", "1", "0"])
    for case in (sites, mixed):
        harmony_integrate(case, "batch")
    np.testing.assert_array_equal(adjusted(mixed, adata), adjusted(sites, adata))


def test_batches_that_are_spelt_differently_are_named():
    adata = cells()
    adata.obs["batch"] = "Run " + adata.obs["batch"]
    sites = dealt(adata, np.arange(600) % 2)
    sites["s1"].obs["batch"] = sites["s1"].obs["batch"].str.replace("Run 1", "run_1")
    with pytest.warns(InflWarning, match=r"batches 'Run 1' \(s0\) and 'run_1' \(s1\) in 'batch' look like one"):
        harmony_integrate(sites, "batch")


def test_one_batch_changes_nothing_and_says_so():
    adata = cells()
    with pytest.warns(InflWarning, match="one batch"):
        harmony_integrate({"a": adata})
    np.testing.assert_allclose(adata.obsm[ADJUSTED], adata.obsm["X_pca"], atol=1e-9)


def test_what_did_not_converge_says_so():
    adata = cells()
    sites = dealt(adata, np.arange(600) % 3)
    with pytest.warns(InflWarning, match=r"did not converge in 1 corrections: raise max_iter_harmony"):
        harmony_integrate(sites, "batch", max_iter_harmony=1)
    assert not sites["s0"].uns[ADJUSTED]["converged"] and len(sites["s0"].uns[ADJUSTED]["objective"]) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        harmony_integrate(sites, "batch", tol_harmony=1.0, max_iter_harmony=1)


@pytest.mark.parametrize("n", [5, 9, 30])
def test_few_cells(n):
    adata = cells(n, 2)
    sites = dealt(adata, np.arange(n) % 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        harmony_integrate(sites, "batch")
    assert np.isfinite(adjusted(sites, adata)).all()
    assert sites["s0"].uns[ADJUSTED]["params"]["n_clusters"] <= max(n // 5, 1)


def test_cells_without_any_coordinates_and_equal_ones():
    adata = cells()
    adata.obsm["X_pca"][:40] = 0
    adata.obsm["X_pca"][40:90] = adata.obsm["X_pca"][40]
    sites = dealt(adata, np.arange(600) % 3)
    harmony_integrate(sites, "batch", sigma=0.01)
    assert np.isfinite(adjusted(sites, adata)).all()


@pytest.mark.filterwarnings("ignore:Harmony did not converge")
def test_extreme_settings_give_numbers():
    adata = cells()
    for options in ({"theta": 1000}, {"sigma": 1e-3, "theta": 1000}, {"sigma": 100}, {"alpha": 1e-9}, {"alpha": 1e9}):
        sites = dealt(adata, np.arange(600) % 3)
        harmony_integrate(sites, "batch", **options)
        assert np.isfinite(adjusted(sites, adata)).all() and np.isfinite(sites["s0"].uns[ADJUSTED]["objective"]).all()


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_units_do_not_matter(key, factor):
    adata, other = cells(), cells()
    other.obsm["X_pca"] *= factor
    found = []
    for case in (adata, other):
        sites = dealt(case, np.arange(600) % 3)
        harmony_integrate(sites, "batch", key=key)
        found.append(adjusted(sites, case))
    np.testing.assert_allclose(found[1] / factor, found[0], atol=1e-7)


def test_a_site_without_cells_and_one_on_disk(tmp_path):
    adata = cells()
    sites, some = dealt(adata, np.arange(600) % 2), dealt(adata, np.arange(600) % 2)
    some["none"] = adata[:0].copy()
    some["s1"].write_h5ad(tmp_path / "s1.h5ad")
    some["s1"] = ad.read_h5ad(tmp_path / "s1.h5ad", backed="r")
    for case in (sites, some):
        harmony_integrate(case, "batch")
    assert some["none"].obsm[ADJUSTED].shape == (0, 8)
    np.testing.assert_array_equal(adjusted(some, adata), adjusted(sites, adata))


def test_tau_spares_small_batches():
    batches = Batches([slice(0, 1), slice(1, 2)], np.array([-1, -1]), np.array([10.0, 1000.0]), 1010)
    site = Cells(np.ones((2, 3)), batches, Options(tau=10))
    np.testing.assert_allclose(site.theta(start(np.ones((10, 3)), 0)), [2 * (1 - np.exp(-0.01)), 2], rtol=1e-9)


def broken(case: str) -> tuple[dict[str, AnnData], dict]:
    adata = cells(60)
    sites = dealt(adata, np.arange(60) % 2)
    of, options = sites["s1"], {"batch_key": "batch"}
    match case:
        case "no basis":
            del of.obsm["X_pca"]
        case "NaN":
            of.obsm["X_pca"][3, 1] = np.nan
        case "fewer coordinates":
            of.obsm["X_pca"] = of.obsm["X_pca"][:, :5]
        case "no column":
            del of.obs["batch"]
        case "no batch":
            of.obs.loc[of.obs_names[2], "batch"] = None
        case "many clusters":
            options["n_clusters"] = 13
        case "dtype":
            options["dtype"] = "int64"
        case "few":
            sites = {site: adata[:2].copy() for site, adata in sites.items()}
    return sites, options


BROKEN = {
    "no basis": r"basis 'X_pca' is missing in obsm of s1",
    "NaN": r"obsm\['X_pca'\] of s1 has NaN",
    "fewer coordinates": "has 8 coordinates at s0 and 5 at s1",
    "no column": "batch_key 'batch' is missing in obs of s1",
    "no batch": "batch_key 'batch' has no value for 1 of 30 observations at s1",
    "many clusters": "n_clusters must be from 1 to 12 for 60 observations",
    "dtype": "dtype='int64': give a type of real numbers",
    "few": "there are 4 observations at all sites together",
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_one_line_before_any_work(monkeypatch, case):
    monkeypatch.setattr(harmony, "run_sums", None)
    monkeypatch.setattr(sphere, "run_sums", None)
    sites, options = broken(case)
    with pytest.raises(InflError, match=BROKEN[case]) as error:
        harmony_integrate(sites, **options)
    assert "\n" not in str(error.value)
    assert all(ADJUSTED not in adata.obsm and not adata.uns for adata in sites.values())


def test_objects_of_two_kinds_are_refused():
    adata = cells(60)
    with pytest.raises(DataError, match="mix"):
        harmony_integrate({"a": adata, "b": mudata.MuData({"rna": adata.copy()})})
