"""Cells are mapped to a locked reference: latent, labels, how sure they are, and what the reference never saw."""

import anndata
import numpy as np
import pandas as pd
import pytest
from tests.models.scanvi.conftest import SMALL
from tests.models.scanvi.conftest import hospital as typed
from tests.tl.conftest import cohort, fit, refused

import infl
from infl.errors import InflWarning
from infl.models.atlas import CELLS, EDGES, MEANS, TAUGHT, atlas_sums, novelty
from infl.models.labelled import area_under_curve
from infl.sums import SiteView


@pytest.fixture(scope="module")
def run():
    return fit(cohort(), rounds=15, lr=0.01, atlas=True)


@pytest.fixture(scope="module")
def scanvi():
    sites = {f"h{i}": typed(i) for i in range(3)}
    return infl.tl.fit_federated(
        {name: adata[adata.obs["cell_type"] != "NK"].copy() for name, adata in sites.items()},
        "scanvi",
        target="cell_type",
        rounds=40,
        atlas=True,
        validation=0.3,
        **SMALL,
    )


@pytest.fixture
def query() -> anndata.AnnData:
    """Cells of both classes, and forty of a class that is in no site."""
    cells = cohort()["site_2"]
    counts = np.random.default_rng(8).poisson(np.where(np.arange(12) < 6, 14.0, 0.7), (40, 12)).astype(np.float32)
    strangers = anndata.AnnData(np.log1p(counts), obs=pd.DataFrame({"label": "c"}, index=[f"c_{i}" for i in range(40)]))
    strangers.var_names = cells.var_names
    strangers.layers["counts"] = counts
    return anndata.concat([cells, strangers])


def test_labels_uncertainty_and_what_was_never_seen(run, query) -> None:
    plain = query[:40].copy()
    infl.tl.predict(plain, run)
    mapped = infl.tl.map_to(run, query, site="late", batch_effect=False)
    np.testing.assert_allclose(query.obsm["X_infl"][:40], plain.obsm["X_infl"], atol=1e-5)
    new = (query.obs["label"] == "c").to_numpy()
    assert area_under_curve(query.obs["infl_novelty"].to_numpy(), new) > 0.95
    label, truth = query.obs["infl_prediction"], query.obs["label"]
    assert (label[~new] == truth[~new]).mean() > 0.85 and (label[new] == "unassigned").mean() > 0.6
    assert list(label.cat.categories) == ["a", "b", "unassigned"]
    assert mapped.counts == {name: int((label == name).sum()) for name in label.cat.categories}
    np.testing.assert_array_equal(label == "unassigned", query.obs["infl_novelty"] > 0.95)
    p = query.obsm["infl_probabilities"]
    np.testing.assert_allclose(query.obs["infl_uncertainty"], -(p * np.log2(np.maximum(p, 1e-12))).sum(1), atol=1e-5)
    assert mapped.rule == "novelty" and "unassigned" in repr(mapped) and "unassigned" in mapped._repr_html_()
    assert query.uns["infl"]["mapped"] == {"site": "late", "rule": "novelty", "keep": 0.95, "n_features": 12}


def test_keep_is_the_share_of_cells_like_those_of_the_reference(run) -> None:
    again = anndata.concat([cohort()[name] for name in cohort()])
    again.obs_names_make_unique()
    for keep in (0.9, 0.5):
        infl.tl.map_to(run, again, keep=keep, batch_effect=False)
        # 24 validation records count, and the two distances are not independent: at least this share keeps its label
        assert keep - 0.1 <= (again.obs["infl_prediction"] != "unassigned").mean() < 1


def test_without_an_atlas_the_least_sure_are_unassigned_or_none_are(query) -> None:
    run = fit(cohort(), rounds=15, lr=0.01)
    assert infl.tl.map_to(run, query, keep=0.8).rule == "probability"
    threshold = query.obs.loc[query.obs["infl_prediction"] != "unassigned", "infl_probability"].min()
    assert (query.obs.loc[query.obs["infl_prediction"] == "unassigned", "infl_probability"] < threshold).all()
    assert "infl_novelty" not in query.obs
    with pytest.warns(InflWarning, match="no counts to calibrate by, so no cell is left unassigned"):
        mapped = infl.tl.map_to(fit(cohort(), rounds=2, calibrate=False), query)
    assert mapped.rule == "none" and mapped.counts["unassigned"] == 0


def test_a_locked_reference_is_at_chance_without_its_key_and_a_public_tier_is_not(run, query) -> None:
    known = query[:40].copy()
    key = run.key

    def share(model, key=None) -> float:
        part = known.copy()
        infl.tl.map_to(model, part, key=key)
        p = part.obsm["infl_probabilities"]
        right = (np.array(["a", "b"])[p.argmax(1)] == part.obs["label"]).mean()
        return float(right)

    with pytest.warns(InflWarning, match="no key"):
        # what one lock makes of two classes is right or wrong of both, by chance: many are right of half
        locked = [share(run.model.relock(key, version=key.rotate())) for _ in range(40)]
        public = share(run.model.relock(key, strength=0.0))
    assert share(run.model, run.key) > 0.95 and public > 0.95
    assert np.mean(locked) < 0.7, locked


def test_scanvi_maps_cells_and_tells_a_type_that_it_never_saw(scanvi) -> None:
    query = typed(7)
    mapped = infl.tl.map_to(scanvi, query, epochs=2)
    new = (query.obs["cell_type"] == "NK").to_numpy()
    assert area_under_curve(query.obs["infl_novelty"].to_numpy(), new) > 0.8
    label = query.obs["infl_prediction"]
    p = query.obsm["infl_probabilities"]
    assert (np.array(["B", "T"])[p.argmax(1)] == query.obs["cell_type"])[~new].mean() > 0.9
    assert mapped.counts["unassigned"] == (label == "unassigned").sum() > 0


def test_features_that_a_query_of_counts_lacks_are_0(scanvi) -> None:
    whole = typed(7)
    part = whole[:, 5:].copy()
    whole.X[:, :5] = 0
    part.var_names = part.var_names.astype(str) + " "
    with pytest.warns(InflWarning, match="lacks 5 of 60 features, first '0': they are taken for 0"):
        mapped = infl.tl.map_to(scanvi, part, epochs=0)
    infl.tl.map_to(scanvi, whole, epochs=0)
    np.testing.assert_allclose(part.obsm["X_infl"], whole.obsm["X_infl"], atol=1e-5)
    assert len(mapped.called) == 55


def test_names_of_features_may_be_numbers(scanvi) -> None:
    plain, query = typed(7), typed(7)
    query.var.index = pd.RangeIndex(query.n_vars)
    mapped = infl.tl.map_to(scanvi, query, epochs=0)
    infl.tl.map_to(scanvi, plain, epochs=0)
    np.testing.assert_allclose(query.obsm["X_infl"], plain.obsm["X_infl"], atol=1e-5)
    assert mapped.called["7"] == "7"


def test_a_query_that_may_be_of_one_class_is_asked_about(run, query) -> None:
    one = query[:40][(query.obs["label"][:40] == "a").to_numpy()].copy()
    with pytest.warns(InflWarning, match="sees 'a' in 100% of the query, and in 50% of the fit"):
        infl.tl.map_to(run, one)


@pytest.mark.parametrize("kind", ["sparse", "integer", "view", "backed"])
def test_queries_as_they_are_stored(scanvi, kind, tmp_path) -> None:
    from scipy import sparse

    plain, query = typed(7), typed(7)
    infl.tl.map_to(scanvi, plain, epochs=0)
    if kind != "view":
        query.X = sparse.csr_matrix(query.X).astype(np.int32 if kind == "integer" else np.float32)
    if kind == "backed":
        query.write_h5ad(tmp_path / "query.h5ad")
        query = anndata.read_h5ad(tmp_path / "query.h5ad", backed="r+")
    query = query[:] if kind == "view" else query
    infl.tl.map_to(scanvi, query, epochs=0)
    np.testing.assert_allclose(query.obsm["X_infl"], plain.obsm["X_infl"], atol=1e-5)


def test_one_line_for_what_is_wrong(run, scanvi, query) -> None:
    def line(adata, reference=run, **options):
        return refused(lambda data, model: infl.tl.map_to(model, data, site="late", **options), adata, reference)

    counts, strangers, log = query.copy(), query.copy(), typed(7)
    counts.X = counts.layers["counts"]
    strangers.var_names = [f"x{i}" for i in range(12)]
    log.X = np.log1p(log.X)
    assert "late has raw counts, the fit has logarithms" in line(counts)
    assert "late has none of the model's 12 features" in line(strangers)
    assert "late has no observations" in line(query[:0].copy())
    assert "which is no count" in line(log, scanvi)
    assert "at most 50% can be taken for 0" in line(typed(7)[:, :20].copy(), scanvi)
    assert "query='cells.h5ad': give an AnnData" in line("cells.h5ad")
    assert "keep=1: give a number above 0" in line(query, keep=1)
    other = infl.tl.fit_federated(_ages(), "regressor", target="age", rounds=1, width=4, progress=False)
    assert "'regressor' is no reference to map to" in line(query, other)
    named = cohort()
    for adata in named.values():
        adata.obs["label"] = adata.obs["label"].replace({"a": "unassigned"})
    assert "a class of the reference is called 'unassigned' itself" in line(query, fit(named))
    with pytest.raises(infl.errors.KeyringError):
        infl.tl.map_to(run.model, query, key=infl.keys.Keyring.create())


def _ages():
    sites = cohort()
    for adata in sites.values():
        adata.obs["age"] = adata.X[:, 0] * 10.0
    return sites


def test_classes_of_few_records_at_a_site_are_not_taught() -> None:
    z = np.array([[0.0], [2.0], [4.0], [10.0], [12.0], [7.0]])
    code = np.array([0, 0, 0, 1, 1, -1])
    latents, cells = atlas_sums(2, 1, lambda module, data, index: (z[index], code[index], np.abs(z[index, 0])))

    class Data:
        train, validation = np.arange(6), np.array([0, 5])

    site = SiteView(Data(), None)
    share = latents.local(site, {})
    assert share["n"].tolist() == [3, 0] and share["sum"].tolist() == [[6], [0]] and share["square"].tolist() == [20]
    state = latents.combine(share, {})
    assert state[MEANS][0, 0] == 2 and state[TAUGHT].tolist() == [3, 0]
    state = cells.combine(cells.local(site, state), state)
    assert state[CELLS].sum(1).tolist() == [2, 2]
    # both validation records are nearer than the last of these, and one of them than the second
    near = novelty(np.array([[2.0], [4.5], [90.0]]), np.array([0.1, 0.1, 90.0]), state)
    assert near[0] == 0 and near[0] <= near[1] < near[2] < 1
    assert (np.diff(EDGES) > 0).all()


def test_heads_that_stay_at_the_sites_are_no_reference(query) -> None:
    assert "this model leaves head.weight to each site" in refused(
        lambda data, model: infl.tl.map_to(model, data), query, fit(cohort(), aggregation="partial")
    )


def test_layers_that_stay_at_the_sites_are_no_reference_of_cells() -> None:
    sites = {f"h{i}": typed(i) for i in range(3)}
    run = infl.tl.fit_federated(
        sites, "scvi", rounds=1, aggregation="partial", aggregation_options={"local": ["decoder"]}, **SMALL
    )
    said = refused(lambda: infl.tl.map_to(run.model, typed(7), key=run.key, epochs=0))
    assert "this model leaves decoder." in said and "there is none for a new site" in said


def test_mapped_cells_are_written_and_read(run, query, tmp_path) -> None:
    infl.tl.map_to(run, query)
    query.write_h5ad(tmp_path / "query.h5ad")
    again = anndata.read_h5ad(tmp_path / "query.h5ad")
    assert again.obs["infl_prediction"].tolist() == query.obs["infl_prediction"].tolist()
    assert again.uns["infl"]["mapped"]["rule"] == "novelty"
