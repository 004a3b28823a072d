"""A run that was killed goes on with the same bits, and only with the data and settings that it had."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from tests.federation.conftest import OPTIONS, fit

import infl
from infl.errors import DataError, FederationError, FileError, InflWarning, SettingsError
from infl.federation.messages import Plan
from infl.federation.site import Site
from infl.keys import Keyring

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")


def latents(sites: dict[str, AnnData]) -> np.ndarray:
    """What a fit wrote: computed with the exact weights, before the lock's rounding under a salt of its own."""
    return np.concatenate([a.obsm["X_infl"] for a in sites.values()])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", range(9))
def test_resume_after_any_exchange_gives_the_same_bits(
    small_sites: dict[str, AnnData], tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the sites' file of an exchange was written and before the coordinator's, or right after both."""
    from infl.federation.checkpoint import Checkpoint

    key = Keyring.create()
    whole = infl.tl.fit_federated(small_sites, key=key, **OPTIONS)
    expected = latents(small_sites)
    calls = iter(range(100))
    write = Checkpoint.save_progress

    def dying(self: Checkpoint, progress: object) -> None:
        number = next(calls)
        if number == moment and moment % 2:
            raise Killed
        write(self, progress)
        if number == moment:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoint, "save_progress", dying)
        fit(small_sites, key=key, checkpoint=tmp_path / "run", resume=True)
    resumed = infl.tl.fit_federated(small_sites, key=key, checkpoint=tmp_path / "run", resume=True, **OPTIONS)
    np.testing.assert_array_equal(latents(small_sites), expected)
    columns = list(whole.history)
    np.testing.assert_array_equal(resumed.history[columns], whole.history[columns])


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from conftest import make_sites
import infl, os, signal
from infl.federation.site import Site
from infl.keys import Keyring
train, ring = Site._compute, Keyring.load({ring!r}, passphrase="test")
def dying(self, plan):
    if plan.round == {round} and self.name == "site_3":
        os.kill(os.getpid(), signal.SIGKILL)
    return train(self, plan)
Site._compute = dying
infl.tl.fit_federated(make_sites(), key=ring, checkpoint={checkpoint!r}, resume=True, **{options!r})
"""


@pytest.mark.parametrize("round", [pytest.param(1, marks=pytest.mark.long), 3])
def test_resume_after_kill_9_in_the_middle_of_a_round(
    small_sites: dict[str, AnnData], tmp_path: Path, round: int, monkeypatch: pytest.MonkeyPatch, age_by_hand: Any
) -> None:
    monkeypatch.setattr("infl.keys.age.encrypt_under", age_by_hand)
    key = Keyring.create()
    key.save(tmp_path / "ring.key", passphrase="test")
    script = SCRIPT.format(
        folder=str(Path(__file__).parent),
        ring=str(tmp_path / "ring.key"),
        checkpoint=str(tmp_path / "run"),
        round=round,
        options=OPTIONS,
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    infl.tl.fit_federated(small_sites, key=key, checkpoint=tmp_path / "run", resume=True, **OPTIONS)
    resumed = latents(small_sites)
    infl.tl.fit_federated(small_sites, key=key, **OPTIONS)
    np.testing.assert_array_equal(resumed, latents(small_sites))


def test_a_finished_run_resumes_to_the_very_same_model(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    key = Keyring.create()
    first, again = (fit(small_sites, key=key, checkpoint=tmp_path, resume=True).model for _ in range(2))
    assert first.header == again.header
    assert all(torch.equal(first.stored[name], again.stored[name]) for name in first.stored)


def test_resume_with_other_settings_is_refused(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    key = Keyring.create()
    fit(small_sites, key=key, checkpoint=tmp_path)
    with pytest.raises(FileError, match="resume=True"):
        fit(small_sites, key=key, checkpoint=tmp_path)
    with pytest.raises(SettingsError, match=r"rounds differs \(was 4, now 5\)"):
        fit(small_sites, key=key, checkpoint=tmp_path, resume=True, rounds=5)
    with pytest.raises(SettingsError, match=r"option lr differs \(was [\d.]+, now 0.5\)"):
        fit(small_sites, key=key, checkpoint=tmp_path, resume=True, lr=0.5)
    with pytest.raises(SettingsError, match="fingerprint differs"):
        fit(small_sites, key=Keyring.create(), checkpoint=tmp_path, resume=True)


def test_damaged_checkpoint_is_named(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    key = Keyring.create()
    fit(small_sites, key=key, checkpoint=tmp_path)
    content = bytearray((tmp_path / "sites.checkpoint").read_bytes())
    content[100] ^= 1
    (tmp_path / "sites.checkpoint").write_bytes(content)
    with pytest.raises(FileError, match=r"sites\.checkpoint"):
        fit(small_sites, key=key, checkpoint=tmp_path, resume=True)


def test_ctrl_c_ends_the_round_and_says_how_to_go_on(
    small_sites: dict[str, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    train, key = Site._compute, Keyring.create()

    def interrupting(self: Site, plan: Plan):
        if plan.round == 2 and self.name == "site_1":
            os.kill(os.getpid(), signal.SIGINT)
        return train(self, plan)

    monkeypatch.setattr(Site, "_compute", interrupting)
    with pytest.raises(FederationError, match=r"checkpoint=.*resume=True"):
        fit(small_sites, key=key, checkpoint=tmp_path)
    monkeypatch.setattr(Site, "_compute", train)
    done = json.loads(json.dumps(fit(small_sites, key=key, checkpoint=tmp_path, resume=True).settings))
    assert done["rounds"] == 4
    with pytest.raises(FederationError, match="nothing was kept"), monkeypatch.context() as patch:
        patch.setattr(Site, "_compute", interrupting)
        fit(small_sites, key=key)


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize("change", ["values", "labels", "order", "observations"])
def test_a_run_does_not_go_on_with_other_data(khan_sites, tmp_path, change, with_key):
    options = {"target": "tumour_class", "rounds": 1, "progress": False, "checkpoint": tmp_path, "resume": True}
    options |= {"key": Keyring.create()} if with_key else {"lock": None, "seal": "none"}
    warnings.simplefilter("ignore", InflWarning)
    infl.tl.fit_federated({name: a.copy() for name, a in khan_sites.items()}, **options)
    other = {name: a.copy() for name, a in khan_sites.items()}
    mended = other["site_3"]
    if change == "values":
        mended.X[3, 7] += 1
    elif change == "labels":
        labels = mended.obs["tumour_class"].astype(str)
        a, b = labels.iloc[0], next(label for label in labels if label != labels.iloc[0])
        mended.obs["tumour_class"] = labels.replace({a: b, b: a}).astype("category")
    elif change == "order":
        other["site_3"] = mended[::-1].copy()
    else:
        other["site_3"] = mended[:-1].copy()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=r"cannot resume .*: site_3 has other data"):
        infl.tl.fit_federated(other, **options)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "infl_prediction" not in other["site_1"].obs
    for name, adata in khan_sites.items():  # the same values, however they are stored
        adata.X = sparse.csc_matrix(adata.X) if name == "site_2" else np.asfortranarray(adata.X)
    infl.tl.fit_federated(khan_sites, **options)


def test_a_digest_of_data_tells_nothing_without_the_secret():
    from infl.federation.digest import data_digest

    data = {"labels": np.array([0, 1, 1])}
    assert data_digest(data, b"one run") != data_digest(data, b"another run")
    assert data_digest(data, b"one run") == data_digest({"labels": np.array([0, 1, 1])}, b"one run")


def test_a_checkpoint_without_digests_is_taken_with_a_warning(khan_sites, tmp_path, monkeypatch):
    from infl.federation.checkpoint import Checkpoint

    options = {"target": "tumour_class", "rounds": 1, "progress": False, "checkpoint": tmp_path, "resume": True}
    options["key"] = Keyring.create()
    monkeypatch.setattr(Checkpoint, "note_data", lambda *args: None)
    infl.tl.fit_federated(khan_sites, **options)
    monkeypatch.undo()
    with pytest.warns(InflWarning, match="cannot be checked"):
        infl.tl.fit_federated(khan_sites, **options)
