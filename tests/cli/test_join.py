"""A hospital becomes a member in two commands."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import infl
from infl.cli.app import app
from infl.deploy.flare.local_consortium import free_port
from infl.errors import FederationError, FileError, SettingsError
from infl.keys import Keyring


def typed(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.slow
def test_two_commands_and_each_may_be_typed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INFL_KEY_PASSPHRASE", raising=False)
    monkeypatch.setattr(infl.settings, "identity", tmp_path / "identity.key")
    Path("consortium.toml").write_text(f'name = "tumours"\nhost = "localhost"\nport = {free_port()}\n')
    fingerprint = typed("coordinator", "init", "consortium.toml").stdout.splitlines()[-1]
    assert "consortium.toml" in str(typed("site", "join", "b", "--consortium", "nowhere/consortium.toml").exception)
    first = typed("site", "join", "hospital_b")
    assert first.exit_code == 0, first.exception
    assert "tell this fingerprint by telephone" in first.stdout and "send it to the key holder" in first.stdout
    request, public = Path("hospital_b/hospital_b.request.zip"), Path("hospital_b.pub")
    before = request.read_bytes(), public.read_bytes(), Path("identity.key").read_bytes()
    assert "if you have not yet" in typed("site", "join", "hospital_b").stdout
    assert (request.read_bytes(), public.read_bytes(), Path("identity.key").read_bytes()) == before
    assert typed("coordinator", "approve", request, "--yes").exit_code == 0
    signed = ("--signed", "coordinator/hospital_b.signed.zip")
    holder = Keyring.create()
    holder.grant("hospital_b", public)
    holder.granted("hospital_b").save("granted.key")
    assert type(typed("site", "join", "hospital_b", *signed).exception) is SettingsError
    wrong = typed("site", "join", "hospital_b", *signed, "--fingerprint", "0" * 64).exception
    assert type(wrong) is FederationError and not Path("hospital_b/kit").exists()
    second = ("site", "join", "hospital_b", *signed, "--fingerprint", fingerprint, "--grant", "granted.key")
    done = typed(*second)
    assert done.exit_code == 0, done.exception
    assert Path("hospital_b/kit/startup").is_dir()
    assert Keyring.load("site.key", Path("identity.key")).fingerprint() == holder.fingerprint()
    assert "nothing new" in typed(*second).stdout
    assert type(typed("site", "join", "hospital_b", "--grant", "nowhere.key").exception) is FileError
