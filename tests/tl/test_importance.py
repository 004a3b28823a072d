"""Importance of features: what their values are worth to a model, the same over sites as in one place."""

from contextlib import nullcontext
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from tests.threads import at_every_site
from tests.tl.conftest import cohort, fit, refused

import infl
from infl.errors import DataError, KeyringError, SettingsError
from infl.nn.mlp import LinearClassifier, ResidualMLP
from infl.privacy import Disclosure, DisclosureRules
from infl.sums import run_sums
from infl.tl._importance_gains import donors_of
from infl.tl._importance_sums import exchange_sum, judged


def gains_of(module, x, losses_of, truth, donors) -> tuple[np.ndarray, np.ndarray]:
    present, rows = np.ones(x.shape[1], dtype=bool), np.ones(len(x), dtype=bool)
    site = judged("site", module, x, losses_of, truth, donors, present, rows)
    state = {} if donors is None else run_sums([exchange_sum(x.shape[1])], {"site": site}, None)
    found = site.gains(state)
    return found["gain"], found["loss"]


def squares(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (outputs[:, 0] - truth).square()


def linear() -> LinearClassifier:
    module = LinearClassifier(3, 1)
    with torch.no_grad():
        module.head.weight.copy_(torch.tensor([[2.0, 0.0, -1.0]]))
        module.head.bias.zero_()
    return module.eval()


def test_gradients_of_a_linear_model_by_hand() -> None:
    """The loss is (2a − c − y)²: from (0, 0) to (1, 1) it goes along (t − y)², whose gradient is 2 (t − y) (2, −1)."""
    gains, loss = gains_of(linear(), torch.tensor([[1.0, 5.0, 1.0]]), squares, torch.tensor([3.0]), None)
    np.testing.assert_allclose(gains, [[-4 * (0.5 - 3), 0.0, 2 * (0.5 - 3)]], atol=1e-5)
    np.testing.assert_allclose(gains.sum(), 3.0**2 - loss[0], atol=1e-5)


def test_exchanges_of_a_linear_model_by_hand() -> None:
    x, y = torch.tensor([[1.0, 5.0, 0.0], [2.0, 7.0, 0.0]]), torch.tensor([2.0, 4.0])
    gains, loss = gains_of(linear(), x, squares, y, np.array([[1, 0]]))
    np.testing.assert_allclose(loss, [0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(gains, [[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]], atol=1e-5)


@pytest.mark.parametrize("donors", [None, donors_of(7, 6, np.random.default_rng(0))])
def test_a_network_is_passed_as_it_is(donors: np.ndarray | None) -> None:
    """Against the network itself, with a column exchanged for every other record's, or at the start of the way."""
    torch.manual_seed(0)
    module, x, y = ResidualMLP(5, 2, width=8).eval(), torch.randn(7, 5), torch.randn(7)
    x[0, 1] = torch.nan
    gains, loss = gains_of(module, x, squares, y, donors)
    with torch.no_grad():
        np.testing.assert_allclose(loss, squares(module(x), y), atol=1e-5)
        if donors is None:
            start = squares(module(torch.zeros(7, 5)), y)
            np.testing.assert_allclose(gains.sum(1), start.numpy() - loss, atol=0.05)
            return
        for feature in range(5):
            after = []
            for row in donors:
                moved = x.clone()
                moved[:, feature] = x[row, feature]
                after.append(squares(module(moved), y).numpy() - loss)
            np.testing.assert_allclose(gains[:, feature], np.mean(after, 0), atol=1e-5)


def test_features_that_carry_the_class_come_first_and_are_written() -> None:
    sites, rng = cohort(), np.random.default_rng(1)
    for adata in sites.values():
        adata.X[:, 6:] = rng.normal(size=(40, 6))
    run = fit(sites, width=0, optimiser="sgd", lr=1.0, rounds=20)
    for method in ("permutation", "gradients"):
        table = infl.tl.feature_importance(run, sites, method=method, validation_only=False)
        assert set(table.index[:4]) <= {f"g{j}" for j in range(6)} and table["importance"].iloc[0] > 0
        assert table["n_obs"].eq(120).all() and table.attrs["n_obs"] == 120 and table.attrs["method"] == method
        for adata in sites.values():
            np.testing.assert_array_equal(adata.var["infl_importance"], table["importance"].reindex(adata.var_names))


def test_gradients_over_sites_are_those_in_one_place() -> None:
    sites = cohort()
    run = fit(sites, validation=0.4)
    over = infl.tl.feature_importance(run, sites, method="gradients", validation_only=False)
    whole = {"site_1": ad.concat(cohort())}
    together = infl.tl.feature_importance(run, whole, method="gradients", validation_only=False)
    pd.testing.assert_frame_equal(over, together.loc[over.index], atol=1e-6)
    one = ad.concat(cohort(), label="hospital", index_unique=None)
    by_column = infl.tl.feature_importance(run, one, method="gradients", validation_only=False, site_key="hospital")
    pd.testing.assert_frame_equal(over, by_column)
    assert "infl_importance" in one.var


def different(kind: str) -> dict[str, ad.AnnData]:
    """Sites that measure features on other scales, in part; one feature is a constant of each site."""
    sites = cohort()
    for number, adata in enumerate(sites.values()):
        adata.X[:, :6] = adata.X[:, :6] * (1 + number) + 2 * number
        adata.X[:, 7] = number
        adata.obs["y"] = adata.X[:, 0] + 0.5 * adata.X[:, 7] + 0.2 * adata.X[:, 9].astype(float)
    return sites if kind == "sites" else {"site_1": ad.concat(sites)}


@pytest.mark.parametrize(("n_repeats", "off"), [(1, 0.35), (3, 0.2), (200, 1e-3)])
def test_exchanges_over_sites_that_differ_are_those_in_one_place(n_repeats: int, off: float) -> None:
    """Of a linear model under squared error exactly, where all others' values are given; few repeats differ by their draw alone."""
    sites = different("sites")
    run = infl.tl.fit_federated(sites, "regressor", target="y", progress=False)
    how = {"validation_only": False, "n_repeats": n_repeats}
    over = infl.tl.feature_importance(run, sites, **how)["importance"]
    together = infl.tl.feature_importance(run, different("one place"), validation_only=False, n_repeats=200)[
        "importance"
    ]
    np.testing.assert_allclose(over[together.index], together, atol=off * together.max())
    assert together["g7"] > 0.02 * together.max()  # what differs between sites alone is worth something


def test_a_site_with_one_record_to_judge_takes_part() -> None:
    sites = cohort()
    run = fit(sites)
    sites["site_2"] = sites["site_2"][:1].copy()
    table = infl.tl.feature_importance(run, sites, validation_only=False)
    assert table["n_obs"].eq(81).all() and np.isfinite(table["importance"]).all()


RULES = DisclosureRules(features_per_record=1.0)


@pytest.mark.parametrize("method", ["permutation", "gradients"])
def test_rules_of_disclosure_let_through_what_is_about_enough_records(method: str, run) -> None:
    free = infl.tl.feature_importance(run, cohort(), method=method, validation_only=False)
    sites = cohort()
    with Disclosure(RULES):
        ruled = infl.tl.feature_importance(run, sites, method=method, validation_only=False)
        with pytest.raises(DataError, match="nothing is opened, since too few sites can give sums") as closed:
            infl.tl.feature_importance(run, cohort(), method=method, max_obs=4)
    assert "\n" not in str(closed.value)
    pd.testing.assert_series_equal(ruled["importance"], free["importance"])
    assert "feature_importance" not in sites["site_1"].uns.get("infl_closed", {})


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_two_questions_that_differ_by_one_record_tell_of_it(on: bool, run) -> None:
    """The difference of two sums of gains is what each feature is worth to one patient."""
    whole, fewer = cohort(), cohort()
    fewer["site_1"] = fewer["site_1"][1:].copy()
    how = {"method": "gradients", "validation_only": False}

    def total(sites: dict[str, ad.AnnData]) -> pd.Series:
        table = infl.tl.feature_importance(run, sites, **how)
        return table["importance"] * table["n_obs"]

    alone = total({"site_1": cohort()["site_1"][:1].copy()})
    with Disclosure(RULES) if on else nullcontext():
        first = total(whole)
        if on:
            with pytest.raises(DataError, match="nothing is opened"):
                total(fewer)
            return
        np.testing.assert_allclose((first - total(fewer))[alone.index], alone, atol=1e-5)


def test_one_record_that_dominates_closes_what_it_dominates() -> None:
    sites = cohort()
    for adata in sites.values():
        adata.obs["y"] = adata.X[:, 0].astype(float)
    run = infl.tl.fit_federated(sites, "regressor", target="y", progress=False)
    sites["site_2"].obs.loc[sites["site_2"].obs_names[0], "y"] = 1e4
    with Disclosure(RULES):
        table = infl.tl.feature_importance(run, sites, method="gradients", validation_only=False)
    assert np.isnan(table.attrs["loss"]) and table["std"].isna().any()
    closed = sites["site_1"].uns["infl_closed"]["feature_importance"]
    assert {"dominance"} == set(closed["rule"]) and "loss" in set(closed["array"])


def test_every_site_of_a_consortium_gets_what_one_process_gets() -> None:
    sites = cohort()
    run = fit(sites)
    together = infl.tl.feature_importance(run, sites, n_repeats=3)
    found, _ = at_every_site(
        lambda s: infl.tl.feature_importance(run.model, s, n_repeats=3, key=run.key), cohort(), run.key
    )
    for table in found.values():
        pd.testing.assert_frame_equal(table, together)


def test_features_that_a_site_did_not_measure_do_not_count_there() -> None:
    sites = cohort()
    sites["site_3"] = sites["site_3"][:, :10].copy()
    run = fit(sites, features="union")
    table = infl.tl.feature_importance(run, sites, validation_only=False)
    assert table.loc["g11", "n_obs"] == 80 and table.loc["g0", "n_obs"] == 120
    assert sites["site_3"].var["infl_importance"].notna().all()


@pytest.mark.parametrize("method", ["permutation", "gradients"])
def test_regression_and_survival_have_importance_too(method: str) -> None:
    sites = cohort()
    for adata in sites.values():
        adata.obs["y"] = adata.X[:, 3].astype(float)
        adata.obs["months"], adata.obs["died"] = np.exp(-adata.obs["y"]) + 0.1, True
    for model, options in (("regressor", {"target": "y"}), ("survival", {"time": "months", "event": "died"})):
        run = infl.tl.fit_federated(
            sites, model, width=0, optimiser="sgd", lr=1.0, rounds=15, progress=False, **options
        )
        table = infl.tl.feature_importance(run, sites, method=method, validation_only=False)
        assert table.index[0] == "g3"


def test_what_has_no_importance_is_refused_in_one_line(run) -> None:
    sites = cohort()
    with pytest.raises(KeyringError, match="model= is locked with key .* pass key="):
        infl.tl.feature_importance(run.model, sites)
    scvi = replace(run.model, header=replace(run.model.header, task="scvi", options={}))
    with pytest.raises(SettingsError, match="model 'scvi' has no importance of features yet"):
        infl.tl.feature_importance(scvi, sites, key=run.key)
    with pytest.raises(DataError, match="no site has an observation to judge on"):
        infl.tl.feature_importance(fit(cohort(), validation=0.0), sites)
    assert "says nothing without it" in refused(lambda s, r: infl.tl.feature_importance(r.model, s), sites, run)
    assert "infl_importance" not in sites["site_1"].var
