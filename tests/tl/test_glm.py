"""Generalised linear models over sites: those of statsmodels in the pooled records, however these lie at sites."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from infl.errors import DataError, SettingsError
from infl.keys import Keyring
from infl.tl import glm

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "glm.json").read_text())
FORMULA = "{} ~ x + C(group) + year"


def dealt(obs: pd.DataFrame, where) -> dict[str, AnnData]:
    where = np.asarray(where)
    return {f"s{i}": AnnData(obs=obs[where == i].copy(), shape=(int((where == i).sum()), 0)) for i in np.unique(where)}


@pytest.fixture
def records() -> pd.DataFrame:
    obs = pd.DataFrame(VECTOR["data"])
    return obs.set_axis([f"r{i}" for i in range(len(obs))])


@pytest.mark.parametrize("family", ["gaussian", "binomial", "poisson", "negative_binomial"])
@pytest.mark.parametrize("n_sites", [1, 4, 40])
def test_coefficients_are_those_of_statsmodels(records, family, n_sites):
    known = VECTOR[family]
    sites = dealt(records, np.arange(len(records)) % n_sites)
    found = glm(sites, FORMULA.format(family), family, alpha=0.7, key=Keyring.create())
    for name in ("coefficient", "std_error", "z", "p_value", "lower", "upper"):
        np.testing.assert_allclose(found.table[name], known[name], rtol=1e-8, err_msg=name)
    np.testing.assert_allclose(found.deviance, known["deviance"], rtol=1e-8)
    np.testing.assert_allclose(found.covariance, known["covariance"], rtol=1e-7)
    np.testing.assert_allclose(found.scale, known["scale"], rtol=1e-8)


def test_offset_is_that_of_statsmodels(records):
    found = glm(dealt(records, np.arange(len(records)) % 3), "poisson ~ x", "poisson", offset="exposure")
    np.testing.assert_allclose(found.table.coefficient, VECTOR["offset"], rtol=1e-8)


def test_a_formula_of_an_intercept_alone_gives_the_mean_of_all_records(records):
    found = glm(dealt(records, np.arange(len(records)) % 3), "gaussian ~ 1").table
    np.testing.assert_allclose(found.coefficient, [records["gaussian"].mean()], rtol=1e-12)
    with pytest.raises(SettingsError, match="has no coefficient"):
        glm(dealt(records, np.arange(len(records)) % 3), "gaussian ~ 0")


@given(st.integers(0, 10**6), st.integers(2, 6))
@settings(max_examples=15)
def test_any_split_gives_the_pooled_answer(seed, n_sites):
    rng = np.random.default_rng(seed)
    n = 60
    obs = pd.DataFrame(
        {"y": rng.poisson(3, n), "x": rng.normal(5e3, 1e-1, n), "group": np.array(list("abc"))[np.arange(n) % 3]}
    )
    obs.index = obs.index.astype(str)
    where = rng.integers(0, n_sites, n)
    where[0] = 99  # a site of one record
    where[(where == 0) & (obs.group == "a")] = 1  # a site that lacks a group
    pooled = glm({"all": AnnData(obs=obs, shape=(n, 0))}, "y ~ x + group", "poisson").table
    pd.testing.assert_frame_equal(
        glm(dealt(obs, where), "y ~ x + group", "poisson").table, pooled, rtol=1e-7, atol=1e-9
    )


def test_tiny_and_huge_values():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"x": rng.normal(size=50)})
    obs["y"] = 1 + obs.x + rng.normal(size=50)
    obs.index = obs.index.astype(str)
    plain = glm(dealt(obs, np.arange(50) % 3), "y ~ x").table
    scaled = glm(dealt(obs * 1e-9, np.arange(50) % 3), "y ~ x").table
    np.testing.assert_allclose(scaled.z, plain.z, rtol=1e-8)
    obs.x *= 1e12
    np.testing.assert_allclose(glm(dealt(obs, np.arange(50) % 3), "y ~ x").table.z, plain.z, rtol=1e-8)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_offset_that_is_far_beyond_the_outcomes_is_no_overflow():
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({"y": np.arange(40) % 2, "x": rng.normal(size=40), "off": rng.exponential(2000, 40)})
    adata = AnnData(obs=obs.set_axis([f"p{i}" for i in range(40)]), shape=(40, 0))
    with pytest.raises(DataError, match="has no estimate"):
        glm({"a": adata}, "y ~ x", "binomial", offset="off")


def test_site_is_a_term(records):
    found = glm(dealt(records, np.arange(len(records)) % 3), "gaussian ~ x + site")
    assert found.table.index.tolist() == ["Intercept", "x", "site[T.s1]", "site[T.s2]"]


@pytest.mark.parametrize(
    ("family", "name"), [("binomial", "apart"), ("poisson", "none_there"), ("binomial", "none_there")]
)
def test_separation_is_said(records, family, name):
    records["none_there"] = (np.arange(len(records)) < 15).astype(float)
    records.loc[records.none_there == 1, ["binomial", "poisson"]] = 0
    records["apart"] = records.binomial + 0.01 * records.x.clip(-1, 1)
    with pytest.raises(DataError, match=rf"without error \(separation\): '{name}'"):
        glm(dealt(records, np.arange(len(records)) % 3), f"{family} ~ x + {name}", family)


@pytest.mark.parametrize(
    ("formula", "family", "error", "said"),
    [
        ("x + year", "gaussian", SettingsError, "write a column of obs, ~, and terms"),
        ("a ~ b ~ c", "gaussian", SettingsError, "write a column of obs"),
        ("x ~ twice + year", "binomial", DataError, "must be 0 or 1, or truth values, and 100 of 100 are not, at s0"),
        ("x ~ year", "poisson", DataError, "must be counts"),
        (
            "x ~ year + twice",
            "gaussian",
            DataError,
            "terms that follow from those before them, over all sites together: 'twice'",
        ),
        ("x ~ same + year", "gaussian", DataError, "over all sites together: 'same'"),
        ("gap ~ x", "gaussian", DataError, "response 'gap' has no value for 1 of 100 observations at s0"),
    ],
    ids=str,
)
def test_what_cannot_be_fitted(records, formula, family, error, said):
    records = records.assign(twice=2 * records.year, same=3.1, gap=records.x.where(np.arange(len(records)) > 0))
    with pytest.raises(error) as found:
        glm(dealt(records, np.arange(len(records)) % 3), formula, family)
    assert said in str(found.value)
