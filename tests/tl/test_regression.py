"""What regressions over sites refuse, in a frame worked out by hand, and what they say of levels that sites spell otherwise."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl.errors import DataError, InflWarning
from infl.pp._frame import Frame
from infl.tl._regression import check_information


@pytest.mark.parametrize("smallest", [-0.5, 0.0, 1e-9])
def test_information_that_is_not_positive_names_the_term_without_an_estimate(smallest: float) -> None:
    frame = Frame(np.zeros(3), np.eye(3), 0)
    information = np.diag([1.0, 1.0, smallest])
    with pytest.raises(DataError, match="no curvature: 'arm' has no estimate"):
        check_information(information, frame, ["Intercept", "age", "arm"], "no curvature")
    check_information(np.diag([1.0, 1.0, 1e-3]), frame, ["Intercept", "age", "arm"], "no curvature")


@pytest.fixture
def sites() -> dict[str, AnnData]:
    rng, found = np.random.default_rng(0), {}
    for i, name in enumerate("abc"):
        obs = pd.DataFrame({"arm": np.array(["case", "control"])[np.arange(20) % 2]})
        found[name] = AnnData(rng.normal(8, 1, (20, 4)), obs=obs.set_axis([f"{i}_{j}" for j in range(20)]))
    return found


def test_a_level_that_one_site_spells_otherwise_is_noticed(sites: dict[str, AnnData]) -> None:
    sites["c"].obs["arm"] = sites["c"].obs["arm"].replace({"case": "Case"})
    with pytest.warns(InflWarning, match="labels 'Case' .* and 'case' .* in 'arm' look like one class"):
        infl.tl.de(sites, "~ arm", contrast=("arm", "control", "case"))


def test_a_feature_that_a_group_has_nowhere_has_no_answer(sites: dict[str, AnnData]) -> None:
    for adata in sites.values():
        adata.X[(adata.obs["arm"] == "case").to_numpy(), 2] = np.nan
    table = infl.tl.de(sites, "~ arm").set_index("variable")
    assert np.isnan(table.loc["2", "t_value"]) and table.index[-1] == "2"
    assert table.drop("2")["t_value"].notna().all()
