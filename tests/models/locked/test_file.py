"""The file of a model: whole or refused, never overwritten, never half written."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import infl
from infl.errors import FileError, InflError, KeyringError
from infl.federation.run import FederatedRun
from infl.keys import Identity


def test_file_gives_back_the_model(run: FederatedRun, tmp_path: Path) -> None:
    path = run.save(tmp_path / "model.infl.safetensors")
    loaded = infl.load_model(path)
    assert loaded.header == run.model.header
    for name, tensor in run.model.effective(run.key).items():
        torch.testing.assert_close(loaded.effective(run.key)[name], tensor, rtol=0, atol=0)
    for name, value in run.model.private_arrays(run.key).items():
        np.testing.assert_array_equal(loaded.private_arrays(run.key)[name], value)


@pytest.mark.parametrize("where", [0.001, 0.3, 0.9, 0.999])
def test_altered_file_is_refused(run: FederatedRun, tmp_path: Path, where: float) -> None:
    path = run.save(tmp_path / "m.safetensors")
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 4
    path.write_bytes(content)
    with pytest.raises(FileError):
        infl.load_model(path).private_arrays(run.key)


@pytest.mark.parametrize("length", [0, 5, 8, 500, 30_000, -1])
def test_truncated_file_is_refused(run: FederatedRun, tmp_path: Path, length: int) -> None:
    path = run.save(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileError, match=r"m\.safetensors"):
        infl.load_model(path)


def test_existing_file_is_kept(run: FederatedRun, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("mine")
    with pytest.raises(FileError, match="exists"):
        run.save(path)
    assert path.read_text() == "mine"
    run.save(path, overwrite=True)
    assert infl.load_model(path).header == run.model.header


def test_full_disk_leaves_nothing_behind(run: FederatedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(FileError, match="No space left"):
        run.save(tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_whole_file_for_recipients(run: FederatedRun, tmp_path: Path) -> None:
    me, other = Identity.create(), Identity.create()
    me.save(tmp_path / "me")
    other.save(tmp_path / "other")
    path = run.save(tmp_path / "m.age", recipients=[me.public])
    assert b"classifier" not in path.read_bytes()
    assert infl.load_model(path, identity=tmp_path / "me").header == run.model.header
    with pytest.raises(FileError, match="encrypted with age"):
        infl.load_model(path)
    with pytest.raises(KeyringError, match="not made for the identity"):
        infl.load_model(path, identity=tmp_path / "other")
    with pytest.raises(InflError, match="nobody"):
        run.save(tmp_path / "n.age", recipients=["nobody"])
    assert not (tmp_path / "n.age").exists()
