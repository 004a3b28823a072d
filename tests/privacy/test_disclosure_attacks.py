"""Attacks on what is opened, each with a control: it works without rules of disclosure, and gets nothing with them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl.data.asked import asking
from infl.errors import DataError
from infl.pp._matrix import matrices
from infl.privacy import Disclosure, DisclosureRules, membership_auc
from infl.sums import run_sums
from infl.tl._group_sums import Grouped, group_sums

LOOSE = DisclosureRules(features_per_record=np.inf)


def site(x: np.ndarray, name: str) -> AnnData:
    obs = pd.DataFrame(index=[f"{name} {i}" for i in range(len(x))])
    return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene {j}" for j in range(x.shape[1])]))


def cohort(n_obs: int, n_vars: int, seed: int = 0) -> dict[str, AnnData]:
    rng = np.random.default_rng(seed)
    return {name: site(rng.normal(5.0, 1.0, (n_obs, n_vars)), name) for name in "abc"}


def group_totals(sites: dict[str, AnnData], labels: dict[str, np.ndarray], k: int) -> np.ndarray:
    """What everyone learns of sums of groups, (k, n_vars); NaN where it is closed."""
    with asking("groups", sites):
        at = matrices(sites, None, None)
        of_sites: dict[str, Any] = {name: Grouped(at[name], labels[name], k) for name in sites}
        state = run_sums(group_sums(k, sites["a"].n_vars), of_sites, None, about="groups")
    return state["n"] * state["mean"]


def rules(on: bool, which: DisclosureRules = LOOSE) -> AbstractContextManager[Any]:
    return Disclosure(which) if on else nullcontext()


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_two_studies_that_differ_by_one_record_tell_it(on: bool) -> None:
    sites = cohort(20, 6)
    fewer = {**sites, "b": sites["b"][1:].copy()}
    with rules(on):
        first, second = (infl.pp.moments(of, inplace=False) for of in (sites, fewer))
    told = first["n_obs"] * first["mean"] - second["n_obs"] * second["mean"]
    assert np.allclose(told, sites["b"].X[0], atol=1e-6) is not on
    assert told.isna().all() is np.bool_(on)


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
@pytest.mark.parametrize("second", ["scale", "pca", "moments"])
def test_a_site_that_cannot_give_again_is_not_the_rest_of_what_others_open(second: str, on: bool) -> None:
    """Two functions: the first adds all sites; in the second one site has a record less, and would be left out."""
    sites, later = cohort(20, 3), cohort(20, 3)
    later["a"] = later["a"][1:].copy()
    later["d"] = sites["d"] = site(np.random.default_rng(9).normal(5.0, 1.0, (20, 3)), "d")
    with rules(on):
        total = infl.pp.moments(sites)["mean"].to_numpy()
        if second == "pca":
            with pytest.raises(DataError, match="nothing is opened") if on else nullcontext():
                infl.pp.pca(later, 2)
            return
        told = {"scale": infl.pp.scale, "moments": infl.pp.moments}[second](later)
    mean = (later["b"].var["mean"] if second == "scale" else told["mean"]).to_numpy()
    lost = 80 * total - 79 * mean  # the record, without rules
    assert np.isnan(mean).all() if on else np.allclose(lost, sites["a"].X[0])


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_three_studies_of_which_no_two_tell_anything_tell_a_record_together(on: bool) -> None:
    sites = cohort(21, 6)
    with rules(on):
        whole = infl.pp.moments(sites, inplace=False)
        one, other = (
            infl.pp.moments({**sites, "b": sites["b"][rows].copy()}, inplace=False)
            for rows in (slice(10), slice(10, 20))
        )
    sums = [table["n_obs"] * table["mean"] for table in (whole, one, other)]
    others = sites["a"].X.sum(axis=0) + sites["c"].X.sum(axis=0)  # who colludes knows these
    told = (sums[0] - others) - (sums[1] - others) - (sums[2] - others)
    assert np.allclose(told, sites["b"].X[20], atol=1e-6) is not on


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_means_of_many_random_groups_give_the_records_back(on: bool) -> None:
    sites, rng = cohort(24, 3), np.random.default_rng(1)
    rows, sums = [], []
    others = {name: np.arange(24) % 2 for name in "ac"}
    known = sites["a"].X[::2].sum(axis=0) + sites["c"].X[::2].sum(axis=0)
    with rules(on):
        for _ in range(40):
            labels = rng.integers(0, 2, 24)
            total = group_totals(sites, {**others, "b": labels}, 2)[0] - known
            if not np.isnan(total).any():
                rows.append(labels == 0)
                sums.append(total)
    found = np.linalg.lstsq(np.array(rows, dtype=float), np.array(sums), rcond=None)[0]
    told = np.abs(found - sites["b"].X) < 1e-3
    assert told.all() if not on else not told.any()
    assert rows


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_the_sum_of_three_sites_of_which_one_has_data_is_its_own(on: bool) -> None:
    sites = cohort(20, 6)
    labels = {"a": np.zeros(20, dtype=int), "b": np.arange(20) % 2, "c": np.zeros(20, dtype=int)}
    with rules(on):
        total = group_totals(sites, labels, 2)
    own = sites["b"].X[1::2].sum(axis=0)
    assert np.allclose(total[1], own, atol=1e-6) is not on
    assert np.isnan(total[1]).all() == on


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
@pytest.mark.parametrize("formula", ["age ~ arm", "age ~ site"])
def test_a_coefficient_of_a_group_that_one_site_has_is_that_site_s_own(formula: str, on: bool) -> None:
    sites, rng = cohort(40, 2), np.random.default_rng(2)
    for name, adata in sites.items():
        adata.obs["age"] = rng.normal(50, 10, 40)
        adata.obs["arm"] = "new" if name == "b" else "old"
    with rules(on), pytest.raises(DataError, match="nothing is opened") if on else nullcontext():
        found = infl.tl.glm(sites, formula).table["coefficient"]
        told = found.iloc[0] + (found.iloc[1] if formula == "age ~ site" else 0)
        mean = sites["b"].obs["age"].mean()
        assert np.isclose(told, mean) and not on


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
@pytest.mark.parametrize("levels", [("a", "z"), ("a", "y", "z")], ids=["two", "three"])
def test_the_first_level_of_a_group_is_a_group_too(levels: tuple[str, ...], on: bool) -> None:
    """All other levels are at sites enough, so that only the intercept is about one site's records."""
    sites, rng = (
        {**cohort(40, 2), **{name.upper(): adata for name, adata in cohort(40, 2).items()}},
        np.random.default_rng(2),
    )
    for name, adata in sites.items():
        adata.obs_names = [f"{name} {i}" for i in range(40)]
        adata.obs["age"] = rng.normal(50, 10, 40)
        adata.obs["arm"] = levels[0] if name == "b" else np.resize(levels[1:], 40)
    with rules(on), pytest.raises(DataError, match="nothing is opened") if on else nullcontext():
        told = infl.tl.glm(sites, "age ~ arm").table["coefficient"].iloc[0]
        assert np.isclose(told, sites["b"].obs["age"].mean()) and not on


@pytest.mark.parametrize("few", [2, 8], ids=["few", "enough"])
def test_few_outcomes_in_the_first_level_of_a_group_close_a_model(few: int) -> None:
    """Of all records of the site, and of the other level, there are enough with either outcome."""
    sites = cohort(80, 2)
    for name, adata in sites.items():
        adata.obs["arm"] = np.repeat(["a", "z"], 40)
        adata.obs["died"] = np.arange(80) % 40 < np.repeat([few if name == "b" else 20, 12], 40)
    with rules(True), pytest.raises(DataError, match="nothing is opened") if few == 2 else nullcontext():
        assert np.isfinite(infl.tl.glm(sites, "died ~ arm", family="binomial").table["coefficient"]).all()


def test_a_cell_of_two_columns_that_no_coefficient_is_about_closes_nothing() -> None:
    sites, rng = cohort(40, 2), np.random.default_rng(2)
    for name, adata in sites.items():
        adata.obs["age"] = rng.normal(50, 10, 40)
        adata.obs["arm"], adata.obs["sex"] = np.resize(["a", "z", "z", "a"], 40), np.resize(["f", "m"], 40)
        if name == "b":  # alone has no woman in the first arm
            adata.obs["arm"] = np.where(adata.obs["sex"] == "f", "z", np.resize(["z", "a", "z", "z"], 40))
    with rules(True):
        assert np.isfinite(infl.tl.glm(sites, "age ~ arm + sex").table["coefficient"]).all()


@pytest.mark.parametrize("bound", [np.inf, 1.0, 0.1], ids=["control", "one feature", "a tenth"])
def test_means_and_variances_tell_members_no_better_than_the_bound(bound: float) -> None:
    n, p = 20, 400
    scores: dict[bool, list[float]] = {True: [], False: []}
    opened = False
    with Disclosure(DisclosureRules(features_per_record=bound, k=3)):
        for seed in range(20):
            sites = cohort(n, p, seed)
            for name, adata in sites.items():
                adata.obs_names = [f"{seed} {name}" for name in adata.obs_names]  # other people each time
            chosen = p if np.isinf(bound) else int(bound * n)
            panel = {name: adata[:, :chosen].copy() for name, adata in sites.items()}
            table = infl.pp.moments(panel, inplace=False)
            assert infl.pp.moments(sites, inplace=False)["mean"].isna().all() == np.isfinite(bound)
            opened |= not table["mean"].isna().any()
            mean, var = table["mean"].to_numpy() - 5.0, table["var"].to_numpy() - 1.0
            strangers = np.random.default_rng(100 + seed).normal(5.0, 1.0, (n, p))[:, :chosen]
            for inside, people in ((True, panel["b"].X), (False, strangers)):
                z = people - 5.0
                scores[inside] += (z @ mean + (z**2 - 1) @ var / 2).tolist()
    inside, outside = np.array(scores[True]), np.array(scores[False])
    auc = (inside[:, None] > outside).mean()
    most = membership_auc(2 * chosen, 3 * n)  # means and variances, of three sites together
    assert opened
    assert auc > 0.95 if np.isinf(bound) else auc < most + 0.07


def test_a_question_again_after_the_register_was_read_anew_is_closed(tmp_path) -> None:
    sites = cohort(20, 6)
    with Disclosure(LOOSE, tmp_path):
        infl.pp.moments(sites, inplace=False)
    fewer = {**sites, "b": sites["b"][1:].copy()}
    with Disclosure(LOOSE, tmp_path):
        assert infl.pp.moments(fewer, inplace=False)["mean"].isna().all()
    with Disclosure(LOOSE, tmp_path / "another"):  # the control: without it, it is open
        assert not infl.pp.moments(fewer, inplace=False)["mean"].isna().any()


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_sums_of_many_transformations_give_the_values_of_a_small_group_back(on: bool) -> None:
    rng = np.random.default_rng(5)
    sites = cohort(30, 2)
    for adata in sites.values():
        adata.X = rng.uniform(1.0, 4.0, adata.shape)
    labels = {name: (np.arange(30) < 5).astype(int) for name in sites}
    target, others = sites["b"].X[:5, 0].copy(), {name: sites[name].X[:5, 0].copy() for name in "ac"}
    powers = []
    with rules(on):
        for power in range(1, 6):  # as normalising to another total before the logarithm does it
            changed = {name: site(adata.X**power, name) for name, adata in sites.items()}
            total = group_totals(changed, labels, 2)[1, 0]
            powers.append(total - sum((x**power).sum() for x in others.values()))
    if on:
        assert np.isfinite(powers[0]) and np.isnan(powers[2:]).all()
        return
    e = [1.0]
    for n in range(1, 6):  # Newton's identities
        e.append(sum((-1) ** (i - 1) * e[n - i] * powers[i - 1] for i in range(1, n + 1)) / n)
    found = np.sort(np.roots([(-1) ** i * value for i, value in enumerate(e)]).real)
    assert np.allclose(found, np.sort(target), atol=1e-2)
