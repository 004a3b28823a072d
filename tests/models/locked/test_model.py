"""The model file: what it gives away, and what it refuses."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import infl
from infl.errors import FileError, InflError, KeyringError, SettingsError
from infl.federation.run import FederatedRun
from infl.keys import Identity, Keyring
from infl.models.locked import LockedModel, lock_model
from infl.models.locked.header import digest_of


@pytest.fixture(scope="module")
def run() -> FederatedRun:
    return infl.tl.fit_federated(infl.datasets.khan_sites(), target="tumour_class", rounds=3, progress=False)


def test_file_gives_back_the_model(run: FederatedRun, tmp_path: Path) -> None:
    path = run.save(tmp_path / "model.infl.safetensors")
    loaded = infl.load_model(path)
    assert loaded.header == run.model.header
    for name, tensor in run.model.effective(run.key).items():
        torch.testing.assert_close(loaded.effective(run.key)[name], tensor, rtol=0, atol=0)
    for name, value in run.model.private_arrays(run.key).items():
        np.testing.assert_array_equal(loaded.private_arrays(run.key)[name], value)


def test_relocking_keeps_the_function_and_closes_the_old_key(run: FederatedRun) -> None:
    ring = run.key
    new = ring.rotate()
    again = run.model.relock(ring, version=new)
    assert again.header.key_version == new
    assert again.header.salts == run.model.header.salts
    for name, tensor in again.stored.items():
        assert not torch.allclose(tensor, run.model.stored[name], atol=1e-2), name
    for name, tensor in run.model.effective(ring).items():
        torch.testing.assert_close(again.effective(ring)[name], tensor, rtol=1e-5, atol=1e-6)
    assert run.model.effective(ring)["head.bias"].isfinite().all()  # the old version still opens the old file


def test_file_shows_no_number_learned_from_data(run: FederatedRun, tmp_path: Path) -> None:
    content = run.save(tmp_path / "m.safetensors").read_bytes()
    private = run.model.private_arrays(run.key)
    assert {"center", "scale", "class_counts", "temperature"} <= set(private)
    for value in private.values():
        for kind in (np.float64, np.float32):
            assert np.asarray(value, dtype=kind).ravel()[:2].tobytes() not in content or not np.any(value)
    shown = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["infl"]
    for secret in (run.key.subkey("lock"), run.key.subkey("file")):
        assert secret.hex() not in shown
        assert secret not in content


def test_wrong_key_is_refused_by_fingerprint_before_anything_is_computed(
    run: FederatedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infl.nn.lock.Field.unlock", lambda *a, **k: pytest.fail("computed"))
    other = Keyring.create()
    with pytest.raises(KeyringError) as error:
        run.model.module(other)
    assert run.model.header.fingerprint in str(error.value)
    assert other.fingerprint() in str(error.value)


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


@pytest.mark.parametrize(("number", "age"), [(0, "older"), (99, "newer")])
def test_other_format_is_named(run: FederatedRun, tmp_path: Path, number: int, age: str) -> None:
    header = dataclasses.replace(run.model.header, format=number, digest="")
    header = dataclasses.replace(header, digest=digest_of(header, run.model.stored))
    model = dataclasses.replace(run.model, header=header)
    with pytest.raises(FileError, match=f"{age} model format {number}"):
        infl.load_model(model.save(tmp_path / "m.safetensors"))


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


def test_repr_and_html_name_the_fingerprint_only(run: FederatedRun) -> None:
    for text in (repr(run.model), run.model._repr_html_(), repr(run), run._repr_html_()):
        assert run.model.header.fingerprint in text
        assert run.key.subkey("lock").hex() not in text


def test_strength_out_of_range_and_model_without_lock(run: FederatedRun) -> None:
    with pytest.raises(SettingsError, match="strength=1.5"):
        run.model.relock(run.key, strength=1.5)
    header = dataclasses.replace(run.model.header, lock="none", fingerprint="", key_version=0)
    plain = lock_model(header, run.model.effective(run.key), {}, None)
    with pytest.raises(SettingsError, match="lock='field'"):
        plain.relock(run.key)
    with pytest.raises(KeyringError, match="no lock"):
        plain.module(run.key)


def test_a_header_that_says_locked_has_locked_weights(run: FederatedRun, tmp_path: Path) -> None:
    h, weights = run.model.header, run.model.effective(run.key)
    with pytest.raises(KeyringError, match="without that key nothing can be locked"):
        lock_model(h, weights, {}, None)
    with pytest.raises(KeyringError, match="wrong key"):
        lock_model(h, weights, {}, Keyring.create())
    plain = lock_model(
        dataclasses.replace(h, lock="none", fingerprint="", key_version=0), weights, {"center": np.ones(2)}, None
    )
    with pytest.raises(KeyringError, match="its private arrays are in the clear"):
        LockedModel(h, run.model.stored, plain.private)
    with pytest.raises(KeyringError, match="is of no model"):
        LockedModel(dataclasses.replace(h, fingerprint=""), weights, plain.private)
    bare = LockedModel(h, weights, run.model.private)
    with pytest.raises(FileError, match="changed after the model was locked"):
        bare.save(tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()
    moved = lock_model(h, weights, {}, run.key)
    moved.stored = weights
    with pytest.raises(FileError, match="nothing was written"):
        moved.save(tmp_path / "m.safetensors")


def test_the_lock_of_a_runs_model_is_calibrated_in_place(khan_sites) -> None:
    run = infl.tl.fit_federated(khan_sites, target="tumour_class", progress=False)
    strength = infl.tl.calibrate_lock(run, khan_sites, no_key=0.7)
    assert run.model.header.strength == strength < 1
