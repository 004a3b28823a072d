"""Forgetting is the run once more without the records, to the bit, and an attack finds them in the old model only."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.tl.conftest import cohort, fit, refused

import infl
from infl.errors import InflWarning
from infl.tl._forgotten import MEMBERSHIP


def six() -> dict[str, AnnData]:
    """Six sites of 20 records each, halves of the three."""
    found = {}
    for name, adata in cohort().items():
        found |= {f"{name}a": adata[:20].copy(), f"{name}b": adata[20:].copy()}
    return found


def forget(run, sites, **options):
    return infl.tl.forget(run, sites, **{"attack": False, "progress": False} | options)


def same(one, other) -> bool:
    weights = [run.model.effective(run.key) for run in (one, other)]
    moments = [run.model.private_arrays(run.key) for run in (one, other)]
    return all(torch.equal(weights[1][n], w) for n, w in weights[0].items()) and all(
        np.array_equal(moments[1][n], m) for n, m in moments[0].items()
    )


@pytest.fixture(scope="module")
def long_run():
    return fit(six(), rounds=3, seed=5)


def test_a_site_is_forgotten_as_if_it_had_never_been_there(long_run) -> None:
    sites = six()
    done = forget(long_run, sites, site="site_2a")
    without = {name: adata for name, adata in six().items() if name != "site_2a"}
    assert same(done.run, fit(without, rounds=3, seed=5, key=long_run.key))
    assert not same(done.run, long_run)
    assert "site_2a" not in done.run.model.header.sites and done.n_records == {"site_2a": 20}
    assert all("infl" not in adata.uns for adata in sites.values())
    gone = forget(long_run, without, site="site_2a")  # its data are not there any more
    assert same(gone.run, done.run) and gone.n_records == {"site_2a": 0}


def test_records_are_forgotten_with_the_names_that_they_alone_had() -> None:
    sites = six()
    few = sites["site_1a"].obs_names[:4]
    for name in ("site_1a", "site_1b"):
        sites[name].obs.loc[sites[name].obs_names[:4], "label"] = "rare"
    run = fit(sites, rounds=2)
    left = dict(sites) | {name: sites[name][4:].copy() for name in ("site_1a", "site_1b")}
    done = forget(run, sites, records=[*few, *sites["site_1b"].obs_names[:4]])
    assert done.run.model.header.panel["classes"] == ["a", "b"]
    assert same(done.run, fit(left, rounds=2, key=run.key))
    by_site = forget(run, sites, records={"site_1a": few, "site_1b": sites["site_1b"].obs_names[:4]})
    assert same(by_site.run, done.run) and done.n_records == {"site_1a": 4, "site_1b": 4}


def test_what_was_done_before_the_fit_is_done_again() -> None:
    def prepare(sites):
        infl.pp.scale(sites)

    sites = six()
    sites["site_3a"].X[:] *= 5
    prepared = six() | {"site_3a": sites["site_3a"].copy()}
    prepare(prepared)
    run = fit(prepared, rounds=2, standardise="none")
    with pytest.warns(InflWarning, match=r"site_1a has var\['mean'\], which may have seen the forgotten records"):
        stale = forget(run, prepared, site="site_3a")
    done = forget(run, sites, site="site_3a", prepare=prepare)
    left = {name: adata.copy() for name, adata in six().items() if name != "site_3a"}
    prepare(left)
    assert same(done.run, fit(left, rounds=2, standardise="none", key=run.key))
    assert not same(stale.run, done.run)


def test_a_run_that_began_with_a_model_of_others_begins_with_it_again(long_run) -> None:
    sites = {f"late_{name}": adata for name, adata in six().items()}
    sites |= {"site_1a": six()["site_1a"]}
    run = infl.tl.fit_federated(sites, init=long_run, rounds=1, progress=False)
    done = forget(run, sites, site="late_site_2a")
    assert done.run.settings["init"] == long_run.model.header.digest
    again = {name: adata for name, adata in sites.items() if name != "late_site_2a"}
    assert same(done.run, infl.tl.fit_federated(again, init=long_run, rounds=1, progress=False))
    said = refused(lambda: forget(run, sites, site="site_1a"))
    assert "site_1a was in the fit of the model" in said and "forget it there first" in said
    assert "is not at hand" in refused(lambda: forget(replace(run, origin=None), sites, site="late_site_2a"))


def test_what_cannot_be_forgotten(long_run) -> None:
    sites = six()
    for options, said in (
        ({}, "nothing to forget: give site="),
        ({"records": []}, "nothing to forget"),
        ({"site": 3}, "site=3: give the name of one site"),
        ({"site": "site_1a", "prepare": "scale"}, "prepare='scale': give a function"),
        ({"site": "site_9"}, "site_9 is not a site of the run"),
        ({"records": ["nobody"]}, "no site has the record 'nobody'"),
        ({"records": {"site_1a": ["nobody"]}}, "site_1a has no record 'nobody'"),
        ({"records": {"site_9": ["0_0"]}}, "records= names site_9"),
        ({"site": [*sites][:4]}, "there are 2 sites, and sums of fewer than min_sites=3 are not opened"),
    ):
        assert said in refused(lambda options=options: forget(long_run, sites, **options))
    del sites["site_2b"]
    assert "site_2b of the run is not in sites" in refused(lambda: forget(long_run, sites, site="site_2a"))
    narrow = {name: adata[:, 2:].copy() for name, adata in six().items()}
    lacks = "the data lack 2 of 12 features of the fit, first 'g0': give the data that were fitted"
    assert lacks in refused(lambda: forget(long_run, narrow, site="site_2a"))
    assert "forget takes what fit_federated returned" in refused(lambda: forget(long_run.model, six(), site="site_2a"))
    twice = six()
    twice["site_1b"].obs_names = twice["site_1a"].obs_names
    name = twice["site_1a"].obs_names[0]
    assert "site_1a and site_1b have the record" in refused(lambda: forget(long_run, twice, records=[name]))


def test_an_attack_finds_the_forgotten_in_the_old_model_only(_khan_sites, monkeypatch) -> None:
    monkeypatch.setattr("infl.tl._forgotten.N_SHADOWS", 12)
    sites = {name: adata[:, :300].copy() for name, adata in _khan_sites.items()}
    run = infl.tl.fit_federated(sites, target="tumour_class", rounds=10, progress=False)
    done = infl.tl.forget(run, sites, site="site_1", progress=False)
    row = done.table.set_index("what").loc[MEMBERSHIP]
    assert row["before"] > 0.7 and row["before_low"] > 0.5
    assert row["after_low"] <= 0.5 == row["chance"] and row["after"] < row["before"] - 0.2


def test_what_both_runs_spend_of_privacy_adds_up() -> None:
    pytest.importorskip("opacus")
    privacy = infl.privacy.DP(noise_multiplier=2.0, delta=1e-3, sample_rate=0.2)
    run = fit(six(), rounds=3, privacy=privacy)
    table = forget(run, six(), site="site_2a").table.set_index("what")
    own, both = table.loc["epsilon of the run"], table.loc["epsilon of both runs together"]
    assert both["before"] == own["before"] == run.privacy["epsilon"]
    assert both["after"] > max(own["before"], own["after"])
