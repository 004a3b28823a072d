"""Batch effects over sites: those of scanpy and limma in the pooled data, wherever a batch lies."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

import infl
from infl.errors import DataError

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "batch.json").read_text())


def drawn(n: int = 90, n_vars: int = 25) -> AnnData:
    """Four batches, of which three cross the sites, and a covariate."""
    rng = np.random.default_rng(0)
    batch, arm, age = rng.integers(0, 4, n), rng.integers(0, 2, n), rng.normal(50, 9, n)
    x = (
        rng.normal(size=(n, n_vars)) * (1 + 0.3 * batch[:, None])
        + batch[:, None] * rng.normal(size=n_vars)
        + arm[:, None]
    )
    obs = pd.DataFrame({"batch": pd.Categorical.from_codes(batch, list("abcd")), "arm": arm, "age": age})
    obs["where"] = np.where(batch == 0, "s0", np.array(["s0", "s1", "s2"])[np.arange(n) % 3])
    obs.loc[5, "where"] = "alone"
    obs.index = [f"r{i}" for i in range(n)]
    return AnnData(x, obs=obs)


@pytest.mark.parametrize("covariates", [None, ["arm", "age"]])
def test_combat_is_that_of_scanpy(covariates):
    pooled = drawn()
    found = infl.pp.combat(
        pooled, "batch", covariates=covariates, site_key="where", copy=True, key=infl.keys.Keyring.create()
    )
    known = sc.pp.combat(pooled, "batch", covariates=covariates, inplace=False)
    np.testing.assert_allclose(found.X, known, rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_combat_takes_a_gene_that_is_silent_in_a_batch_and_says_nothing_of_zeros():
    pooled = drawn()
    pooled.X[(pooled.obs.batch == "b").to_numpy(), 3] = 0.0
    found = infl.pp.combat(pooled, "batch", site_key="where", copy=True)
    with np.errstate(divide="ignore"):
        known = sc.pp.combat(pooled, "batch", inplace=False)
    np.testing.assert_allclose(found.X, known, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("keys", [["age"], ["age", "arm"], "batch"])
def test_regress_out_is_that_of_scanpy(keys):
    pooled = drawn()
    found = infl.pp.regress_out(pooled, keys, site_key="where", copy=True)
    known = sc.pp.regress_out(pooled, keys, copy=True)
    single = keys == "batch"  # whose means scanpy has in single precision
    np.testing.assert_allclose(found.X, known.X, rtol=1e-6, atol=1e-6 if single else 1e-8)
    if single:
        exact = pooled.X - pooled.to_df().groupby(pooled.obs.batch, observed=True).transform("mean")
        np.testing.assert_allclose(found.X, exact, atol=1e-9)


@pytest.mark.parametrize("covariates", [None, "arm"])
def test_remove_batch_effect_is_that_of_limma(covariates):
    x = np.array(VECTOR["x"]).reshape(-1, 4)
    obs = pd.DataFrame({"batch": np.array(VECTOR["batch"], int), "arm": np.array(VECTOR["arm"], int)})
    obs["where"] = np.array(["s0", "s1", "s2"])[np.arange(len(obs)) % 3]
    obs.index = obs.index.astype(str)
    found = infl.pp.remove_batch_effect(
        AnnData(x, obs=obs), "batch", covariates=covariates, site_key="where", copy=True
    )
    known = np.array(VECTOR["with_arm" if covariates else "plain"]).reshape(-1, 4)
    np.testing.assert_allclose(found.X, known, rtol=1e-6, atol=1e-8)


def test_names_of_columns_may_have_blanks():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"plate no.": np.arange(24) % 2, "age (years)": rng.normal(60, 9, 24)}).set_axis(
        [f"p{i}" for i in range(24)]
    )
    sites = {name: AnnData(rng.normal(8, 1, (24, 4)), obs=obs.copy()) for name in "ab"}
    plain = {name: adata.copy() for name, adata in sites.items()}
    for adata in plain.values():
        adata.obs.columns = ["plate", "age"]
    for function in (infl.pp.combat, infl.pp.remove_batch_effect):
        function(sites, "plate no.", covariates="age (years)")
        function(plain, "plate", covariates="age")
    infl.pp.regress_out(sites, ["age (years)", "plate no."])
    infl.pp.regress_out(plain, ["age", "plate"])
    np.testing.assert_array_equal(sites["b"].X, plain["b"].X)


def test_batches_that_cannot_be_taken_out():
    pooled = drawn()
    pooled.obs["single"] = np.where(np.arange(90) == 3, "x", "y")
    pooled.obs["same"] = pooled.obs.batch.astype(str)
    pooled.obs["one"] = "x"
    for name, covariates, said in (
        ("single", None, "one record only in 'x'"),
        ("batch", "same", "follow from those before them"),
        ("one", None, "one level only"),
    ):
        with pytest.raises(DataError, match=said):
            infl.pp.combat(pooled, name, covariates=covariates, site_key="where")
