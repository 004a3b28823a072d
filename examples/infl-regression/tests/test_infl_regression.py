"""The package's own tests: numbers worked out by hand, laws, and the attack with its control."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import infl
from infl.errors import DataError, SettingsError

OPTIONS = {"target": "dose", "rounds": 60, "progress": False}


@pytest.fixture
def sites() -> dict[str, ad.AnnData]:
    """Five hospitals; the number is a sum of two features of twelve, with a little noise."""
    rng, made = np.random.default_rng(0), {}
    for number in range(5):
        x = rng.normal(2, 3, size=(60, 12)).astype(np.float32)
        dose = 10 + 2 * x[:, 0] - x[:, 3] + rng.normal(size=60)
        obs = pd.DataFrame({"dose": dose}, index=[f"{number}_{i}" for i in range(60)])
        made[f"site_{number + 1}"] = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene_{j}" for j in range(12)]))
    return made


def test_it_is_found_and_learns(sites: dict[str, ad.AnnData]) -> None:
    key = infl.keys.Keyring.create()
    run = infl.tl.fit_federated(sites, "regression", key=key, **OPTIONS)
    assert run.history["val_r2"].max() > 0.95
    weights = run.model.effective(key)["head.weight"][0].abs()
    assert set(weights.topk(2).indices.tolist()) == {0, 3}
    adata = sites["site_1"]
    assert np.corrcoef(adata.obs["infl_prediction"], adata.obs["dose"])[0, 1] > 0.95


def test_moments_are_those_of_all_sites(sites: dict[str, ad.AnnData]) -> None:
    run = infl.tl.fit_federated(sites, "regression", validation=0.0, **OPTIONS | {"rounds": 1})
    private = run.model.private_arrays(run.key)
    everyone = ad.concat(list(sites.values()))
    np.testing.assert_allclose(private["center"], everyone.X.mean(0), atol=1e-4)
    np.testing.assert_allclose(private["scale"], everyone.X.std(0), atol=1e-4)
    np.testing.assert_allclose(private["y_center"], everyone.obs["dose"].mean(), atol=1e-4)


@pytest.mark.parametrize("sealed", [True, False])
def test_correlations_are_those_of_the_pooled_data(sites: dict[str, ad.AnnData], sealed: bool) -> None:
    from infl_regression.statistic import correlation

    found = correlation(sites, "dose", key=infl.keys.Keyring.create() if sealed else None)
    everyone = ad.concat(list(sites.values()))
    expected = [np.corrcoef(everyone.X[:, j], everyone.obs["dose"])[0, 1] for j in range(12)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    everyone.obs["hospital"] = np.repeat(list(sites), 60)
    pd.testing.assert_series_equal(correlation(everyone, "dose", site_key="hospital"), found)


@pytest.mark.parametrize("own", [[], ["several_wards"]], ids=["control", "rule"])
def test_no_mean_of_one_ward_is_opened(sites: dict[str, ad.AnnData], own: list[str]) -> None:
    """Of five sites, three have the arm in one ward: two give it, and three are needed."""
    for number, adata in enumerate(sites.values()):
        adata.obs["arm"] = np.repeat(["new", "old"], 30)
        adata.obs["ward"] = np.where(np.arange(60) < 15, "A", "B")
        if number < 3:
            adata.obs.loc[adata.obs["arm"] == "new", "ward"] = "A"
        adata.obs.loc[adata.obs["arm"] == "old", "ward"] = np.resize(["A", "B"], 30)
    rules = infl.privacy.DisclosureRules(own=own, features_per_record=float("inf"))
    with infl.privacy.Disclosure(rules):
        infl.tl.rank_genes_groups(sites, "arm")
    scores = pd.DataFrame(sites["site_1"].uns["rank_genes_groups"]["scores"])
    assert scores["new"].isna().all() == bool(own)


def test_metrics_by_hand() -> None:
    from infl_regression.task import Regression

    sums = {"n": 4, "error": 2.0, "y": 10.0, "yy": 30.0}  # numbers 1, 2, 3, 4: squared deviations add up to 5
    assert Regression(target="y").summarise(sums) == {"loss": 0.5, "r2": pytest.approx(0.6)}


def test_a_stolen_file_is_of_no_use(sites: dict[str, ad.AnnData]) -> None:
    run = infl.tl.fit_federated(sites, "regression", **OPTIONS)
    table = infl.tl.compare(sites, "regression", seeds=1, methods=["infl", "infl_wrong_key", "baseline"], **OPTIONS)
    r2 = table[table["metric"] == "r2"].set_index("method")["mean"]
    assert r2["infl"] > 0.9
    assert r2["infl"] > r2["baseline"] - 0.05
    assert r2["infl_wrong_key"] < 0.2
    assert run.model.header.task == "regression"


def test_the_attack_reads_an_open_run_and_not_a_sealed_one(sites: dict[str, ad.AnnData]) -> None:
    run = infl.tl.fit_federated(sites, "regression", **OPTIONS | {"rounds": 3})
    row = infl.tl.audit(run, sites, attacks=["target_mean"], progress=False).iloc[0]
    assert row["control"] > 0.8
    assert row["value"] < 0.65  # of correlations over five sites, six times: more than three of its standard deviations
    with pytest.warns(infl.errors.InflWarning, match="seal='none'"):
        open_run = infl.tl.fit_federated(sites, "regression", lock=None, seal="none", **OPTIONS | {"rounds": 3})
    found = infl.tl.audit(open_run, sites, attacks=["target_mean"], progress=False).iloc[0]
    assert found["status"] == "not promised"
    assert found["value"] > 0.8


def test_momentum_goes_on_and_none_is_fedavg(sites: dict[str, ad.AnnData]) -> None:
    fits = {
        momentum: infl.tl.fit_federated(
            sites, "regression", aggregation="fedavgm", aggregation_options={"momentum": momentum}, lock=None, **OPTIONS
        )
        for momentum in (0.0, 0.9)
    }
    plain = infl.tl.fit_federated(sites, "regression", lock=None, **OPTIONS)
    theirs, ours = (run.model.effective(None)["head.weight"] for run in (fits[0.0], plain))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert fits[0.9].history["loss"].iloc[5] < plain.history["loss"].iloc[5]


def test_what_is_wrong_is_one_line(sites: dict[str, ad.AnnData]) -> None:
    with pytest.raises(SettingsError, match="needs target="):
        infl.tl.fit_federated(sites, "regression")
    sites["site_2"].obs["dose"] = "high"
    with pytest.raises(DataError, match="target 'dose' at site_2 is not numeric: for classes take model='classifier'"):
        infl.tl.fit_federated(sites, "regression", target="dose")
    options = {"target": "dose", "aggregation": "fedavgm", "aggregation_options": {"momentum": 1}}
    from infl_regression.statistic import correlation

    with pytest.raises(SettingsError, match="target=3: give the name of one obs column"):
        correlation(sites, 3)
    del sites["site_2"]
    with pytest.raises(SettingsError, match="momentum=1: give a number from 0 to below 1"):
        infl.tl.fit_federated(sites, "regression", min_sites=2, **options)
