"""A fit over enrolled sites, asked for from a notebook at one of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl.deploy.flare.daemon import SERVER_PROCESS, Daemon
from infl.deploy.flare.local_consortium import LocalConsortium
from infl.deploy.remote import Patience
from infl.deploy.site_worker import DECLINED
from infl.errors import DataError, FederationError, FileError, KeyringError, SettingsError

OPTIONS = {"target": "label", "width": 8, "n_blocks": 1, "rounds": 3, "progress": False}


@pytest.fixture(scope="module")
def up(network: LocalConsortium) -> Iterator[LocalConsortium]:
    """Coordinator and sites are up."""
    daemon = Daemon(network.coordinator / "kit", SERVER_PROCESS, network.coordinator / "server.log")
    with network.sites_up():
        daemon.ensure()
        yield network
    daemon.stop()


def engine(network: LocalConsortium, **options: object) -> object:
    made = infl.engines.flare(network.coordinator / "admin", site=network.root / "site_1", give_up=120, **options)
    object.__setattr__(made, "patience", Patience(silence=6, repeat=2, consent=60))
    return made


@pytest.mark.long
def test_same_run_as_in_this_process(up: LocalConsortium) -> None:
    mine = up.data["site_1"].copy()
    sites: dict[str, AnnData | None] = {"site_1": mine, "site_2": None, "site_3": None}
    run = infl.tl.fit_federated(sites, key=up.key, engine=engine(up), min_sites=2, **OPTIONS)
    here = {site: adata.copy() for site, adata in up.data.items()}
    again = {"seal": "pairwise", "seed": run.settings["seed"]}  # the defaults of an engine
    same = infl.tl.fit_federated(here, key=up.key, min_sites=2, **again, **OPTIONS)
    np.testing.assert_allclose(mine.obsm["X_infl"], here["site_1"].obsm["X_infl"], atol=1e-5)
    assert (mine.obs["infl_prediction"] == here["site_1"].obs["infl_prediction"]).all()
    shared = [c for c in same.history if c != "bytes_sent"]
    pd.testing.assert_frame_equal(run.history[shared], same.history[shared], atol=1e-5, check_dtype=False)
    assert set(run.ledger["site"]) == {"site_1"}
    assert run.ledger["sealed"].all()
    assert {**run.settings, "run": "", "salt": ""} == {**same.settings, "run": "", "salt": ""}
    assert mine.uns["infl"]["history"]["round"].tolist() == [1, 2, 3]
    assert run.summary().splitlines()[0] == same.summary().splitlines()[0]


@pytest.mark.long
def test_a_site_that_declines_is_one_line_in_the_notebook(up: LocalConsortium) -> None:
    policy = up.root / "site_2" / "policy.toml"
    kept = policy.read_text()
    policy.write_text(f"{kept}max_rounds = 2\n")
    sites: dict[str, AnnData | None] = {"site_1": up.data["site_1"].copy(), "site_2": None, "site_3": None}
    try:
        with pytest.raises(FederationError, match=f"site_2: {DECLINED}"):
            infl.tl.fit_federated(sites, key=up.key, engine=engine(up), min_sites=2, **OPTIONS)
        assert "its policy does not accept 3 rounds (at most 2)" in up.site_folder("site_2").log.events()[-1]
    finally:
        policy.write_text(kept)
    assert sites["site_1"] is not None
    assert "infl" not in sites["site_1"].uns


def test_what_a_notebook_gets_wrong(network: LocalConsortium, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no admin kit"):
        infl.engines.flare(tmp_path, site=tmp_path)
    with pytest.raises(FileError, match="no enrolled site's folder"):
        infl.engines.flare(network.coordinator / "admin", site=tmp_path)
    fit = infl.tl.fit_federated
    with pytest.raises(KeyringError, match="engine= needs key="):
        fit(["site_1"], target="label", engine=engine(network))
    with pytest.raises(DataError, match="give this site's data"):
        fit(["site_1"], target="label", key=network.key, engine=engine(network))
    with pytest.raises(DataError, match="enrolled sites' names"):
        fit(network.data["site_1"], target="label", key=network.key, engine=engine(network))
    with pytest.raises(SettingsError, match="go without engine="):
        fit(["site_1"], target="label", key=network.key, engine=engine(network), checkpoint=tmp_path)
