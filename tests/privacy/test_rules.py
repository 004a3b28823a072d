"""Rules of disclosure: what they may be, and what is refused under them."""

import numpy as np
import pytest
from tests.privacy.conftest import KEY, closed, sites_of

import infl
from infl.errors import SettingsError
from infl.privacy import Disclosure, DisclosureRules


def test_more_features_than_the_records_bear_are_closed() -> None:
    sites = sites_of(*[{"A": 20, "B": 30, "C": 30}] * 3)
    assert closed(sites, "A", DisclosureRules(features_per_record=0.45))
    assert not closed(sites, "B", DisclosureRules(features_per_record=0.45))


def test_persons_are_counted_where_the_rules_name_their_column() -> None:
    sites = sites_of(*[{"A": 20, "B": 30, "C": 30}] * 3)
    for adata in sites.values():
        adata.obs["donor"] = [f"{i // 10}" for i in range(80)]
    rules = DisclosureRules(k=3, donor_key="donor", features_per_record=np.inf, dominance=0.9)
    assert closed(sites, "A", rules) and not closed(sites, "B", rules)


def test_groups_of_a_column_that_is_not_released_are_refused_before_any_work() -> None:
    sites = sites_of(*[{"A": 20, "B": 30}] * 3)
    refused = pytest.raises(SettingsError, match="'group': rules of disclosure here release groups of 'cell_type'")
    with Disclosure(DisclosureRules(groups=("cell_type",))) as rules, refused:
        infl.tl.rank_genes_groups(sites, "group", key=KEY)
    assert not rules._registers
