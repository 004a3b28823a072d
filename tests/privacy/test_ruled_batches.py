"""Batch effects under rules of disclosure: values as without them, 0 in features that are closed, nothing of batches of too few."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.privacy.conftest import KEY, LOOSE

import infl
from infl.errors import DataError, SettingsError
from infl.pp._batch_sums import model_sums
from infl.privacy import Disclosure, DisclosureRules
from infl.sums import over_sites

STEPS: dict[str, Callable[[Mapping[str, AnnData]], Any]] = {
    "combat": lambda sites: infl.pp.combat(sites, "lot", covariates="sex", key=KEY),
    "remove_batch_effect": lambda sites: infl.pp.remove_batch_effect(sites, "lot", key=KEY),
    "regress_out": lambda sites: infl.pp.regress_out(sites, ["age"], key=KEY),
}


def hospitals(n_sites: int = 4, n: int = 80) -> dict[str, AnnData]:
    rng, sites = np.random.default_rng(0), {}
    for number in range(n_sites):
        obs = pd.DataFrame(index=[f"{number} {i}" for i in range(n)])
        obs["lot"], obs["sex"] = np.repeat(["one", "two"], n // 2), np.resize(["f", "m"], n)
        obs["age"] = rng.normal(50, 10, n)
        x = rng.normal(9, 1, (n, 6)) + (obs["lot"] == "one").to_numpy()[:, None] * np.arange(6)
        sites[f"site_{number}"] = AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene {j}" for j in range(6)]))
    return sites


@pytest.mark.parametrize("name", STEPS)
def test_values_are_those_without_rules_but_for_closed_features(name: str) -> None:
    plain, ruled = hospitals(), hospitals()
    for sites in (plain, ruled):
        sites["site_1"].X[:, 2] = 0
        sites["site_1"].X[3, 2] = 9  # one record has the whole of it
    STEPS[name](plain)
    with Disclosure(LOOSE):
        STEPS[name](ruled)
    for site, adata in ruled.items():
        assert not adata.X[:, 2].any()
        if name != "combat":  # which draws a batch's features towards each other
            np.testing.assert_array_equal(np.delete(adata.X, 2, 1), np.delete(plain[site].X, 2, 1))
    if name == "combat":
        without = {site: adata[:, np.arange(6) != 2].copy() for site, adata in hospitals().items()}
        STEPS[name](without)
        for site, adata in ruled.items():
            np.testing.assert_array_equal(np.delete(adata.X, 2, 1), without[site].X)


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_means_of_a_batch_that_one_site_has_are_not_told(on: bool) -> None:
    """Whoever has the totals and the number of records solves for the site's own means."""
    sites = hospitals()
    for name, adata in sites.items():
        adata.obs["lot"] = np.where(name == "site_2", adata.obs["lot"], "one")
    told = sites["site_2"].X[40:].mean(axis=0)
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, Disclosure(LOOSE) if on else nullcontext():
        sums = model_sums(["a", "b"], 6)
        assert sums[-1].name == "features"
        real = infl.pp._batch.run_sums
        patch.setattr(infl.pp._batch, "run_sums", lambda *a, **k: seen.append(real(*a, **k)) or seen[-1])
        with pytest.raises(DataError, match="nothing is opened") if on else nullcontext():
            infl.pp.remove_batch_effect(sites, "lot", key=KEY)
    assert bool(seen) is not on
    assert on or np.allclose(seen[0]["coefficients"][1], told)


def test_batches_that_are_sites_are_refused_since_they_are_of_one_site_each() -> None:
    with Disclosure(LOOSE), pytest.raises(DataError, match="combat: columns: nothing is opened"):
        infl.pp.combat(hospitals(), "site", key=KEY)


def test_a_column_that_is_not_released_is_refused_before_any_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_sites, "fitted", None)
    with (
        Disclosure(DisclosureRules(groups=("sex",))),
        pytest.raises(SettingsError, match="'lot': rules of disclosure here"),
    ):
        infl.pp.combat(hospitals(), "lot", key=KEY)
