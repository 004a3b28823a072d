"""Curves of a run at a site are its history."""

from pathlib import Path

import pytest
from anndata import AnnData

from infl.deploy.curves import Curves, require_tensorboard
from infl.errors import MissingExtraError
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Coordinator
from infl.federation.local import LocalTransport
from infl.federation.replica import Replica
from infl.federation.site import Site
from infl.keys import Keyring
from infl.models import Classifier

ROUNDS = 4


def read(folder: Path) -> dict[str, dict[int, float]]:
    """Return the values of each curve by round."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder))
    events.Reload()
    return {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_curves_are_the_history_of_the_run_also_after_a_new_start(
    small_sites: dict[str, AnnData], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    task, key = Classifier(target="label", width=8, n_blocks=1), Keyring.create()
    agreement = Agreement.new(task, task.agree(small_sites), small_sites, key, rounds=ROUNDS)
    replica = Replica(agreement, key, task)
    sites = {name: Site(name, adata, replica) for name, adata in small_sites.items()}
    one, curves = next(iter(sites.values())), Curves(tmp_path)
    for exchange in Coordinator(agreement, replica.programme.exchanges, LocalTransport(sites)).run():
        curves.write(one)
        if exchange.round == 2:  # the site's process is killed, and another one goes on
            curves = Curves(tmp_path)
    curves.write(one)
    curves.close()
    [folder] = tmp_path.iterdir()
    found = read(folder)
    names = {name for row in replica.rows for name in row}
    assert {*found} == names > {"loss", "n_sites"}
    for name in names:
        expected = {i: row[name] for i, row in enumerate(replica.rows, 1) if name in row}
        assert found[name] == pytest.approx(expected, rel=1e-6, nan_ok=True), name
    assert len(found["loss"]) == ROUNDS


def test_a_folder_that_cannot_be_written_costs_curves_and_not_the_run(
    small_sites: dict[str, AnnData], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    task, key = Classifier(target="label", width=8, n_blocks=1), Keyring.create()
    agreement = Agreement.new(task, task.agree(small_sites), small_sites, key, rounds=1)
    replica = Replica(agreement, key, task)
    sites = {name: Site(name, adata, replica) for name, adata in small_sites.items()}
    list(Coordinator(agreement, replica.programme.exchanges, LocalTransport(sites)).run())
    (tmp_path / "file").touch()
    curves = Curves(tmp_path / "file")
    curves.write(next(iter(sites.values())))
    assert curves.folder is None


def test_without_tensorboard_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infl.deploy.curves.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'infl\[curves\]'"):
        require_tensorboard()
