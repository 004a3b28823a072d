"""The model file: what it gives away, and what it refuses."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import infl
from infl.errors import FileError, KeyringError, SettingsError
from infl.federation.run import FederatedRun
from infl.keys import Keyring
from infl.models.locked import lock_model


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


def test_the_lock_of_a_runs_model_is_calibrated_in_place(khan_sites) -> None:
    run = infl.tl.fit_federated(khan_sites, target="tumour_class", progress=False)
    strength = infl.tl.calibrate_lock(run, khan_sites, no_key=0.7)
    assert run.model.header.strength == strength < 1


@pytest.mark.parametrize("part", ["units", "build"])
def test_a_model_of_a_version_with_other_weights_says_so(
    run: FederatedRun, khan_sites, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """As a later version would find it, whose task has a feature more, or another width."""
    task = type(run.model.header.build_task())
    before = getattr(task, part)
    later = {
        "units": lambda self, panel: before(self, {**panel, "features": [*panel["features"], "one more"]}),
        "build": lambda self, panel: before(dataclasses.replace(self, width=self.width + 1), panel),
    }
    assert run.model.module(run.key)
    monkeypatch.setattr(task, part, later[part])
    with pytest.raises(FileError, match="use the version that fitted it, or fit it again"):
        infl.tl.predict(khan_sites["site_1"], run.model, key=run.key)
