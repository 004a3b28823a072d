"""FLARE's own command in a process that stays."""

import os
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from infl.deploy.flare import commands
from infl.deploy.flare.commands import nvflare
from infl.errors import FederationError


def test_each_command_begins_anew_where_the_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        (tmp_path / name / "profile.yml").write_text(
            '{"name": "con", "scheme": "tcp", "server": {"host": "localhost"}}'
        )
        nvflare(tmp_path / name, "cert", "init", "--profile", "profile.yml", "-o", "ca")
        with pytest.raises(FederationError, match="^nvflare cert inity: ") as error:
            nvflare(tmp_path / name, "cert", "inity")
        assert "\n" not in str(error.value)
    assert Path.cwd() == tmp_path / "b"
    first, second = ((tmp_path / name / "ca" / "rootCA.key").read_bytes() for name in ("a", "b"))
    assert first != second  # forks of one process draw keys of their own


def test_a_process_that_is_gone_is_one_line_and_the_next_call_starts_another(tmp_path: Path) -> None:
    process = commands._process(os.getpid())
    process.kill()
    process.wait()
    with pytest.raises(FederationError, match="nvflare could not be started"):
        nvflare(tmp_path, "cert", "init")
    with pytest.raises(FederationError, match="^nvflare cert init: "):
        nvflare(tmp_path, "cert", "init")
    assert commands._process(os.getpid()) is not process
