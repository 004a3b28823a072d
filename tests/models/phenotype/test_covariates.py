"""Columns of obs beside the features: what they become, what they are worth, and what is refused in one line."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.tl.conftest import cohort

import infl
from infl.errors import DataError, InflError
from infl.models.panels import columns_of_task, join_panels
from infl.models.phenotype.covariates import MOST_LEVELS, agree_on_covariates, names_of, values_of

LINEAR = {"width": 0, "optimiser": "sgd", "lr": 1.0, "rounds": 30, "weight_decay": 0.0, "progress": False}
BESIDE = {"covariates": ["age", "sex"]}


@pytest.fixture
def sites() -> dict[str, AnnData]:
    """A class, a number and times that follow from age and sex alone; some ages are not known."""
    found = cohort()
    for number, adata in enumerate(found.values()):
        rng = np.random.default_rng(number)
        adata.X = rng.normal(size=adata.shape).astype(np.float32)
        age, sex = rng.normal(60, 10, 40), rng.integers(2, size=40)
        adata.obs["sex"] = pd.Categorical(np.array(["f", "m"])[sex])
        adata.obs["dose"] = (age - 60) / 10 + 2 * sex
        adata.obs["label"] = np.where(adata.obs["dose"] > 1, "high", "low")
        adata.obs["months"], adata.obs["died"] = np.exp(-adata.obs["dose"]) + 0.1, True
        adata.obs["age"] = np.where(np.arange(40) % 10, age, np.nan)
    return found


MODELS: list[tuple[dict[str, Any], str]] = [
    ({"model": "classifier", "target": "label"}, "balanced_accuracy"),
    ({"model": "classifier", "target": ["label"]}, "balanced_accuracy"),
    ({"model": "regressor", "target": "dose"}, "r2"),
    ({"model": "survival", "time": "months", "event": "died"}, "concordance"),
]


@pytest.mark.parametrize(("model", "metric"), MODELS, ids=["classifier", "labels", "regressor", "survival"])
def test_what_follows_from_covariates_is_predicted_with_them_alone(
    sites: dict[str, AnnData], model: dict[str, Any], metric: str
) -> None:
    runs = [infl.tl.fit_federated(sites, **model, **LINEAR, **more) for more in ({}, BESIDE)]
    without, beside = (run.history[f"val_{metric}"].max() for run in runs)
    assert beside > without + 0.15
    table = infl.tl.feature_importance(runs[1], sites, method="gradients", validation_only=False)
    assert set(table.index[:2]) == {"obs: age", "obs: sex m"}
    assert sites["site_1"].var["infl_importance"].notna().all()
    query = sites["site_1"].copy()
    del query.obs["age"]
    with pytest.raises(DataError, match="covariate 'age' is missing in obs of the data, and the model reads it"):
        infl.tl.predict(query, runs[1])


def test_ages_are_scaled_over_sites(sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(sites, target="label", **LINEAR | {"rounds": 1, "validation": 0.0}, **BESIDE)
    private = run.model.private_arrays(run.key)
    everything = np.concatenate([adata.obs["age"] for adata in sites.values()])
    assert private["center"][-2] == pytest.approx(np.nanmean(everything), abs=1e-3)
    assert private["scale"][-2] == pytest.approx(np.nanstd(everything, ddof=1), abs=1e-3)
    assert run.model.header.panel["covariates"] == {"age": [], "sex": ["f", "m"]}


@pytest.mark.parametrize("kind", [object, Decimal], ids=lambda kind: kind.__name__)
def test_numbers_are_numbers_however_they_are_stored(sites: dict[str, AnnData], kind: type) -> None:
    table = sites["site_3"].obs
    plain = agree_on_covariates(sites, ["age"]), values_of(sites["site_3"], {"age": []}, "here")
    values = table["age"].astype(object) if kind is object else table["age"].dropna().map(lambda age: Decimal(str(age)))
    table["age"] = values.reindex(table.index).astype(object)
    assert agree_on_covariates(sites, ["age"]) == plain[0] == {"age": []}
    np.testing.assert_allclose(values_of(sites["site_3"], {"age": []}, "here"), plain[1])


def test_columns_that_covariates_become(sites: dict[str, AnnData]) -> None:
    table = sites["site_1"][:3].copy()
    table.obs["stage"] = ["II", None, "III"]
    levels = {"age": [], "stage": ["I", "II", "III"]}
    assert names_of(levels) == ["obs: age", "obs: stage II", "obs: stage III"]
    found = values_of(table, levels, "here")
    np.testing.assert_array_equal(found[:, 0], table.obs["age"])
    np.testing.assert_array_equal(found[:, 1:], [[1, 0], [np.nan, np.nan], [0, 1]])


def test_what_sites_say_of_covariates(sites: dict[str, AnnData]) -> None:
    task = infl.models.Classifier(target="label", covariates=("age", "sex"))
    apart = join_panels({site: task.agree({site: adata}) for site, adata in sites.items()})
    assert apart["covariates"] == task.agree(sites)["covariates"]
    assert task.named_groups(apart)["sex"] == ["f", "m"]  # so a level of few records is not named
    assert {"age", "sex"} <= columns_of_task("classifier", task.options(), apart)


def words(sites: dict[str, AnnData]) -> None:
    sites["site_2"].obs["age"] = "old"


def names(sites: dict[str, AnnData]) -> None:
    for adata in sites.values():
        adata.obs["sex"] = adata.obs_names


def none(sites: dict[str, AnnData]) -> None:
    for adata in sites.values():
        adata.obs["age"] = np.nan


def infinite(sites: dict[str, AnnData]) -> None:
    sites["site_3"].obs["age"] = np.inf


def missing(sites: dict[str, AnnData]) -> None:
    del sites["site_3"].obs["sex"]


def spelt_otherwise(sites: dict[str, AnnData]) -> None:
    sites["site_3"].obs = sites["site_3"].obs.rename(columns={"sex": "Sex"})


def mixed(sites: dict[str, AnnData]) -> None:
    sites["site_3"].obs["age"] = ["old", *[50] * 39]


def huge(sites: dict[str, AnnData]) -> None:
    sites["site_3"].obs.loc[sites["site_3"].obs_names[1], "age"] = -1e300


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (words, "covariate 'age' has numbers at site_1 and words at site_2"),
        (names, f"covariate 'sex' has 120 different labels, where levels are at most {MOST_LEVELS}"),
        (none, "covariate 'age' has no value at any site"),
        (infinite, "covariate 'age' is infinite for 40 of 40 observations at site_3"),
        (missing, "covariate 'sex' is missing in obs of site_3, and the model reads it"),
        (spelt_otherwise, "covariate 'sex' is missing in obs of site_3; did you mean 'Sex'?"),
        (mixed, "covariate 'age' mixes words and numbers at site_3, 1 and 39 of 40 observations"),
        (huge, "covariate 'age' is beyond 1e\\+15 for 1 of 40 observations at site_3: correct them"),
    ],
)
def test_covariates_that_do_not_go_together_are_refused(
    sites: dict[str, AnnData], change: Callable[[dict[str, AnnData]], None], line: str
) -> None:
    change(sites)
    with pytest.raises(DataError, match=line):
        infl.tl.fit_federated(sites, target="label", **LINEAR, **BESIDE)


def test_settings_that_do_not_go_with_covariates(sites: dict[str, AnnData]) -> None:
    def refused(**options: Any) -> str:
        with pytest.raises(InflError) as error:
            infl.tl.fit_federated(sites, **{"target": "label", **BESIDE, "progress": False, **options})
        return str(error.value)

    assert "not with standardise='rank'" in refused(standardise="rank")
    assert "covariates= names 'label', which is what is predicted" in refused(covariates=["label"])
    assert "with privacy= leave them out" in refused(privacy=infl.privacy.DP(epsilon=5, delta=1e-2))
    run = infl.tl.fit_federated(sites, target="label", rounds=1, progress=False, **BESIDE)
    sites["site_1"].obs["sex"] = "x"
    with pytest.raises(
        DataError, match="site_1 has 40 observations with a level of 'sex' that the model was not fitted with"
    ):
        infl.tl.predict({"site_1": sites["site_1"]}, run)
