"""Pseudobulk as a step of a study: samples take the place of cells for the steps that follow."""

from pathlib import Path

import numpy as np
import pytest
from tests.deploy.study.test_steps import make_sites
from tests.deploy.study.test_study import make, said_once
from tests.threads import at_every_site

import infl
from infl.deploy.study.steps import Step, check_fields, check_order, check_ruled
from infl.errors import DataError, FederationError, SettingsError

BULK = Step.read("pp.pseudobulk", {"sample_key": "sample"})
CLUSTER = Step.read("tl.cluster", {"n_clusters": 2, "use_rep": "X_pca"})
pytestmark = pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")


def of_patients():
    """Return sites with cells of ten patients each, half of them cases."""
    sites = make_sites()
    for adata in sites.values():
        adata.obs["sample"] = [f"patient {i % 10}" for i in range(adata.n_obs)]
        adata.obs["arm"] = np.where(np.arange(adata.n_obs) % 10 < 5, "case", "control")
    return sites


def test_steps_after_it_see_samples(tmp_path: Path) -> None:
    sites = of_patients()
    tested = Step.read("tl.de", {"design": "~ arm", "method": "voom"})
    rehearsal = make(tmp_path, [BULK, tested], sites)
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    assert said_once(rehearsal)
    expected = infl.pp.pseudobulk(sites, "sample")
    tested.run(expected)
    assert expected["s0"].n_obs == 10 and {"arm", "psbulk_cells"} <= {*expected["s0"].obs}
    assert expected["s0"].uns["infl_de"]["params"]["n_obs"] == 30
    for site, adata in expected.items():
        found = rehearsal.result(site)
        np.testing.assert_array_equal(found.X, adata.X)
        assert found.obs_names.tolist() == adata.obs_names.tolist()
        np.testing.assert_allclose(found.uns["infl_de"]["table"]["t_value"], adata.uns["infl_de"]["table"]["t_value"])


def test_fields_of_cells_are_gone_after_it() -> None:
    steps = [Step.read("pp.pca", {"n_comps": 3}), BULK, CLUSTER]
    assert check_order(steps) == [("obs", "sample"), ("obsm", "X_pca")]
    adata = of_patients()["s0"]
    with pytest.raises(DataError, match=r"step 3 \(tl.cluster\) needs obsm\['X_pca'\]"):
        check_fields(steps, adata, "s0")
    adata.obsm["X_pca"] = adata.X[:, :3].toarray()
    with pytest.raises(DataError, match=r"step 2 \(tl.cluster\) needs obsm\['X_pca'\]"):
        check_fields([BULK, CLUSTER], adata, "s0")
    check_fields([CLUSTER, BULK, Step.read("tl.de", {"design": "~ infl_cluster"})], adata, "s0")


def test_it_is_no_step_under_rules_of_disclosure() -> None:
    with pytest.raises(SettingsError, match=r"step 1 \(pp.pseudobulk\) is not yet under rules of disclosure"):
        check_ruled([BULK], "s0")


def test_sites_that_add_up_other_samples_are_refused(key) -> None:
    found, _ = at_every_site(
        lambda held: infl.pp.pseudobulk(held, "donor" if "s1" in held else "guide"), make_sites(), key
    )
    assert all(isinstance(error, FederationError) for error in found.values())


def test_a_site_that_cannot_add_up_ends_it_for_all(key) -> None:
    sites = make_sites()
    del sites["s1"].obs["donor"]
    found, _ = at_every_site(lambda held: infl.pp.pseudobulk(held, "donor"), sites, key)
    assert isinstance(found["s1"], DataError) and isinstance(found["s0"], FederationError)
