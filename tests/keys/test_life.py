"""The life of a key as a consortium lives it: grant, rotate, revoke, relock; who opens what."""

from pathlib import Path

import numpy as np
import pytest

import infl
from infl.errors import KeyringError
from infl.keys import Identity, Keyring


def test_revoked_site_opens_the_old_model_and_not_the_new_one(khan_sites: dict, tmp_path: Path) -> None:
    holder = Keyring.create()
    rings = {name: holder.grant(name, Identity.create()) for name in ("a", "b", "c")}
    run = infl.tl.fit_federated(khan_sites, target="tumour_class", key=holder, rounds=2, progress=False)
    old = infl.load_model(run.save(tmp_path / "old.safetensors"))
    expected = khan_sites["site_1"].obsm["X_infl"]

    version = holder.revoke("b")
    new = old.relock(holder)
    holder.record_relock("new.safetensors", version)
    for name in ("a", "c"):
        rings[name].accept(holder.granted(name))

    for name in ("a", "b", "c"):
        infl.tl.embed(khan_sites["site_1"], old, key=rings[name])
        np.testing.assert_allclose(khan_sites["site_1"].obsm["X_infl"], expected, rtol=1e-3, atol=1e-4)
    for name in ("a", "c"):
        infl.tl.embed(khan_sites["site_1"], new, key=rings[name])
        np.testing.assert_allclose(khan_sites["site_1"].obsm["X_infl"], expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(KeyringError, match="version 2"):
        infl.tl.embed(khan_sites["site_1"], new, key=rings["b"])
    actions = holder.trail.to_frame()["action"].tolist()
    assert actions[-1] == "relock"
    assert "revoke" in actions
