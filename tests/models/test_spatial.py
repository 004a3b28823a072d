from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

import infl
from infl.errors import DataError, InflWarning, KeyringError, SettingsError
from infl.keys import Keyring
from infl.models.matrix import FeatureMatrix
from infl.models.neighbourhoods import Spots
from infl.models.neighbours import sections_of
from infl.sums import mixture
from infl.tl._predict import infer

OPTIONS = {"model": "spatial", "n_domains": 3, "n_neighbors": 4, "rounds": 6, "steps": 10, "progress": False}


def section(seed: int, *, depth: float = 1.0, shift: float = 0.0) -> ad.AnnData:
    """12 × 12 spots in three stripes, each with ten genes of its own; a site has its depth and genes of its own."""
    rng = np.random.default_rng(seed)
    xy = np.indices((12, 12)).reshape(2, -1).T
    region = xy[:, 0] // 4
    rate = np.full((144, 40), 2.0)
    for r in range(3):
        rate[region == r, 10 * r : 10 * r + 10] += 3 + 2 * r
    rate[:, 30:] += shift * rng.random(10) * 10
    spots = ad.AnnData(sparse.csr_matrix(rng.poisson(depth * rate).astype(np.float32)))
    spots.obs_names = [f"{seed}_{i}" for i in range(144)]
    spots.var_names = [f"gene_{i}" for i in range(40)]
    spots.obs["region"] = region.astype(str)
    spots.obsm["spatial"] = xy.astype(float)
    return spots


def sites() -> dict[str, ad.AnnData]:
    return {"a": section(0), "b": section(1, depth=2, shift=1), "c": section(2, depth=0.5, shift=2)}


def regions(tables: dict[str, ad.AnnData]) -> float:
    """ARI of the domains of all sites in one."""
    found, real = (np.concatenate([s.obs[c].astype(str) for s in tables.values()]) for c in ("infl_domain", "region"))
    return adjusted_rand_score(real, found)


@pytest.fixture(scope="module")
def fitted():
    tables = sites()
    run = infl.tl.fit_federated(tables, **OPTIONS)
    return tables, run


def test_domains_mean_the_same_at_all_sites(fitted):
    tables, run = fitted
    assert regions(tables) > 0.9
    assert all(list(s.obs["infl_domain"].cat.categories) == ["0", "1", "2"] for s in tables.values())
    assert all(s.obsm["X_infl"].shape == (144, 10) for s in tables.values())
    assert run.history["val_loss"].iloc[0] < 0.5  # of 2, how much the two views vary


def test_a_new_section_gets_the_same_domains(fitted, tmp_path):
    tables, run = fitted
    new = section(7, depth=1.5, shift=1)
    infl.tl.predict(new, run.model, key=run.key)
    assert regions(tables | {"new": new}) > 0.9
    new.write_h5ad(tmp_path / "new.h5ad")
    assert ad.read_h5ad(tmp_path / "new.h5ad").obs["infl_domain"].equals(new.obs["infl_domain"])
    with pytest.raises(KeyringError):
        infl.tl.predict(section(8), run.model, key=Keyring.create())


def test_there_are_no_domains_without_the_key(fitted):
    tables, run = fitted
    right = infer(tables["a"], run.model, run.key)["domain"]
    assert adjusted_rand_score(tables["a"].obs["region"], right) > 0.9  # the control
    for wrong in (Keyring.create(), None):
        assert (infer(tables["a"], run.model, wrong, verify=False)["domain"] == -1).all()
    new = section(7)
    with pytest.warns(InflWarning, match="no key"):
        infl.tl.predict(new, run.model)
    assert new.obs["infl_domain"].isna().all()


def test_lock_and_seal_change_nothing(fitted):
    tables, _ = fitted
    plain = sites()
    with pytest.warns(InflWarning, match="seal='none'"):
        infl.tl.fit_federated(plain, lock=None, seal="none", **OPTIONS)
    for name, adata in plain.items():
        difference = np.linalg.norm(adata.obsm["X_infl"] - tables[name].obsm["X_infl"])
        assert difference < 1e-3 * np.linalg.norm(adata.obsm["X_infl"])
        assert (adata.obs["infl_domain"] == tables[name].obs["infl_domain"]).all()


def test_sections_of_one_site_and_a_mudata_read_alike():
    one, two = section(0), section(1)
    both = ad.concat([one, two])
    both.obs["section"] = np.repeat(["one", "two"], 144)
    task = infl.models.Spatial(section_key="section", n_neighbors=4)
    panel = {"features": list(both.var_names)}
    rows = task.read(both, panel, site="a").rows(slice(None))
    alone = infl.models.Spatial(n_neighbors=4)
    assert np.allclose(rows[:144], alone.read(one, panel, site="a").rows(slice(None)), atol=1e-5)
    assert np.allclose(rows[144:], alone.read(two, panel, site="a").rows(slice(None)), atol=1e-5)
    both.var_names = both.var_names.astype(str)
    multi = md.MuData({"rna": both})
    task = infl.models.Spatial(section_key="section", n_neighbors=4, modality="rna")
    assert np.array_equal(rows, task.read(multi, panel, site="a").rows(slice(None)))


def test_views_are_those_worked_out_by_hand():
    spots = ad.AnnData(np.array([[4.0, 0], [0, 4], [0, 0]], dtype=np.float32))
    spots.obsm["spatial"] = np.array([[0.0, 0], [1, 0], [2, 0]])
    x = FeatureMatrix(spots, spots.var_names, site="a")
    data = Spots(x, sections_of(spots, site="a"), n_neighbors=1, n_hops=1, train=np.arange(3), validation=np.arange(0))
    # with counts: spots 0 and 1, total 4 each; roots 2, median 4: 1 in both views. Spot 2 has what its neighbour has.
    means = np.array([[0.5, 0.5], [0.5, 0.5], [0, 1]])
    assert np.allclose(data.rows(slice(None)), np.hstack([means - means.mean(0)] * 2), atol=1e-6)


def test_rows_on_demand_are_those_in_memory(monkeypatch):
    task, panel = infl.models.Spatial(n_neighbors=4), {"features": [f"gene_{i}" for i in range(40)]}
    whole = task.read(section(0), panel, site="a").rows(np.array([3, 77]))
    monkeypatch.setattr("infl.models.neighbourhoods._IN_MEMORY", 0)
    assert np.allclose(task.read(section(0), panel, site="a").rows(np.array([3, 77])), whole, atol=1e-6)


def test_federated_mixture_is_that_of_the_pooled_data_and_scikit_learns():
    rng = np.random.default_rng(0)
    true = (((6, 0), 1.5, 300), ((0, 0), 0.5, 200), ((0, -4), 0.2, 100))
    z = np.concatenate([rng.normal(mean, width, size=(n, 2)) for mean, width, n in true])

    def run(pieces):
        add = lambda function: {  # noqa: E731
            name: sum(function(p)[name] for p in pieces) for name in function(pieces[0])
        }
        mixtures = mixture.first(add(mixture.moments), 3)
        for _ in range(60):
            sums = add(lambda p, now=mixtures: mixture.parts(p, now))
            mixtures = mixture.moved(mixtures, sums)
        return mixture.best(mixtures, sums)

    apart, pooled = run([z[::2], z[1::2]]), run([z])
    assert all(np.allclose(apart[name], pooled[name]) for name in apart)
    model = GaussianMixture(3, covariance_type="spherical", n_init=5, tol=1e-8, random_state=0).fit(z)
    order = np.argsort(-model.weights_)
    np.testing.assert_allclose(apart["centres"], model.means_[order], atol=1e-3)
    np.testing.assert_allclose(apart["variances"], model.covariances_[order], rtol=1e-2)
    np.testing.assert_allclose(apart["shares"], model.weights_[order], atol=1e-3)
    path = sparse.csr_matrix((len(z), len(z)))
    np.testing.assert_array_equal(order[mixture.assign(z, apart, path, 0)], model.predict(z))


def test_equal_spots_do_not_draw_a_domain_to_nothing():
    z = np.concatenate([np.zeros((40, 2)), np.random.default_rng(0).normal(5, 1, (40, 2))])
    mixtures = mixture.first(mixture.moments(z), 2)
    for _ in range(30):
        mixtures = mixture.moved(mixtures, mixture.parts(z, mixtures))
    found = mixture.best(mixtures, mixture.parts(z, mixtures))
    assert found["variances"].min() == pytest.approx(mixture.NARROWEST * np.cov(z.T, bias=True).trace() / 2)
    assert all(np.isfinite(value).all() for value in found.values())


def test_spots_without_counts_are_taken_and_values_that_are_no_counts_are_not():
    tables = sites()
    x = tables["a"].X.toarray()
    x[[5, 6]] = 0
    tables["a"].X = x
    infl.tl.fit_federated(tables, **OPTIONS | {"rounds": 1})
    assert np.isfinite(tables["a"].obsm["X_infl"]).all() and tables["a"].obs["infl_domain"].notna().all()
    for adata in tables.values():
        adata.X = np.log1p(sites()["b"].X.toarray())
    with pytest.raises(DataError, match="a has .* which is no count"):
        infl.tl.fit_federated(tables, **OPTIONS)


def test_bad_coordinates_are_named_before_the_fit_and_nothing_is_written():
    tables = sites()
    del tables["b"].obsm["spatial"]
    with pytest.raises(DataError, match=r"b has no coordinates in obsm\['spatial'\]"):
        infl.tl.fit_federated(tables, **OPTIONS)
    tables = sites()
    tables["b"].obsm["spatial"][1] = tables["b"].obsm["spatial"][0]
    with pytest.raises(DataError, match="b has 2 spots at the coordinates of '1_0'"):
        infl.tl.fit_federated(tables, **OPTIONS)
    tables = sites()
    tables["c"] = tables["c"][:4].copy()
    with pytest.raises(DataError, match="c has 4 spots, too few for n_neighbors=4"):
        infl.tl.fit_federated(tables, **OPTIONS)
    assert all("infl" not in s.uns and "infl_domain" not in s.obs for s in tables.values())


def test_different_units_are_told_of_and_change_nothing(fitted):
    tables = sites()
    tables["b"].obsm["spatial"] *= 200
    with pytest.warns(InflWarning, match="different units"):
        infl.tl.fit_federated(tables, **OPTIONS)
    assert (tables["b"].obs["infl_domain"] == fitted[0]["b"].obs["infl_domain"]).all()


def test_options_are_checked():
    with pytest.raises(SettingsError, match="n_domains=0"):
        infl.models.Spatial(n_domains=0)
    with pytest.raises(SettingsError, match="mask=1"):
        infl.models.Spatial(mask=1)
    with pytest.raises(DataError, match="too few for n_domains=100"):
        infl.tl.fit_federated(sites(), **OPTIONS | {"n_domains": 100})


def test_methods_are_compared_by_known_regions():
    options = OPTIONS | {
        "target": "region",
        "seeds": 1,
        "methods": ["infl", "infl_wrong_key", "baseline"],
        "min_sites": 2,
    }
    with pytest.raises(SettingsError, match="holdout='site'"):
        infl.tl.compare(sites(), **options)
    table = infl.tl.compare(sites(), holdout="site", **options)
    ari = table[table["metric"] == "ari"].set_index("method")["mean"]
    assert ari["infl"] > 0.8 and ari["infl_wrong_key"] == 0 and ari["baseline"] > 0.2
    masked = infl.models.Spatial(target="region", exclude="2")
    spots = section(0)
    outputs = {"domain": np.where(spots.obs["region"] == "2", 0, spots.obs["region"].astype(int))}
    assert masked.score(spots, outputs, {})["ari"] == 1
    with pytest.raises(SettingsError, match="set target="):
        infl.models.Spatial().score(spots, outputs, {})


@pytest.mark.parametrize("key", ["section", None])
def test_sections_of_sites_stay_apart_in_what_is_pooled(key):
    from infl.models.pooling import pool

    tables = sites()
    for spots in tables.values():
        spots.obs["section"] = "s1"
        spots.obs_names = [f"AAAC{i}-1" for i in range(spots.n_obs)]
    together = pool(tables)
    assert together.obs_names.is_unique
    found = sections_of(together, section_key=key, site="pooled")
    assert [len(rows) for rows in found.rows.values()] == [144] * 3
    alone = sections_of(tables["a"], section_key=key, site="a")
    np.testing.assert_array_equal(found.graph(4)[:144, :144].toarray(), alone.graph(4).toarray())
    assert found.graph(4)[:144, 144:].nnz == 0


def test_what_is_pooled_is_compared_section_by_section():
    tables = sites()
    for spots in tables.values():
        spots.obs["section"] = "s1"
    table = infl.tl.compare(
        tables,
        holdout="site",
        **OPTIONS | {"target": "region", "section_key": "section", "seeds": 1, "methods": ["pooled"]},
    )
    assert table.set_index("metric")["mean"]["ari"] > 0.8
