"""Rules of disclosure bind the sums of functions: a number is opened as it is in the pooled data, or it is closed."""

import threading
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData, concat
from tests.privacy.conftest import KEY, LOOSE, closed, sites_of
from tests.threads import at_every_site

import infl
from infl.data import sites as sites_module
from infl.errors import SettingsError
from infl.privacy import Disclosure, DisclosureRules
from infl.privacy.rules import REASONS
from infl.sums import FederatedSum, over_sites, run_sums
from infl.sums.disclosure import control
from infl.tl import _markers


def test_what_is_open_is_what_scanpy_finds_in_the_pooled_data() -> None:
    sites = sites_of(*[{"A": 20, "B": 30, "C": 9}] * 3)
    pooled = concat(sites)
    pooled.obs["group"] = pooled.obs["group"].astype("category")
    pooled.uns["log1p"] = {"base": None}
    sc.tl.rank_genes_groups(pooled, "group", method="t-test")
    with Disclosure(LOOSE):
        infl.tl.rank_genes_groups(sites, "group", key=KEY)
    for group in "ABC":
        found, expected = (sc.get.rank_genes_groups_df(a, group) for a in (sites["site_0"], pooled))
        np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-4)


def test_a_group_that_too_few_sites_can_give_is_closed_and_the_others_are_not() -> None:
    more = {"A": 20, "B": 30, "C": 30}
    sites = sites_of(*[more | {"rare": 9}] * 2, more | {"rare": 4})
    assert closed(sites, "rare") and not closed(sites, "A")
    sites = sites_of(*[{"A": 20, "B": 30, "rare": 9}] * 3, {"A": 20, "B": 30, "rare": 4})
    assert closed(sites, "rare")  # else all of the first three and the groups would tell the fourth's A and B
    sites = sites_of(*[{"A": 20, "B": 30, "rare": 9}] * 3, {"A": 20, "B": 30})
    assert not closed(sites, "rare")  # three are enough


def test_nothing_is_opened_of_three_sites_of_which_one_has_data() -> None:
    few = {"A": 20, "C": 9, "D": 9}
    sites = sites_of({"A": 20, "B": 30, "C": 9, "D": 9}, few, few)
    assert closed(sites, "B") and not closed(sites, "A")


def test_a_group_that_would_follow_from_the_others_is_closed_too() -> None:
    sites = sites_of(*[{"A": 40, "B": 15, "C": 30, "rare": 3}] * 3)
    with Disclosure(LOOSE) as rules:
        infl.pp.moments(sites, key=KEY)
        assert closed(sites, "rare", inside=rules) and closed(sites, "B", inside=rules)
        assert not closed(sites, "A", inside=rules)
    assert not closed(sites, "B")  # all together were not released


def test_a_second_study_without_one_record_is_closed() -> None:
    sites = sites_of(*[{"A": 20, "B": 30}] * 3)
    fewer = {**sites, "site_1": sites["site_1"][1:].copy()}
    with Disclosure(LOOSE):
        assert not infl.pp.moments(sites, key=KEY)["mean"].isna().any()
        assert infl.pp.moments(fewer, key=KEY)["mean"].isna().all()
        assert not infl.pp.moments(sites, key=KEY)["mean"].isna().any()


def test_a_study_without_one_member_is_closed() -> None:
    sites = sites_of(*[{"A": 20, "B": 30}] * 4)
    three = {name: sites[name] for name in list(sites)[:3]}
    with Disclosure(LOOSE):
        assert not infl.pp.moments(sites, key=KEY)["mean"].isna().any()
        assert infl.pp.moments(three, key=KEY)["mean"].isna().all()


def test_a_feature_of_one_record_is_closed_and_so_is_what_gives_it_away() -> None:
    sites = sites_of(*[{"A": 20, "B": 30, "C": 10}] * 3)
    x = sites["site_1"].X
    x[:, 0] = 0
    x[3, 0] = 5.0  # of group A
    with Disclosure(LOOSE):
        infl.tl.rank_genes_groups(sites, "group", key=KEY)
    table = {g: sc.get.rank_genes_groups_df(sites["site_0"], g).set_index("names")["scores"] for g in "ABC"}
    assert all(
        np.isnan(table[group]["gene 0"]) for group in "ABC"
    )  # A is all that is closed: the others would give it away
    assert not any(table[group].drop("gene 0").isna().any() for group in "ABC")
    x[25, 0] = x[26, 0] = x[52, 0] = 4.0  # of B twice, of C once
    with Disclosure(LOOSE):
        infl.tl.rank_genes_groups(sites, "group", key=KEY)
        found = infl.pp.moments(sites, key=KEY)
    table = {g: sc.get.rank_genes_groups_df(sites["site_0"], g).set_index("names")["scores"]["gene 0"] for g in "ABC"}
    assert np.isnan(table["A"]) and np.isnan(table["C"]) and not np.isnan(found["mean"]["gene 0"])


def test_a_feature_that_too_few_sites_measured_is_closed() -> None:
    sites = sites_of(*[{"A": 20, "B": 30}] * 4)
    for name, measured in {"site_0": 3, "site_1": 2}.items():
        sites[name].var["infl_present"] = np.arange(12) >= 3 - measured
    with Disclosure(LOOSE):
        found = infl.pp.moments(sites, key=KEY)["mean"]
    assert found.isna().tolist() == [False] * 12
    sites["site_2"].var["infl_present"] = np.arange(12) != 0
    with Disclosure(LOOSE):
        found = infl.pp.moments(sites, key=KEY)["mean"]
    assert found.isna().tolist() == [True] + [False] * 11


def test_each_process_opens_what_one_process_opens() -> None:
    sites = sites_of(*[{"A": 20, "B": 30}] * 3)
    sites["site_1"].X[:, 0] = 0
    sites["site_1"].X[3, 0] = 5.0
    with Disclosure(LOOSE):
        expected = infl.pp.moments(sites, key=KEY)
    with Disclosure(LOOSE):
        found, _ = at_every_site(lambda own: infl.pp.moments(own), sites, KEY)
    for table in found.values():
        pd.testing.assert_frame_equal(table, expected)
    assert expected["mean"].isna().sum() == 1


def test_what_is_closed_leaves_no_trace_in_what_is_sent(monkeypatch) -> None:
    sites = sites_of(*[{"A": 20, "B": 30, "rare": 3}] * 3)
    sent, lay = [], over_sites.fitted

    def watched(update, arrays, packing, n_sites, *, weight):
        sent.append({name: np.array(value) for name, value in arrays.items()})
        return lay(update, arrays, packing, n_sites, weight=weight)

    monkeypatch.setattr(over_sites, "fitted", watched)
    closed(sites, "rare")
    tables = [arrays for arrays in sent if "size" in arrays]
    assert len(tables) == 3
    for arrays in tables:
        assert not arrays["n"][2].any() and not arrays["sum"][2].any() and arrays["sum"][:2].all()


def test_a_function_without_rules_refuses_in_one_line() -> None:
    sites = infl.datasets.khan_sites()
    with Disclosure():
        with pytest.raises(SettingsError, match="compare is not yet under disclosure rules"):
            infl.tl.compare(sites, target="tumour_class")
        why = "'logreg' is not yet under disclosure rules, since a hundred sums of slopes .* give them back: take 't-test' or 'wilcoxon'"
        with pytest.raises(SettingsError, match=why):
            infl.tl.rank_genes_groups(sites, "tumour_class", method="logreg")
        assert set(sites["site_1"].uns) == {"source"}
    infl.pp.moments(sites)


@pytest.mark.parametrize(
    ("decorated", "said"),
    [
        (
            False,
            r"^the sum of n is not yet .*, since infl.data.sites.over_sites\(ruled=True\) decorates no function that runs it",
        ),
        (True, r"^mine \(n\) is not yet under disclosure rules, since this sum has no cells=: leave it out"),
    ],
)
def test_a_statistic_of_ones_own_is_told_what_it_lacks(decorated: bool, said: str) -> None:
    count = FederatedSum(
        name="n", shapes={"n": ()}, local=lambda n, state: {"n": n}, combine=lambda total, state: total, says="records"
    )

    def mine(sites, *, site_key=None):
        return run_sums([count], {site: adata.n_obs for site, adata in sites.items()}, None)

    ask = sites_module.over_sites(ruled=True)(mine) if decorated else mine
    with Disclosure(), pytest.raises(SettingsError, match=said):
        ask(infl.datasets.khan_sites())


def test_the_register_says_what_was_released_about_what(tmp_path) -> None:
    sites = sites_of(*[{"A": 20, "B": 30}] * 3)
    with Disclosure(LOOSE, tmp_path):
        infl.tl.rank_genes_groups(sites, "group", key=KEY)
    text = (tmp_path / "site_1" / "register.jsonl").read_text()
    assert '"label": "group: A"' in text and '"about": "markers: groups"' in text and "1 3" not in text
    with Disclosure(LOOSE, tmp_path):
        assert infl.pp.moments({**sites, "site_1": sites["site_1"][1:].copy()}, key=KEY)["mean"].isna().all()


def test_every_reason_is_explained() -> None:
    assert all(REASONS.values())


def opened(sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch, rules: DisclosureRules = LOOSE) -> np.ndarray:
    """Means of groups that all members learn, (groups, features)."""
    states: list[Any] = []

    def spied(*args: Any, **kwargs: Any) -> Any:
        states.append(run_sums(*args, **kwargs))
        return states[-1]

    monkeypatch.setattr(_markers, "run_sums", spied)
    with Disclosure(rules):
        assert not infl.pp.moments(sites, key=KEY)["mean"].isna().any()  # so that sums over all are known
        infl.tl.rank_genes_groups(sites, "group", key=KEY)
    return states[-1]["mean"]


@pytest.mark.parametrize("colluders", [0, 1], ids=["control", "rules"])
def test_groups_do_not_give_away_one_that_too_few_sites_have(monkeypatch, colluders: int) -> None:
    rules = DisclosureRules(features_per_record=np.inf, colluders=colluders)
    sizes = [{"A": 20, "B": 30}, {"A": 20, "B": 30}, {"A": 20}]
    found = opened(sites_of(*sizes), monkeypatch, rules)
    assert np.isnan(found).all() if colluders else not np.isnan(found).any()
    found = opened(sites_of(*[of | {"C": 15, "D": 15} for of in sizes]), monkeypatch, rules)
    closed = np.isnan(found).all(axis=1)
    assert closed.tolist() == ([False, True, False, True] if colluders else [False] * 4)


def test_what_stays_closed_does_so_under_another_name(monkeypatch) -> None:
    sizes = {"A": 20, "C": 15, "D": 15}
    sites = sites_of(sizes | {"B": 30}, sizes | {"B": 30}, sizes)
    renamed = {site: adata.copy() for site, adata in sites.items()}
    for adata in renamed.values():
        adata.obs["group"] = adata.obs["group"].map({"A": "z", "B": "y", "C": "x", "D": "a"})
    with Disclosure(LOOSE):
        for _ in range(2):
            infl.tl.rank_genes_groups(sites, "group", key=KEY)
            infl.tl.rank_genes_groups(renamed, "group", key=KEY)
    tables = [pd.DataFrame(of["site_0"].uns["rank_genes_groups"]["scores"]).isna().all() for of in (sites, renamed)]
    assert tables[0].to_dict() == {"A": False, "B": True, "C": False, "D": True}
    assert tables[1].to_dict() == {"z": False, "y": True, "x": False, "a": True}


def test_blocks_of_threads_end_in_any_order_and_bind_what_is_begun_inside() -> None:
    first, second, outer = Disclosure(), Disclosure(), Disclosure()
    begun, may_end = threading.Event(), threading.Event()
    seen: list[Disclosure | None] = []

    def holds() -> None:
        with first:
            begun.set()
            assert may_end.wait(60)
            seen.append(control())

    thread = threading.Thread(target=holds)
    thread.start()
    assert begun.wait(60)
    with second:  # begun after the other, and ended before it or after it
        may_end.set()
        thread.join()
        assert control() is second
    assert seen == [first] and control() is None
    with outer:
        inside = threading.Thread(target=lambda: seen.append(control()))
        inside.start()
        inside.join()
    assert seen[-1] is outer and control() is None
