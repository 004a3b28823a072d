"""Runs at the coordinator: listed, and removed when they are over."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infl.cli.app import app
from infl.deploy.attempt import Status
from infl.deploy.flare.consortium import Consortium
from infl.deploy.flare.enrolment import Entry, write_register
from infl.deploy.flare.kits import members
from infl.deploy.folders import alone
from infl.deploy.study.attempt import StudyFolder
from infl.deploy.study.specification import Step, Study
from infl.errors import FederationError, FileError

DAY = 86_400


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "coordinator"
    home.mkdir()
    (home / "consortium.json").write_text(json.dumps(asdict(Consortium("tumours", "localhost"))))
    for name, state in (("first", "finished"), ("second", "running"), ("third", "stopped")):
        folder = StudyFolder(home / "runs" / name)
        folder.begin(Study.new(name, ["a", "b", "c"], [Step.read("pp.log1p", {})], 1, "abcd"))
        folder.save_status(Status(rounds=4, round=2, attempts=1).now(state=state))
    (home / "runs" / "no_run").mkdir()
    return home


def typed(*words: str, answer: str = "") -> str:
    done = CliRunner().invoke(app, words, input=answer)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_all_are_listed_with_what_is_true_of_them(home: Path) -> None:
    with alone(home, doing="second"):
        lines = typed("run", "list").splitlines()
    assert [line.split()[0] for line in lines] == ["first", "second", "third"]
    assert "study  finished, step 2 of 4, attempt 1" in lines[0] and "study  running, step 2" in lines[1]
    assert "not running" in typed("run", "list").splitlines()[1]
    with pytest.raises(FileError, match=r"nowhere/consortium\.json"):
        typed("run", "list", "--home", "nowhere")


def test_what_is_over_is_removed_after_a_yes(home: Path) -> None:
    def left() -> list[str]:
        return sorted(path.name for path in (home / "runs").glob("*/study.json") for path in [path.parent])

    with pytest.raises(FileError, match="no run 'fourth' at coordinator: see `infl run list`"):
        typed("run", "prune", "third", "fourth", "--yes")
    with (
        alone(home, doing="second"),
        pytest.raises(FederationError, match="second is under way: `infl run stop second`"),
    ):
        typed("run", "prune", "second", "--yes")
    typed("run", "prune", answer="n\n")
    assert left() == ["first", "second", "third"]
    assert "first: removed" in typed("run", "prune", answer="y\n")
    assert left() == ["second", "third"]
    assert typed("run", "prune", "--yes") == ""  # what is not finished is removed only by name
    assert typed("run", "prune", "third", "second", "--yes").split() == ["third:", "removed", "second:", "removed"]


def test_who_is_enrolled(home: Path) -> None:
    old, now = Entry("a", "1a2b 3c4d", "x", until=10.0 * DAY), 100.0 * DAY
    entries = [old, Entry("a", "9f8e 7d6c", "y", until=400.0 * DAY), Entry("b", "5555", "z", until=90.0 * DAY)]
    write_register(home, [*entries, Entry("c", "6666", "z", revoked=True), Entry("d", "7777", "z")])
    (home / "seen.json").write_text(json.dumps({"a": now - 7200}))
    a, b, c, d = members(home, now=now)
    assert a.split() == ["a", "valid", "for", "300", "days", "seen", "2", "h", "ago", "9f8e", "7d6c"]
    assert "expired 10 days ago" in b and "not seen yet" in b
    assert "shut out" in c and "valid until nobody noted when" in d
    (home / "seen.json").write_text("x")
    assert "not seen yet" in members(home, now=now)[0]
    assert len(typed("coordinator", "sites").splitlines()) == 4
