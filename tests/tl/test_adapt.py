"""A hospital that was not in the fit: names, what is missing, batch effect, distance, and what is refused."""

import warnings

import anndata
import numpy as np
import pytest
from tests.tl.conftest import cohort as plain_cohort
from tests.tl.conftest import fit as fit_briefly
from tests.tl.conftest import refused

import infl
from infl.attacks import AuditContext
from infl.attacks.importance_thief import ImportanceThief, first_layer
from infl.errors import DataError, InflWarning, KeyringError, SettingsError
from infl.models.phenotype.newcomer import distances


def cohort(kind: str = "logarithms") -> dict[str, anndata.AnnData]:
    """As elsewhere, with features that are high and low."""
    sites = plain_cohort(kind)
    if kind == "logarithms":
        for adata in sites.values():
            adata.X = adata.X + np.arange(12, dtype=np.float32) / 4
    return sites


def fit(sites, **options):
    return fit_briefly(sites, **{"rounds": 15, "lr": 0.01} | options)


@pytest.fixture(scope="module")
def run():
    return fit(cohort())


@pytest.fixture
def query() -> anndata.AnnData:
    return cohort()["site_1"]


def adapted(run, adata, **options):
    return infl.tl.adapt(run, adata, site="late", **options)


def test_names_are_brought_to_the_model_and_columns_of_others_are_left_out(run, query) -> None:
    plain = query.copy()
    expected = adapted(run, plain)
    names = [f"G{i}" if i % 2 else f"other_{i}" for i in range(12)]
    spelt = anndata.AnnData(
        np.hstack([query.X, np.ones((40, 1), np.float32)])[:, ::-1].copy(), obs=query.obs[["label"]].copy()
    )
    spelt.var_names = [*names, "XIST"][::-1]
    result = adapted(run, spelt, aliases={f"OTHER_{i}": f"g{i}" for i in range(0, 12, 2)})
    assert (result.n_renamed, result.n_masked) == (12, 0)
    assert result.features["called"].tolist() == names
    np.testing.assert_allclose(spelt.obsm["X_infl"], plain.obsm["X_infl"], atol=1e-5)
    np.testing.assert_allclose(result.features["shift"], expected.features["shift"], atol=1e-6)
    assert spelt.var_names[0] == "XIST", "the user's names stay"


def test_what_is_missing_is_masked_and_counted(run, query) -> None:
    part = query[:, ["g0", "g1", "g3", "g4", "g5", "g6", "g7", "g8"]].copy()
    with pytest.warns(InflWarning, match="late lacks 4 of 12 features, first 'g2': they are masked"):
        result = adapted(run, part)
    assert result.n_masked == 4 and result.features.loc["g2", "shift"] == 0
    assert part.uns["infl"]["adapted"]["n_masked"] == 4
    assert "8 of 12" in repr(result) and "8 of 12" in result._repr_html_()


def test_a_shift_is_found_and_its_predictions_are_those_without_it(run, query) -> None:
    plain, shifted = query.copy(), query.copy()
    by = np.tile([0.0, 0.0, 2.0, 2.0], 3).astype(np.float32)
    shifted.X = shifted.X + by
    before = adapted(run, plain)
    after = adapted(run, shifted)
    np.testing.assert_allclose(after.features["shift"] - before.features["shift"], by, atol=0.15)
    assert before.features["shift"].abs().max() < 0.2 < 1.8 < after.features["shift"].abs().max()
    assert (shifted.obs["infl_prediction"] == shifted.obs["label"]).mean() > 0.95
    assert after.distance > before.distance + 1

    left = query.copy()
    left.X = shifted.X
    without = adapted(run, left, batch_effect=False)
    infl.tl.predict(predicted := left.copy(), run)
    assert without.features["shift"].isna().all()
    np.testing.assert_array_equal(left.obsm["X_infl"], predicted.obsm["X_infl"])


def test_classes_in_other_shares_are_no_batch_effect(run, query) -> None:
    rows = np.r_[np.flatnonzero(query.obs["label"] == "a"), np.flatnonzero(query.obs["label"] == "b")[:5]]
    result = adapted(run, few := query[rows].copy())
    mean = np.abs(few.X.mean(0) - query.X.mean(0))
    assert mean.mean() > 0.3 > 0.15 > result.features["shift"].abs().mean()
    assert (few.obs["infl_prediction"] == few.obs["label"]).mean() > 0.95


def test_a_site_that_may_be_of_one_class_is_asked_about(run, query) -> None:
    one = query[(query.obs["label"] == "a").to_numpy()].copy()
    with pytest.warns(InflWarning, match="sees 'a' in 100% of late, and in 50% of the fit: .* set batch_effect=False"):
        adapted(run, one)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InflWarning)
        adapted(run, one, batch_effect=False)
        adapted(run, one[:9].copy())  # of so few no batch effect is estimated
    assert (one.obs["infl_prediction"] == "a").all()
    rare = fit({s: a[(a.obs["label"] == "a") | (np.arange(40) % 20 == 1)].copy() for s, a in cohort().items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error", InflWarning)
        adapted(rare, one)  # as in the fit


def test_of_few_observations_no_batch_effect_is_made_up(run, query) -> None:
    few = query[:9].copy()
    result = adapted(run, few)
    assert (result.features["shift"] == 0).all()
    infl.tl.predict(plain := query[:9].copy(), run)
    np.testing.assert_array_equal(few.obsm["X_infl"], plain.obsm["X_infl"])
    ten = query[:10].copy()
    ten.X += 2
    assert (adapted(run, ten).features["shift"] > 1).all()


def test_what_is_read_beside_the_features_is_no_batch_effect(query) -> None:
    sites, rng = cohort(), np.random.default_rng(0)
    for adata in [*sites.values(), query]:
        adata.obs["age"] = np.where(rng.random(40) < 0.2, np.nan, rng.normal(50, 10, 40))
        adata.obs["sex"] = rng.choice(["f", "m"], 40)
    run = fit(sites, covariates=["age", "sex"])
    shifted = query.copy()
    shifted.X += np.float32(0.8)
    result = adapted(run, shifted)
    assert list(result.features.index) == [f"g{j}" for j in range(12)]
    assert (result.features["shift"] - 0.8).abs().max() < 0.3
    older = query.copy()
    older.obs["age"] += 30
    np.testing.assert_array_equal(adapted(run, older).features["shift"], adapted(run, query).features["shift"])
    assert not np.allclose(older.obsm["infl_probabilities"], query.obsm["infl_probabilities"])
    context = AuditContext(run, sites)
    assert ImportanceThief().applies(context) and first_layer(context) == "embed.weight"


def test_distance_is_one_over_the_records_of_the_fit() -> None:
    run = fit(sites := cohort(), validation=0.0)
    private, squares = run.model.private_arrays(run.key), []
    task = run.model.header.build_task()
    for name, adata in sites.items():
        data = task.read(adata, run.model.header.panel, site=name)
        squares += [distances(data, private["center"], private["scale"]) ** 2]
    n = 120
    assert np.concatenate(squares).mean() == pytest.approx((n - 1) / n, abs=1e-5)


def test_what_is_too_far_is_refused_with_its_reason_and_nothing_is_written(run, query) -> None:
    far, other = query.copy(), query.copy()
    far.X = far.X * 5
    other.var_names = [f"g{(i + 5) % 12}" for i in range(12)]
    for adata, words in ((far, "deviations from what the model saw"), (other, "in another order than in the fit")):
        untouched = adata.copy()
        line = refused(lambda data, model: adapted(model, data), adata, run)
        assert words in line and "check_distance=False" in line and line.count("late") == 1
        assert list(adata.obs) == list(untouched.obs) and not adata.obsm and not adata.uns
        adapted(run, adata, check_distance=False)
        assert "infl_prediction" in adata.obs


def test_the_site_coordinate_is_estimated_and_models_without_moments_say_so(query) -> None:
    run = fit(cohort(), coordinate=4, standardise="site")
    result = adapted(run, query)
    assert result.coordinate.shape == (4,) and np.abs(result.coordinate).max() > 0
    assert 0.3 < result.distance < 3 and np.isnan(result.similarity)  # in the latent
    own = adapted(fit(cohort(), standardise="site"), query)
    assert np.isnan(own.distance) and "the model has no moments" in repr(own)


@pytest.mark.parametrize("kind", ["sparse", "backed", "integer", "view"])
def test_data_as_they_are_stored(kind, query, tmp_path) -> None:
    from scipy import sparse

    run = fit(cohort("counts"), layer="counts")
    plain = query.copy()
    adapted(run, plain)
    query.layers["counts"] = sparse.csr_matrix(query.layers["counts"])
    if kind == "integer":
        query.layers["counts"] = query.layers["counts"].astype(np.int32)
    if kind == "backed":
        query.write_h5ad(tmp_path / "late.h5ad")
        query = anndata.read_h5ad(tmp_path / "late.h5ad", backed="r+")
    if kind == "view":
        query = query[:]
    adapted(run, query)
    np.testing.assert_allclose(query.obsm["X_infl"], plain.obsm["X_infl"], atol=1e-5)


def test_one_line_for_what_is_wrong(run, query) -> None:
    def line(adata, **options):
        return refused(lambda data, model: adapted(model, data, **options), adata, run)

    counts, strangers, ensembl, twice = (query.copy() for _ in range(4))
    counts.X = counts.layers["counts"]
    strangers.var_names = [f"x{i}" for i in range(12)]
    ensembl.var_names = [f"ENSG{i:011d}" for i in range(12)]
    twice.var_names = ["G1", *twice.var_names[1:-1], "G1 "]  # g1 itself is there, so that these are others
    assert "late has raw counts, the fit has logarithms" in line(counts)
    assert "late has none of the model's 12 features (it has 'x0', the model 'g0'); use the same kind" in line(
        strangers
    )
    assert "one has Ensembl identifiers: aliases={identifier: symbol, …} makes them one" in line(ensembl)
    assert "all the model's 'g0'" in line(query, aliases={"g1": "g0", "g2": "g0"})
    assert "late has no observations" in line(query[:0].copy())
    assert "layer 'none' is missing at late" in line(query, layer="none")
    assert "75% of what the model reads" in line(query[:, :3].copy())
    assert "adata='late.h5ad': give an AnnData" in line("late.h5ad")
    with pytest.warns(InflWarning, match="lacks 2 of 12 features"):
        adapted(run, twice)
    with pytest.raises(KeyringError, match="locked with key .* pass key="):
        adapted(run.model, query)
    with pytest.raises(KeyringError):
        adapted(run.model, query, key=infl.keys.Keyring.create())
    spatial = infl.models.Scvi
    with pytest.raises(SettingsError, match="cannot be adapted"):
        infl.tl.adapt(_of(spatial), query)


def _of(kind):
    """An open model of another task, without weights."""
    from infl.models.locked import Header, lock_model

    panel = {"features": ["g0"], "sites": ["a"], "covariates": {}}
    header = Header(kind.name, kind().options(), panel, "none", 0.0, 0, "", 0, ("a",))
    return lock_model(header, {}, {}, None)


def test_modalities_and_other_phenotypes(query) -> None:
    from mudata import MuData

    sites = cohort()
    for adata in sites.values():
        adata.obs["age"] = adata.X[:, 0] * 10.0
    run = infl.tl.fit_federated(sites, "regressor", target="age", rounds=2, width=8, progress=False)
    result = adapted(run, query)
    assert result.features["shift"].isna().all() and result.distance < 2, "a number has no classes to weigh by"
    assert "infl_distance" in query.obs

    several = {s: MuData({"rna": a[:, :6].copy(), "protein": a[:, 6:].copy()}) for s, a in cohort().items()}
    for site, adata in several.items():
        adata.obs["label"] = cohort()[site].obs["label"]
    both = fit(several)
    late = several["site_1"].copy()
    late.mod["rna"].var_names = late.mod["rna"].var_names.str.upper()
    late.update()
    result = adapted(both, late)
    assert result.n_renamed == 6 and result.features.loc["rna:g0", "called"] == "rna:G0"
    assert (late.obs["infl_prediction"] == late.obs["label"]).mean() > 0.95


@pytest.mark.parametrize("use", [infl.tl.predict, infl.tl.adapt, infl.tl.map_to])
def test_one_table_is_told_from_several(run, query, use) -> None:
    from mudata import MuData

    def refuses(data, model) -> str:
        return refused(lambda: use(data, model) if use is infl.tl.predict else use(model, data))

    assert "is a MuData, and the model reads one table of features: give its .mod['rna']" in refuses(
        MuData({"rna": query.copy(), "protein": query[:, :0].copy()}), run
    )
    several = {s: MuData({"rna": a[:, :6].copy(), "protein": a[:, 6:].copy()}) for s, a in cohort().items()}
    for site, adata in several.items():
        adata.obs["label"] = cohort()[site].obs["label"]
    both, one = fit(several, rounds=1), fit(several, rounds=1, modality="rna")
    assert "is one table, and the model reads 'rna', 'protein' of a MuData" in refuses(query, both)
    assert "has no modality 'rna', which the model reads: rename 'RNA', if it is the one" in refuses(
        MuData({"RNA": query.copy()}), one
    )


def test_spelling_errors_are_data_errors() -> None:
    import pandas as pd

    from infl.data.spelling import spelt_as

    with pytest.raises(DataError, match="mouse"):
        spelt_as(pd.Index(["TP53", "MYC", "EGFR"]), pd.Index(["Tp53", "Myc", "Egfr"]), {}, where="late")
