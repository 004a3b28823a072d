"""TOML files that no editor would save, in one line."""

from pathlib import Path

import pytest

from infl.deploy.toml import read_checked
from infl.errors import SettingsError


def test_what_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes('name = "a"\nmodel = "Universität"\n'.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"run\.toml, line 2: TOML is UTF-8"):
        read_checked(tmp_path / "run.toml", lambda raw: raw)


def test_utf8_is_read_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale=True: "ascii")
    (tmp_path / "run.toml").write_bytes('name = "Universität"\n'.encode())
    assert read_checked(tmp_path / "run.toml", lambda raw: raw) == {"name": "Universität"}


def test_tables_that_lie_too_deep(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("x = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(SettingsError, match="too deep"):
        read_checked(tmp_path / "run.toml", lambda raw: raw)
