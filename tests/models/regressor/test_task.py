"""The regressor: what it learns, what it writes, and what it refuses in one line."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.models import Regressor
from infl.models.labelled import split_rows

OPTIONS = {"rounds": 20, "width": 16, "n_blocks": 1, "dropout": 0.0, "lr": 5e-3, "progress": False}


@pytest.fixture
def sites() -> dict[str, ad.AnnData]:
    """Four hospitals; a dose is a sum of two features of twelve, an age goes with a third one and is not always known."""
    rng, made = np.random.default_rng(0), {}
    for number in range(4):
        x = rng.normal(2, 3, size=(60, 12)).astype(np.float32)
        dose = 1000 + 2 * x[:, 0] - x[:, 3] + rng.normal(size=60)
        age = np.where(rng.random(60) < 0.3, np.nan, 50 + 4 * x[:, 5])
        obs = pd.DataFrame({"dose": dose, "age": age}, index=[f"{number}_{i}" for i in range(60)])
        made[f"site_{number + 1}"] = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene_{j}" for j in range(12)]))
    return made


def test_a_number_is_learned_in_its_own_units_and_written(sites: dict[str, ad.AnnData]) -> None:
    run = infl.tl.fit_federated(sites, "regressor", target="dose", **OPTIONS)
    assert run.history["val_r2"].max() > 0.9
    assert run.history["val_spearman"].max() > 0.9
    for adata in sites.values():
        assert np.abs(adata.obs["infl_prediction"] - adata.obs["dose"]).mean() < 3
        assert (adata.obs["infl_low"] <= adata.obs["infl_prediction"]).all()
        assert (adata.obs["infl_prediction"] <= adata.obs["infl_high"]).all()
        assert adata.obsm["X_infl"].shape == (60, 16)


def test_without_a_width_it_is_linear_and_descends_along_the_gradient(sites: dict[str, ad.AnnData]) -> None:
    def steps(**options: object) -> tuple[object, ...]:
        task = Regressor(target="dose", **options)
        assert Regressor(**task.options()) == task  # as it is agreed on and stored
        return task.width, task.optimiser, task.lr, task.weight_decay, task.min_steps

    assert steps() == (0, "sgd", 1.0, 0.0, 3)
    assert steps(lr=0.5) == (0, "sgd", 0.5, 0.0, 3)
    assert steps(optimiser="adamw") == (0, "adamw", 1e-3, 1e-4, 1)
    assert steps(width=64) == steps(width=64, optimiser="adamw") == (64, "adamw", 1e-3, 1e-4, 1)
    assert steps(objective="counts") == (64, "adamw", 1e-3, 1e-4, 1)
    private = Regressor(target="dose", target_range={"dose": (900, 1100)}).for_dp()
    assert (private.optimiser, private.lr) == ("adamw", 0.01) and private.for_dp() == private
    run = infl.tl.fit_federated(sites, "regressor", target="dose", progress=False)
    assert run.history["val_r2"].max() > 0.9 and run.model.header.options["min_steps"] == 3


@pytest.mark.parametrize("objective", ["gaussian", "huber", "quantile"])
def test_the_default_step_is_short_enough_for_features_that_are_all_alike(objective: str) -> None:
    rng, made = np.random.default_rng(0), {}
    for number in range(4):
        x = np.repeat(rng.normal(size=(40, 1)), 3, axis=1).astype(np.float32)
        obs = pd.DataFrame({"n": rng.poisson(np.exp(1 + x[:, 0]))}, index=[f"{number}_{i}" for i in range(40)])
        made[f"site_{number}"] = ad.AnnData(x, obs=obs)
    run = infl.tl.fit_federated(made, "regressor", target="n", objective=objective, progress=False)
    assert run.history["val_r2"].iloc[-1] > 0.4


def test_a_file_says_the_same_after_it_was_saved(sites: dict[str, ad.AnnData], tmp_path) -> None:
    run = infl.tl.fit_federated(sites, "regressor", target="dose", **OPTIONS | {"rounds": 2})
    run.model.save(tmp_path / "dose.infl")
    model, new = infl.models.load_model(tmp_path / "dose.infl"), sites["site_2"].copy()
    del new.obs["dose"]
    infl.tl.predict(new, model, key=run.key, key_added="again")
    pd.testing.assert_series_equal(
        new.obs["again_high"], sites["site_2"].obs["infl_high"], check_names=False, rtol=1e-6
    )
    nobody = infl.tl.predict(new[:0].copy(), model, key=run.key, copy=True)
    assert list(nobody.obs["infl_high"]) == [] and nobody.obsm["X_infl"].shape == (0, 16)
    personal = infl.tl.personalise(run, sites, key=run.key, epochs=2)
    assert set(personal.table.columns) >= {"r2_before", "r2_after"}
    for adata in sites.values():
        adata.obs["dose"] = -adata.obs["dose"]
    with pytest.raises(SettingsError, match="has r2 -.* there is nothing to take away, so fit it better first"):
        infl.tl.calibrate_lock(run, sites)


@pytest.mark.parametrize("objective", ["gaussian", "huber", "quantile"])
def test_several_targets_at_once_with_some_missing(sites: dict[str, ad.AnnData], objective: str) -> None:
    del sites["site_1"].obs["age"]  # a hospital that has none of one
    run = infl.tl.fit_federated(sites, "regressor", target=["dose", "age"], objective=objective, **OPTIONS)
    found = sites["site_1"].obs
    assert [name for name in found if name.startswith("infl_prediction")] == [
        "infl_prediction_dose",
        "infl_prediction_age",
    ]
    truth = 50 + 4 * sites["site_1"].X[:, 5]
    assert np.corrcoef(found["infl_prediction_age"], truth)[0, 1] > 0.8
    assert ((found["infl_low_age"] <= truth) & (truth <= found["infl_high_age"])).mean() > 0.7
    assert run.model.header.panel["targets"] == ["dose", "age"]


def test_targets_are_scaled_by_moments_of_all_sites(sites: dict[str, ad.AnnData]) -> None:
    run = infl.tl.fit_federated(sites, "regressor", target="dose", validation=0.0, **OPTIONS | {"rounds": 1})
    private = run.model.private_arrays(run.key)
    everyone = ad.concat(list(sites.values())).obs["dose"]
    np.testing.assert_allclose(private["y_center"], everyone.mean(), rtol=1e-9)
    np.testing.assert_allclose(private["y_scale"], everyone.std(ddof=0), rtol=1e-9)
    assert sites["site_1"].obs["infl_low"].isna().all()  # nothing was held out, so nothing is known of intervals


def test_a_target_far_from_0_is_predicted_as_exactly_as_one_beside_it(sites: dict[str, ad.AnnData]) -> None:
    predicted = []
    for far in (0, 1e9):
        for adata in sites.values():
            adata.obs["dose"] = adata.obs["dose"] + far
        run = infl.tl.fit_federated(sites, "regressor", target="dose", **OPTIONS | {"rounds": 2})
        predicted.append(sites["site_1"].obs[["infl_prediction", "infl_low", "infl_high"]] - far)
        infl.tl.predict(new := sites["site_1"].copy(), run.model, key=run.key)
        np.testing.assert_allclose(new.obs["infl_high"] - far, predicted[-1]["infl_high"], atol=1e-4)
    np.testing.assert_allclose(predicted[1], predicted[0], atol=1e-4)


def test_lock_and_seal_change_no_prediction(sites: dict[str, ad.AnnData]) -> None:
    said = []
    for protection in ({}, {"lock": None, "seal": "none"}):
        found = {site: adata.copy() for site, adata in sites.items()}
        if protection:
            with pytest.warns(InflWarning, match="seal='none'"):
                infl.tl.fit_federated(found, "regressor", target="dose", **OPTIONS, **protection)
        else:
            infl.tl.fit_federated(found, "regressor", target="dose", **OPTIONS)
        said.append(found["site_3"].obs["infl_prediction"])
    np.testing.assert_allclose(*said, rtol=1e-5)


def test_comparison_has_the_baseline_and_chance(sites: dict[str, ad.AnnData]) -> None:
    methods = ["infl", "infl_wrong_key", "pooled", "baseline", "infl_personal", "alone"]
    table = infl.tl.compare(sites, "regressor", target="dose", seeds=1, methods=methods, **OPTIONS)
    r2 = table[table["metric"] == "r2"].set_index("method")["mean"]
    assert r2["infl"] > r2["pooled"] - 0.1
    assert r2["baseline"] > 0.9
    assert r2["infl_wrong_key"] <= 0.02
    assert table.attrs["chance"] == 0
    coverage = table[(table["metric"] == "coverage") & (table["method"] == "infl")]["mean"].item()
    assert 0.75 < coverage <= 1


def test_a_private_fit_needs_ranges_that_are_known_without_the_data(sites: dict[str, ad.AnnData]) -> None:
    dp = infl.privacy.DP(noise_multiplier=1.0, sample_rate=0.5, delta=1e-3)
    options = {"target": "dose", "privacy": dp, "rounds": 2, "progress": False}
    with pytest.raises(SettingsError, match="with privacy= give target_range="):
        infl.tl.fit_federated(sites, "regressor", **options)
    run = infl.tl.fit_federated(sites, "regressor", target_range={"dose": (900, 1100)}, **options)
    assert not run.model.private_arrays(run.key)
    assert run.privacy["epsilon"] > 0
    assert sites["site_1"].obs["infl_prediction"].between(800, 1200).all()


def test_validation_parts_have_all_quarters_of_the_target(sites: dict[str, ad.AnnData]) -> None:
    task = Regressor(target="dose")
    truth = task.truth(sites["site_1"], {}, "site_1")
    _, held = split_rows(sites["site_1"].obs_names, task.strata(truth), 0.2, np.random.default_rng(0), stratify=True)
    assert set(task.strata(truth)[held]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("column", "line"),
    [
        ("high", "target 'dose' has words where numbers are due, at site_2, for 60 of 60 observations"),
        ([1.0, "high"] * 30, "target 'dose' has words where numbers are due, at site_2, for 30 of 60 observations"),
        ([np.inf, 1.0] * 30, "target 'dose' is infinite for 30 of 60 observations at site_2"),
        ([1e300, *[1.0, 2.0] * 29, 3.0], "target 'dose' is beyond 1e.15 for 1 of 60 observations at site_2"),
        ([np.nan, 1.0] * 30, "target 'dose' has no value for 30 of 60 observations at site_2"),
        (pd.to_datetime("2020-01-01"), "'dose' has dates where numbers are due, at site_2: give days or years since"),
        (pd.Timedelta(3, "D"), "'dose' has durations where numbers are due, at site_2: give days or years, e.g. by"),
        (pd.Period("2020-01"), "target 'dose' has dates where numbers are due, at site_2"),
        (1 + 2j, "target 'dose' has complex numbers where numbers are due, at site_2: give real ones"),
        (None, "target 'dose' is missing in obs of site_2; it has 'age'"),
    ],
)
def test_numbers_that_are_none_are_counted_and_no_patient_named(sites, column: object, line: str) -> None:
    if column is None:
        del sites["site_2"].obs["dose"]
    else:
        sites["site_2"].obs["dose"] = column
    before = {site: list(adata.obs) for site, adata in sites.items()}
    with pytest.raises(DataError, match=line) as caught:
        infl.tl.fit_federated(sites, "regressor", target="dose")
    assert "2_0" not in str(caught.value)
    assert {site: list(adata.obs) for site, adata in sites.items()} == before


def test_targets_that_are_the_same_everywhere_or_at_a_site(sites: dict[str, ad.AnnData]) -> None:
    sites["site_2"].obs["dose"] = 5.0
    with pytest.warns(InflWarning, match="target 'dose' is the same for all observations at site_2"):
        Regressor(target="dose").agree(sites)
    for adata in sites.values():
        adata.obs["dose"] = 5.0
    with pytest.raises(DataError, match="target 'dose' is the same for all observations of all sites"):
        Regressor(target="dose").agree(sites)
    for adata in sites.values():
        adata.obs["dose"] = np.linspace(0, 1e-9, 60)
    with pytest.raises(DataError, match="target 'dose' varies by less than 0.001: give it in smaller units"):
        Regressor(target="dose").agree(sites)
    sites["site_1"].obs["age"] = np.nan
    sites["site_1"].obs["dose"] = [np.nan, *[1.0] * 59]
    with pytest.raises(DataError, match="1 of 60 observations at site_1 have none of the targets 'dose', 'age'"):
        Regressor(target=["dose", "age"]).agree(sites)
    sites["site_1"].obs["dose"] = range(60)
    with pytest.raises(DataError, match="target 'Age' has no value at any site: correct the name, or leave it out"):
        Regressor(target=["dose", "Age"]).agree(sites)


def test_targets_outside_their_range_are_counted(sites: dict[str, ad.AnnData]) -> None:
    sites["site_3"].obs["dose"] = [900.0, *[1000.0] * 59]
    whole = tuple(np.array([0, 2000]))  # as a column of whole numbers has them
    assert Regressor(target="dose", target_range={"dose": whole}).target_range == {"dose": (0, 2000)}
    with pytest.raises(
        DataError, match="'dose' is not within target_range, 950 to 2000, for 1 of 60 observations at site_3"
    ):
        Regressor(target="dose", target_range={"dose": (950, 2000)}).agree(sites)
    del sites["site_3"]
    Regressor(target="dose", target_range={"dose": (950, 2000)}).agree(sites)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "needs target="),
        ({"target": ["dose", "dose"]}, "each of them once"),
        ({"target": "dose", "target_range": {"dose": (3, 1)}}, "target_range= has no range for 'dose'"),
        ({"target": "dose", "target_range": {"dose": (1, 3), "age": (0, 1)}}, "'age', which is no target"),
        ({"target": "dose", "objective": "poisson"}, "objective='poisson'"),
        ({"target": "dose", "level": 1.0}, "level=1.0"),
    ],
)
def test_settings_that_are_wrong_are_one_line(sites: dict[str, ad.AnnData], options: dict, line: str) -> None:
    with pytest.raises(SettingsError, match=line):
        infl.tl.fit_federated(sites, "regressor", **options)


def test_a_policy_sees_all_targets() -> None:
    from types import SimpleNamespace

    from infl.deploy.policy import columns_of

    offer = SimpleNamespace(task="regressor", options={"target": ["dose", "age"]}, panel={}, dp=None)
    assert columns_of(offer) == {"dose", "age"}


def test_a_linear_model_has_no_latent_of_its_own(sites: dict[str, ad.AnnData]) -> None:
    options = OPTIONS | {"width": 0, "optimiser": "sgd", "lr": 0.5, "rounds": 30}
    infl.tl.fit_federated(sites, Regressor(target="dose"), **options)
    adata = sites["site_1"]
    assert np.corrcoef(adata.obs["infl_prediction"], adata.obs["dose"])[0, 1] > 0.9
    assert torch.tensor(adata.obsm["X_infl"]).shape == (60, 1)
