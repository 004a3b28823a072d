"""The header of a model file: its format is named, and what it says of the lock is so."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import infl
from infl.errors import FileError, KeyringError
from infl.federation.run import FederatedRun
from infl.keys import Keyring
from infl.models.locked import LockedModel, lock_model
from infl.models.locked.header import digest_of


@pytest.mark.parametrize(("number", "age"), [(0, "older"), (99, "newer")])
def test_other_format_is_named(run: FederatedRun, tmp_path: Path, number: int, age: str) -> None:
    header = dataclasses.replace(run.model.header, format=number, digest="")
    header = dataclasses.replace(header, digest=digest_of(header, run.model.stored))
    model = dataclasses.replace(run.model, header=header)
    with pytest.raises(FileError, match=f"{age} model format {number}"):
        infl.load_model(model.save(tmp_path / "m.safetensors"))


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
