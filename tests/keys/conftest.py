"""A configuration folder of one's own for every test, so that nobody's identity is used or made."""

from pathlib import Path

import pytest

import infl
from infl.keys import Identity, Keyring


@pytest.fixture(autouse=True)
def own_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's own identity is; there is none yet."""
    path = tmp_path / "config" / "identity.key"
    monkeypatch.setattr(infl.settings, "identity", path)
    return path


@pytest.fixture
def me() -> Identity:
    return Identity.create()


@pytest.fixture
def ring() -> Keyring:
    return Keyring.create()
