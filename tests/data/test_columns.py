"""Columns of obs are read by one rule, whatever they are for."""

import numpy as np
import pandas as pd
from tests.data.conftest import cohort

import infl
from infl.models.scvi.data import categories_of, codes


def test_covariates_and_sites_are_read_by_the_same_rule() -> None:
    sites = cohort(lambda y: pd.Categorical(y), key="chemistry")
    sites["site_1"].obs["chemistry"] = pd.Categorical(np.array([0.0, 1.0])[np.arange(30) % 2])
    assert categories_of(sites, ["chemistry"]) == {"chemistry": ["0", "1"]}
    assert codes(sites["site_1"].obs["chemistry"], ["0", "1"], "site_1").tolist() == [0, 1] * 15
    assert list(infl.pp.split_sites(sites["site_1"], by="chemistry")) == ["0", "1"]
