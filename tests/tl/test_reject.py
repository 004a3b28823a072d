"""Observations that a classifier is unsure of are left unassigned; what cannot be calibrated is refused in one line."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests.tl.conftest import cohort, fit, refused

import infl
from infl.errors import KeyringError, SettingsError
from infl.sums.confidence import error_above, threshold_of


def noisy(n: int = 200) -> dict[str, ad.AnnData]:
    """Three sites with a class that half of the observations show and the others hardly do."""
    sites = {}
    for number, adata in enumerate(cohort().values()):
        rng = np.random.default_rng(number)
        label = rng.integers(2, size=n)
        clear = rng.random(n) < 0.5
        x = np.where(clear, 3.0, 0.3)[:, None] * (2 * label[:, None] - 1) * (np.arange(12) < 4) + rng.normal(
            size=(n, 12)
        )
        obs = pd.DataFrame({"label": np.array(["a", "b"])[label]}, index=[f"{number}_{i}" for i in range(n)])
        sites[f"site_{number + 1}"] = ad.AnnData(x.astype(np.float32), obs=obs, var=adata.var)
    return sites


def test_a_fifth_is_unassigned_and_the_others_are_right_more_often() -> None:
    sites = noisy()
    train = {site: adata[:140].copy() for site, adata in sites.items()}
    new = {site: adata[140:].copy() for site, adata in sites.items()}
    run = fit(train, rounds=10)
    plain = infl.tl.predict(new, run, copy=True)
    infl.tl.predict(new, run, reject=0.2)
    labels = np.concatenate([adata.obs["infl_prediction"] for adata in new.values()])
    all_labels = np.concatenate([adata.obs["infl_prediction"] for adata in plain.values()])
    truth = np.concatenate([adata.obs["label"] for adata in new.values()])
    kept = labels != "unassigned"
    assert abs(kept.mean() - 0.8) < 0.1
    np.testing.assert_array_equal(labels[kept], all_labels[kept])
    error, error_of_all = (labels[kept] != truth[kept]).mean(), (all_labels != truth).mean()
    assert error < error_of_all
    facts = new["site_1"].uns["infl"]["reject"]
    assert facts["share"] == 0.2 and abs(facts["error"] - error) < 0.1
    below = new["site_1"].obs["infl_probability"] < facts["threshold"]
    np.testing.assert_array_equal(below, new["site_1"].obs["infl_prediction"] == "unassigned")
    assert list(new["site_1"].obs["infl_prediction"].cat.categories) == ["a", "b", "unassigned"]


def test_labels_that_were_numbers_are_text_then(query) -> None:
    sites = cohort()
    for adata in sites.values():
        adata.obs["label"] = np.where(adata.obs["label"] == "a", 1, 2)
    run = fit(sites)
    infl.tl.predict(query, run, reject=0.5)
    assert set(query.obs["infl_prediction"].astype(str)) <= {"1", "2", "unassigned"}
    assert query.obs["infl_prediction"].cat.categories.tolist() == ["1", "2", "unassigned"]


def test_of_several_columns_each_leaves_its_own_unassigned() -> None:
    sites = noisy(120)
    for adata in sites.values():
        rng, level = np.random.default_rng(adata.n_obs), np.arange(adata.n_obs) % 3
        adata.X[:, 5], adata.X[:, 6] = rng.normal(size=adata.n_obs), level + rng.normal(0, 0.5, adata.n_obs)
        adata.obs["clear"] = pd.Series(np.where(adata.X[:, 5] > 0, "yes", "no"), adata.obs_names).where(level > 0)
        adata.obs["order"] = pd.Categorical(np.array(["I", "II", "III"])[level], ["I", "II", "III"], ordered=True)
    columns = ["label", "clear", "order"]
    run = fit(sites, target=columns, rounds=10)
    cells = run.model.private_arrays(run.key)["confidence"]
    counts = cells[..., 0].sum(1)
    assert 0 < counts[1] < counts[0] == counts[2]  # a third lacks the second label
    infl.tl.predict(sites, run, reject=0.25)
    facts = sites["site_1"].uns["infl"]["reject"]
    assert list(facts) == columns and len({fact["threshold"] for fact in facts.values()}) == 3
    obs = pd.concat([adata.obs for adata in sites.values()])
    for name, own in zip(columns, cells, strict=True):
        assert facts[name]["threshold"] == threshold_of(own, 0.25)
        assert facts[name]["error"] == error_above(own, facts[name]["threshold"])
        unsure = obs[f"infl_prediction_{name}"] == "unassigned"
        np.testing.assert_array_equal(unsure, obs[f"infl_probability_{name}"] < facts[name]["threshold"])
        assert 0.05 < unsure.mean() < 0.5


def test_a_column_without_labels_to_calibrate_by_is_named() -> None:
    sites = cohort()
    for adata in sites.values():
        adata.obs["rare"] = pd.Series(["x", "y"] * 20, adata.obs_names)
    run = fit(sites, target=["label", "rare"], calibrate=False)
    assert "this model (labels) has not" in refused(lambda a, m: infl.tl.predict(a, m, reject=0.2), sites, run)
    for adata in sites.values():  # the stratified part that judges has no record with it
        adata.obs["rare"] = adata.obs["rare"].where(np.arange(40) < 2)
    run = fit(sites, target=["label", "rare"], seed=1)
    if run.model.private_arrays(run.key)["confidence"][1].any():
        pytest.fail("choose a seed whose validation parts lack the column")
    assert "of 'rare' to calibrate by: leave reject= out" in refused(
        lambda a, m: infl.tl.predict(a, m, reject=0.2), sites, run
    )


def test_what_cannot_be_left_unassigned_is_refused_in_one_line(run, query) -> None:
    with pytest.raises(KeyringError, match="reject= needs the counts that are encrypted in the model: pass key="):
        infl.tl.predict(query, run.model, reject=0.2)
    with pytest.raises(SettingsError, match="reject=1: give a number above 0 to below 1"):
        infl.tl.predict(query, run, reject=1)
    own = infl.tl.personalise(run, cohort(), epochs=5).models
    tuned = next(model for model in own.values() if model.header.salts != run.model.header.salts)
    plain = fit(cohort(), calibrate=False)
    for model, key in ((plain.model, plain.key), (tuned, run.key)):
        text = refused(lambda a, m: infl.tl.predict(a, m, key=key, reject=0.2), query, model)  # noqa: B023
        assert text.startswith("reject= needs counts of validation observations, which this model (classifier) has not")
    assert "infl_prediction" not in query.obs
    sites = cohort()
    for adata in sites.values():
        adata.obs["label"] = np.where(adata.obs["label"] == "a", "unassigned", "b")
    assert "a class of the model is called 'unassigned' itself" in refused(
        lambda a, m: infl.tl.predict(a, m, reject=0.2), query, fit(sites)
    )
