"""Survival by hazards in bins: what it learns, what it writes, and what it refuses in one line."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.models import Survival

OPTIONS = {
    "time": "months",
    "event": "died",
    "rounds": 15,
    "width": 16,
    "n_blocks": 1,
    "dropout": 0.0,
    "lr": 5e-3,
    "progress": False,
}


@pytest.fixture
def sites() -> dict[str, ad.AnnData]:
    """Four hospitals; two features of eight raise the hazard, a third of the patients leave before."""
    rng, made = np.random.default_rng(0), {}
    for number in range(4):
        x = rng.normal(size=(80, 8)).astype(np.float32)
        until = rng.exponential(20 * np.exp(-1.2 * x[:, 0] + 0.8 * x[:, 3]))
        leaves = rng.exponential(40, 80)
        obs = pd.DataFrame(
            {"months": np.minimum(until, leaves) + 0.1, "died": until <= leaves},
            index=[f"{number}_{i}" for i in range(80)],
        )
        made[f"site_{number + 1}"] = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene_{j}" for j in range(8)]))
    return made


@pytest.mark.parametrize("proportional", [True, False])
def test_those_at_risk_are_told_and_their_survival_falls(sites: dict[str, ad.AnnData], proportional: bool) -> None:
    run = infl.tl.fit_federated(sites, "survival", proportional=proportional, **OPTIONS)
    assert run.history["val_concordance"].max() > (
        0.7 if proportional else 0.55
    )  # a number for each bin needs more patients
    adata = sites["site_1"]
    assert np.corrcoef(adata.obs["infl_risk"], 1.2 * adata.X[:, 0] - 0.8 * adata.X[:, 3])[0, 1] > (
        0.7 if proportional else 0.5
    )
    survival, times = adata.obsm["infl_survival"], adata.uns["infl_times"]
    assert survival.shape == (80, len(times))
    assert (np.diff(survival, axis=1) <= 0).all()
    assert (np.diff(times) > 0).all()
    assert ((survival > 0) & (survival < 1)).all()


def test_mean_survival_is_that_of_kaplan_and_meier(sites: dict[str, ad.AnnData]) -> None:
    infl.tl.fit_federated(sites, "survival", **OPTIONS)
    everyone = ad.concat(list(sites.values()))
    times = sites["site_1"].uns["infl_times"]
    order = np.sort(everyone.obs["months"].to_numpy())
    alive, curve = 1.0, []
    for end in times[:-1]:
        passed = order[order <= end]
        alive = np.prod(
            [1 - ((everyone.obs["months"] == t) & everyone.obs["died"]).sum() / (order >= t).sum() for t in passed]
        )
        curve.append(alive)
    mean = everyone.obsm["infl_survival"].mean(0)[:-1]
    np.testing.assert_allclose(mean, curve, atol=0.08)


def test_bins_follow_from_sums_and_no_bin_has_few_events(sites: dict[str, ad.AnnData]) -> None:
    run = infl.tl.fit_federated(sites, "survival", validation=0.0, n_bins=6, **OPTIONS | {"rounds": 1})
    private = run.model.private_arrays(run.key)
    everyone = ad.concat(list(sites.values())).obs
    ends = private["ends"][np.isfinite(private["ends"])]
    at = np.minimum(np.searchsorted(ends, everyone["months"], side="left"), len(ends) - 1)
    events = np.bincount(at[everyone["died"]], minlength=len(ends))
    assert events.min() >= 5
    assert 3 <= len(ends) <= 6
    left = np.bincount(at[~everyone["died"]], minlength=len(ends))
    entered = len(at) - np.append(0, np.cumsum(events + left)[:-1])
    hazard = (events + 0.5) / (entered - left + 1)
    np.testing.assert_allclose(private["base"][: len(ends)], np.log(hazard / (1 - hazard)))


def test_a_grid_that_is_given_is_used(sites: dict[str, ad.AnnData]) -> None:
    infl.tl.fit_federated(sites, "survival", grid=[0.7, 5, 10, 20], **OPTIONS | {"rounds": 1})
    assert sites["site_2"].uns["infl_times"].tolist() == [0.7, 5, 10, 20]


def test_a_grid_in_another_unit_is_told_of(sites: dict[str, ad.AnnData]) -> None:
    task = Survival(time="months", event="died", grid=(0.01, 0.05))
    with pytest.warns(
        InflWarning, match="all times at 'site_1', .* are later than grid= ends, 0.05: give grid= in the unit of"
    ):
        task.agree(sites)


def test_the_last_bin_ends_where_nobody_is_left(sites: dict[str, ad.AnnData]) -> None:
    for adata in sites.values():
        adata.obs["months"] = adata.obs["months"].clip(upper=40.5)
    infl.tl.fit_federated(sites, "survival", **OPTIONS | {"rounds": 1})
    end = sites["site_1"].uns["infl_times"][-1]
    assert 40.5 <= end < 43  # times are counted in parts of two months
    assert sites["site_1"].obs["infl_median"].max() <= end


def test_a_file_says_the_same_after_it_was_saved(sites: dict[str, ad.AnnData], tmp_path) -> None:
    run = infl.tl.fit_federated(sites, "survival", **OPTIONS | {"rounds": 2})
    run.model.save(tmp_path / "life.infl")
    new = sites["site_2"].copy()
    del new.obs["months"], new.obs["died"]
    infl.tl.predict(new, infl.models.load_model(tmp_path / "life.infl"), key=run.key, key_added="again")
    pd.testing.assert_series_equal(
        new.obs["again_risk"], sites["site_2"].obs["infl_risk"], check_names=False, atol=1e-6
    )
    table = infl.tl.personalise(run, sites, key=run.key, epochs=1).table
    assert set(table.columns) >= {"concordance_before", "concordance_after"}


def test_comparison_has_the_baseline_and_chance(sites: dict[str, ad.AnnData]) -> None:
    methods = ["infl", "infl_wrong_key", "infl_no_key", "pooled", "baseline"]
    table = infl.tl.compare(sites, "survival", seeds=1, methods=methods, **OPTIONS)
    found = table[table["metric"] == "concordance"].set_index("method")["mean"]
    assert found["infl"] > found["pooled"] - 0.05
    assert found["baseline"] > 0.7
    assert abs(found["infl_wrong_key"] - 0.5) < 0.12
    assert table.attrs["chance"] == 0.5


def test_differential_privacy_is_refused_before_the_fit(sites: dict[str, ad.AnnData]) -> None:
    dp = infl.privacy.DP(noise_multiplier=1.0, sample_rate=0.5, delta=1e-3)
    with pytest.raises(SettingsError, match="'survival' needs sums that have no noise"):
        infl.tl.fit_federated(sites, "survival", privacy=dp, **OPTIONS)


@pytest.mark.parametrize(
    ("column", "values", "line"),
    [
        ("months", [0.0, 1.0] * 40, "time 'months' must be above 0 and finite, and 40 of 80 are not, at site_2"),
        ("months", [np.inf, 1.0] * 40, "time 'months' must be above 0 and finite, and 40 of 80 are not, at site_2"),
        ("months", [np.nan, 1.0] * 40, "time 'months' has no value for 40 of 80 observations at site_2"),
        ("months", pd.Timedelta(90, "D"), "time 'months' has durations where numbers are due, at site_2"),
        ("months", "long", "time 'months' has words where numbers are due, at site_2"),
        ("died", 2, "event 'died' must be 0 or 1, or truth values, and 80 of 80 are not, at site_2"),
        ("died", None, "event 'died' is missing in obs of site_2"),
    ],
)
def test_times_that_are_none_are_counted_and_no_patient_named(sites, column: str, values: object, line: str) -> None:
    if values is None:
        del sites["site_2"].obs[column]
    else:
        sites["site_2"].obs[column] = values
    with pytest.raises(DataError, match=line) as caught:
        infl.tl.fit_federated(sites, "survival", **OPTIONS)
    assert "2_0" not in str(caught.value)


def test_events_that_nobody_has_are_refused_and_a_site_without_is_warned_of(sites: dict[str, ad.AnnData]) -> None:
    sites["site_2"].obs["died"] = False
    task = Survival(time="months", event="died")
    with pytest.warns(InflWarning, match="event 'died' is 0 for all observations at site_2"):
        task.agree(sites)
    for adata in sites.values():
        adata.obs["died"] = 0
    with pytest.raises(DataError, match="event 'died' is 0 for all observations of all sites"):
        task.agree(sites)


def test_times_that_are_all_the_same_are_refused(sites: dict[str, ad.AnnData]) -> None:
    for adata in sites.values():
        adata.obs["months"] = 5
    with pytest.raises(DataError, match="time 'months' is the same for all observations of all sites"):
        Survival(time="months", event="died").agree(sites)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"event": ""}, "needs time= and event="),
        ({"grid": [3, 2]}, "increasing numbers above 0"),
        ({"grid": []}, "increasing numbers above 0"),
        ({"n_bins": 0}, "n_bins=0"),
    ],
)
def test_settings_that_are_wrong_are_one_line(sites: dict[str, ad.AnnData], options: dict, line: str) -> None:
    with pytest.raises(SettingsError, match=line):
        infl.tl.fit_federated(sites, "survival", **OPTIONS | options)
