"""Rules of disclosure of one's own: by what name they are known, what they see, and what they close."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.privacy.conftest import KEY

import infl
from infl.errors import SettingsError
from infl.privacy import OWN_RULES, Disclosure, DisclosureRules


def cohort() -> dict[str, AnnData]:
    rng = np.random.default_rng(0)
    sites = {}
    for name in "abcd":
        obs = pd.DataFrame({"ward": np.repeat(["A", "B"], 10)}, index=[f"{name} {i}" for i in range(20)])
        sites[name] = AnnData(rng.normal(5, 1, (20, 2)), obs=obs, var=pd.DataFrame(index=["x", "y"]))
    return sites


def rules(own: str) -> DisclosureRules:
    return DisclosureRules(own=(own,), features_per_record=np.inf)


def test_a_rule_sees_the_rows_that_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setitem(OWN_RULES, "noted", lambda obs, rules: bool(seen.append((len(obs), rules.k))))
    with Disclosure(rules("noted")):
        infl.pp.moments(cohort(), key=KEY)
    assert {*seen} == {(20, 5)}


@pytest.mark.parametrize("n_withheld", [1, 2])
def test_a_site_that_withholds_is_left_out_and_too_few_close_the_number(
    monkeypatch: pytest.MonkeyPatch, n_withheld: int
) -> None:
    sites = cohort()
    for adata in list(sites.values())[:n_withheld]:
        adata.obs["ward"] = "A"
    monkeypatch.setitem(OWN_RULES, "wards", lambda obs, rules: obs["ward"].nunique() < 2)
    with Disclosure(rules("wards")) as disclosure:
        found = infl.pp.moments(sites, key=KEY)
    if n_withheld == 2:
        assert found["mean"].isna().all()
        return
    np.testing.assert_allclose(found["mean"], np.vstack([sites[s].X for s in "bcd"]).mean(axis=0), rtol=1e-6)
    assert not disclosure.register("a").n_released and disclosure.register("b").n_released


def test_what_was_given_before_a_rule_came_is_not_told_by_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that withholds what it gave once would be the rest of the first total."""
    sites = cohort()
    monkeypatch.setitem(OWN_RULES, "wards", lambda obs, rules: obs["ward"].nunique() < 2)
    with Disclosure(rules("wards")):
        assert infl.pp.moments(sites, key=KEY)["mean"].notna().all()
        sites["a"].obs["ward"] = "A"
        assert infl.pp.moments(sites, key=KEY)["mean"].isna().all()


def test_wrong_rules_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OWN_RULES, "wards", lambda obs, rules: "yes")
    with pytest.raises(SettingsError, match="own='ward' is no rule of disclosure here: did you mean 'wards'"):
        Disclosure(rules("ward"))
    with Disclosure(rules("wards")), pytest.raises(SettingsError, match="'wards' returned str: return True where"):
        infl.pp.moments(cohort(), key=KEY)
