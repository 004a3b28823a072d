"""What is said of a run whose processes may be gone."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import infl
from infl.cli.app import app
from infl.deploy.attempt import REQUEST_STOP, Status
from infl.deploy.condition import STALE, condition
from infl.deploy.folders import alone, holder
from infl.deploy.study.attempt import StudyFolder
from infl.deploy.study.specification import Step, Study
from infl.errors import FederationError, FileError

ROW = {"up": True, "silent": 0.1, "trouble": "", "in": 1_000_000, "out": 0}
RUNNING = Status("running", 18, 150, sites={"hospital_a": ROW}, attempts=2, updated=1000.0, since=900.0)


@pytest.fixture
def run(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path / "coordinator" / "runs" / "tumours")
    folder.begin(Study.new("tumours", ["a", "b", "c"], [Step.read("pp.log1p", {})], 1, "abcd"))
    folder.save_status(RUNNING)
    return folder


def said(run: StudyFolder, now: float = 1001.0, **changes: Any) -> str:
    run.save_status(replace(RUNNING, **changes))
    return condition(run, now=now).words


def home_of(run: StudyFolder) -> Path:
    return run.folder.parent.parent


def test_running_is_said_while_processes_and_heartbeat_say_so(run: StudyFolder) -> None:
    with alone(home_of(run), doing="tumours"):
        assert said(run) == "running, step 18 of 150, attempt 2" and condition(run, now=1001).fresh
        assert said(run, 1001 + STALE).endswith(": its job does not answer, last heard of 31 s ago")
        assert not condition(run, now=1001 + STALE).fresh
        waiting = {"state": "ended", "waits": "for sites: b"}
        assert said(run, 8100, **waiting) == "waits for sites: b; for 2 h, step 18 of 150, attempt 2"
    with alone(home_of(run), doing="another"):
        assert said(run) == "running, step 18 of 150, attempt 2"  # asked for from a notebook
        assert "no process works for it, last heard of 31 s ago" in said(run, 1001 + STALE)


def test_without_a_process_nothing_is_up(run: StudyFolder) -> None:
    """Also where the status was written a moment ago."""
    assert "not running, step 18 of 150, attempt 2: no process works for it, last heard of 1 s ago" in said(run)
    assert not condition(run, now=1001).fresh
    run.request(REQUEST_STOP)
    assert "`infl study resume tumours` goes on" in said(run) and condition(run).over
    assert said(run, state="finished") == "finished, step 18 of 150, attempt 2"


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from infl.deploy.folders import alone\n"
        "with alone(Path(sys.argv[1]), doing='tumours'): print('here', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None and child.stdin is not None
    with child, child.stdout, child.stdin:
        assert child.stdout.readline() == "here\n"
        assert holder(tmp_path) == "tumours"
        with pytest.raises(FileError, match="in use by another process"), alone(tmp_path, wait=0):
            pass
        assert holder(tmp_path) == "tumours"  # who did not get it left it as it was
        child.kill()
        while json.loads((tmp_path / "lock").read_text())["pid"] == child.pid and child.poll() is None:
            pass
        assert holder(tmp_path) is None and (tmp_path / "lock").read_text()
    with alone(tmp_path, wait=0):
        assert holder(tmp_path) == ""
    assert holder(tmp_path) is None


@pytest.mark.parametrize("content", ["", "x", "[]", '{"pid": 1}', '{"pid": "x", "began": 0, "doing": ""}', "null"])
def test_a_lock_of_another_make_is_nobodys(content: str, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(content)
    assert holder(tmp_path) is None
    assert holder(tmp_path / "nowhere") is None


def test_commands_say_it(run: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home_of(run).parent)
    printed = CliRunner().invoke(app, ["study", "status", "tumours"]).stdout
    assert printed.startswith("not running, step 18") and "hospital_a               ?     1.00 MB in" in printed
    with alone(home_of(run), doing="tumours"):
        run.save_status(RUNNING.now())
        printed = CliRunner().invoke(app, ["study", "status", "tumours"]).stdout
        assert printed.startswith("running, step 18") and "hospital_a               up" in printed
        assert "ends after this step" in CliRunner().invoke(app, ["study", "stop", "tumours"]).stdout
    assert CliRunner().invoke(app, ["study", "watch", "tumours"]).stdout.startswith("stopped, step 18")
    stopped = CliRunner().invoke(app, ["study", "stop", "tumours"]).stdout
    assert stopped == "tumours: stays so until `infl study resume tumours`\n"


def test_another_version_does_not_go_on_with_it(run: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.check_version()
    run.check_version()
    monkeypatch.setattr("infl.deploy.attempt.__version__", "99.1")
    with pytest.raises(
        FederationError, match=rf"begun with infl {re.escape(infl.__version__)}, and here is 99\.1: install infl=="
    ):
        run.check_version()


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"seconds": [], "lacking": [], "colour": 1}'])
def test_a_damaged_status_is_one_line(content: str, run: StudyFolder) -> None:
    (run.folder / "status.json").write_text(content)
    with pytest.raises(FileError, match=r"status\.json is damaged: remove it, the study goes on by its other files"):
        _ = run.status
