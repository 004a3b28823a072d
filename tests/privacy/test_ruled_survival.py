"""Curves of survival under rules of disclosure: numbers of the pooled patients, on bins in which each site has enough or none."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.privacy.conftest import KEY, LOOSE

import infl
from infl.errors import DataError, SettingsError
from infl.privacy import Disclosure, DisclosureRules
from infl.sums import over_sites
from infl.tl._survival_sums import curves, log_rank


def hospitals(n_sites: int = 4, n: int = 120, seed: int = 0) -> dict[str, AnnData]:
    rng, sites = np.random.default_rng(seed), {}
    for number in range(n_sites):
        name = f"site_{number}"
        obs = pd.DataFrame(index=[f"{name} {i}" for i in range(n)])
        obs["arm"] = np.resize(["new", "old"], n)
        obs["sex"] = rng.choice(["f", "m"], n)
        lived = rng.exponential(np.where(obs["arm"] == "new", 30.0, 15.0))
        seen = rng.uniform(5, 40, n)
        obs["months"], obs["died"] = np.minimum(lived, seen), lived <= seen
        sites[name] = AnnData(np.zeros((n, 1)), obs=obs)
    return sites


def counts(obs: pd.DataFrame, group: str | None, names: tuple[str, ...], ends: np.ndarray) -> tuple[np.ndarray, ...]:
    """Events and departures by group and bin, counted by hand."""
    bins = np.minimum(np.searchsorted(ends, obs["months"]), len(ends) - 1)
    code = np.zeros(len(obs), int) if group is None else np.array([names.index(name) for name in obs[group]])
    found = np.zeros((2, len(names), len(ends)))
    np.add.at(found[1], (code, bins), 1)
    np.add.at(found[0], (code[obs["died"]], bins[obs["died"]]), 1)
    return found[0], found[1]


@pytest.mark.parametrize("group", [None, "arm"])
@pytest.mark.parametrize("grid", [None, tuple(range(2, 42, 2))], ids=["own bins", "given bins"])
def test_curves_are_those_of_the_pooled_patients_on_bins_with_enough_of_each_site(group, grid) -> None:
    sites = hospitals()
    with Disclosure(LOOSE):
        found = infl.tl.survival(sites, "months", "died", group, grid=grid, key=KEY)
    ends = found.curves["time"].unique()
    assert len(ends) >= (4 if group is None else 2)
    pooled = pd.concat([adata.obs for adata in sites.values()])
    expected = counts(pooled, group, found.groups, ends)
    pd.testing.assert_frame_equal(found.curves, curves(*expected, ends, found.groups, 0.95))
    if group is not None:
        assert (found.chi2, found.df, found.p_value) == log_rank(*expected)
    for adata in sites.values():
        events, left = counts(adata.obs, group, found.groups, ends)
        for n in (events, left, left - events):
            assert not ((n > 0) & (n < 5)).any()


def opened_at(sites: dict[str, AnnData], on: bool, **options: Any) -> list[np.ndarray]:
    """All counts of departures that are opened of the first site by who knows those of the others."""
    found, opened = [], []
    laid = over_sites.fitted

    def watched(update: Any, arrays: Any, *rest: Any, **named: Any) -> Any:
        if {"departures", "left"} & {*arrays}:
            found.append(arrays)
        return laid(update, arrays, *rest, **named)

    with pytest.MonkeyPatch.context() as patch, Disclosure(LOOSE) if on else nullcontext():
        patch.setattr(over_sites, "fitted", watched)
        infl.tl.survival(sites, "months", "died", key=KEY, **options)
    for arrays in found[:: len(sites)]:  # the first site's
        opened += [np.asarray(value) for value in arrays.values()]
        if "left" in arrays:
            opened.append(np.asarray(arrays["left"]) - arrays["events"])
    return opened


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_who_knows_the_other_sites_gets_no_count_of_a_few(on: bool) -> None:
    numbers = np.concatenate([n.ravel() for n in opened_at(hospitals(), on, groups="arm")])
    assert ((numbers > 0) & (numbers < 5)).any() is np.bool_(not on)
    assert (numbers >= 5).any()


@pytest.mark.parametrize("remembers", [False, True], ids=["control", "rules"])
def test_two_groupings_tell_of_no_few_patients_together(remembers: bool) -> None:
    """Cells of arm and sex by time have few patients, so the second question has bins as wide as it takes, or is closed."""
    sites, cells = hospitals(n=60), []
    with Disclosure(LOOSE) as rules:
        for group in ("arm", "sex"):
            with nullcontext() if remembers else Disclosure(LOOSE):
                found = infl.tl.survival(sites, "months", "died", group, key=KEY)
            obs = sites["site_0"].obs
            ends = found.curves["time"].unique()
            cells += (
                []
                if found.curves["at_risk"].isna().any()
                else [obs[group], obs["died"], np.searchsorted(ends, obs["months"])]
            )
        assert rules.register("site_0").n_released > 0 or not remembers
    n = pd.crosstab(cells[0], cells[1:]).to_numpy()
    assert ((n > 0) & (n < 5)).any() is np.bool_(not remembers)


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_a_group_that_one_site_has_is_closed_with_what_would_tell_it(on: bool) -> None:
    sites = hospitals()
    for name, adata in sites.items():
        adata.obs["arm"] = "old" if name != "site_2" else adata.obs["arm"]
    with Disclosure(LOOSE) if on else nullcontext():
        found = infl.tl.survival(sites, "months", "died", "arm", key=KEY)
    told = found.curves.groupby("group", observed=True)["at_risk"].first()
    assert (told["new"] == 60) is np.bool_(not on)
    if on:
        assert found.curves[["survival", "events", "hazard"]].isna().all(axis=None)
        assert np.isnan([found.chi2, found.p_value]).all()


def test_a_small_hospital_is_left_out_and_blocks_nobody() -> None:
    sites = hospitals()
    small = hospitals(5)["site_4"][:3].copy()
    with Disclosure(LOOSE):
        found = infl.tl.survival(sites | {"site_4": small}, "months", "died", key=KEY)
    assert found.curves["at_risk"][0] == 480 and len(found.curves) >= 4


def test_a_column_that_is_not_released_is_refused() -> None:
    with (
        Disclosure(DisclosureRules(groups=("sex",))),
        pytest.raises(SettingsError, match="'arm': rules of disclosure here release groups of 'sex'"),
    ):
        infl.tl.survival(hospitals(), "months", "died", "arm", key=KEY)


def test_one_patient_whose_time_is_most_of_all_closes_everything() -> None:
    sites = hospitals(n=20)
    sites["site_1"].obs.iloc[0, sites["site_1"].obs.columns.get_loc("months")] = 1e5
    with Disclosure(LOOSE), pytest.raises(DataError, match="survival: times: nothing is opened"):
        infl.tl.survival(sites, "months", "died", grid=[10.0, 20.0, 30.0], key=KEY)
