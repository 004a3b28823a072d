"""The files in `deploy/` call commands that exist, with options that they have."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from infl.cli.app import app
from infl.errors import FederationError, FileError, NoRoomError, SettingsError, UnreachableError

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
UNITS = {path.name: path.read_text() for path in sorted((DEPLOY / "systemd").iterdir())}


def commands() -> dict[str, str]:
    found = {name: service["command"] for name, service in COMPOSE.items()}
    for name, text in UNITS.items():
        found[name] = re.findall(r"^ExecStart=\S+/infl (.*)$", text, re.MULTILINE)[0]
    return found


@pytest.mark.parametrize(("name", "command"), commands().items())
def test_commands_exist(name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the participant's own files is missing."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shlex.split(command))
    assert isinstance(done.exception, FileError), done.output
    assert re.search("run.toml|no site's folder|cohort", str(done.exception))
    assert not list(tmp_path.iterdir())


def test_containers_are_confined() -> None:
    assert set(COMPOSE) == {"coordinator", "site_1", "site_2", "site_3"}
    for name, service in COMPOSE.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert name == "coordinator" or any(volume.endswith("/data:ro") for volume in service["volumes"])
    assert COMPOSE["coordinator"]["stop_grace_period"] == "10m"  # a round may take minutes
    assert "USER infl" in (DEPLOY / "Containerfile").read_text()


@pytest.mark.parametrize("name", UNITS)
def test_units_are_confined(name: str) -> None:
    for line in ("User=infl", "ProtectSystem=strict", "NoNewPrivileges=true", "ReadWritePaths=/var/lib/infl"):
        assert f"{line}\n" in UNITS[name]


@pytest.mark.parametrize("name", UNITS)
def test_units_start_again_what_can_work_then(name: str) -> None:
    """And leave alone what a person must look at; the page has the same codes."""
    lines = dict(line.split("=", 1) for line in UNITS[name].splitlines() if "=" in line and line[0] != "#")
    assert (lines["KillMode"], lines["Restart"]) == ("mixed", "on-failure")
    left = {int(code) for code in lines["RestartPreventExitStatus"].split()}
    assert left == {SettingsError.exit_code, FederationError.exit_code, 130}
    page = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| .* \| (.*) \|$", page.split("## Exit codes")[1], re.MULTILINE))
    assert {code for code, then in rows.items() if then.startswith("start again")} == {"1", "4", "5"}
    assert {int(code) for code in rows} >= {0, *left, UnreachableError.exit_code, NoRoomError.exit_code}
