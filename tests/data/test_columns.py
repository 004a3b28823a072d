"""Columns of obs are read by one rule, whatever they are for."""

import numpy as np
import pandas as pd
import pytest
from tests.data.conftest import cohort

import infl
from infl.data.columns import numbers_of
from infl.errors import DataError
from infl.models.scvi.data import categories_of, codes


def test_covariates_and_sites_are_read_by_the_same_rule() -> None:
    sites = cohort(lambda y: pd.Categorical(y), key="chemistry")
    sites["site_1"].obs["chemistry"] = pd.Categorical(np.array([0.0, 1.0])[np.arange(30) % 2])
    assert categories_of(sites, ["chemistry"]) == {"chemistry": ["0", "1"]}
    assert codes(sites["site_1"].obs["chemistry"], ["0", "1"], "site_1").tolist() == [0, 1] * 15
    assert list(infl.pp.split_sites(sites["site_1"], by="chemistry")) == ["0", "1"]


def test_a_table_with_two_columns_of_one_name_is_refused_before_anndata_stumbles() -> None:
    sites = cohort(lambda y: pd.Categorical(y), key="chemistry")
    obs = sites["site_2"].obs
    sites["site_2"].obs = pd.concat([obs.assign(age=1), obs.assign(age=2)[["age"]]], axis=1)
    with pytest.raises(DataError, match="obs of site_2 has several columns 'age': rename or drop all but one of each"):
        infl.pp.panel_of(sites)
    with pytest.raises(DataError, match="obs of site_2 has several columns 'age'"):
        infl.tl.rank_genes_groups(sites, "chemistry", method="logreg")


def test_numbers_that_no_float_holds_are_refused() -> None:
    adata = cohort(lambda y: y)["site_1"]
    adata.obs["dose"] = pd.Series([10**400] * adata.n_obs, index=adata.obs_names, dtype=object)
    with pytest.raises(DataError, match="target 'dose' has numbers beyond 10³⁰⁸ at site_1: give it in larger units"):
        numbers_of(adata, "dose", "site_1", "target")
