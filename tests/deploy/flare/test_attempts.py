"""When the next attempt is made, with an engine that does not do what it should."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from anndata import AnnData

from infl.deploy.attempt import REQUEST_AGAIN, REQUEST_LEAVE, REQUEST_STOP, Status
from infl.deploy.flare import console, engine, seen
from infl.deploy.flare.console import CALLS, Console
from infl.deploy.flare.engine import LEAVING, STARTING, Attempts, Supervisor
from infl.deploy.remote import Patience
from infl.deploy.run_attempt import RunFolder
from infl.errors import FileError, NoRoomError
from infl.federation.agreement import Agreement
from infl.keys import Keyring
from infl.models import Classifier


class Engine:
    """FLARE's session, of which every job goes on for ever."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.heard = dict.fromkeys(("site_1", "site_2", "site_3", "site_4"), 1.0)

    def get_connected_client_list(self) -> list[Any]:
        return [SimpleNamespace(name=name, last_connect_time=at) for name, at in self.heard.items()]

    def submit_job(self, folder: str) -> str:
        self.jobs[name := f"job_{len(self.jobs)}"] = "RUNNING"
        return name

    def get_job_status(self, job: str) -> str:
        return self.jobs[job]

    def abort_job(self, job: str) -> None:
        self.jobs[job] = "FINISHED:ABORTED"


class Case:
    def __init__(self, sites: dict[str, AnnData], folder: Path) -> None:
        task, self.engine, self.now = Classifier(target="label", width=8, n_blocks=1), Engine(), 1000.0
        self.run = RunFolder(folder / "run")
        self.run.store.begin(Agreement.new(task, task.agree(sites), sites, Keyring.create(), rounds=3, min_sites=2))
        session = Console(folder)
        session.ask = lambda what, *arguments: CALLS[what](self.engine, *arguments)  # type: ignore[method-assign]
        self.attempts = Attempts(self.run, session, "run", Patience(silence=6), lambda line: None)

    def step(self, seconds: float = 0.5, **status: Any) -> list[str]:
        """Let time pass, note what an attempt says, and return the states of all jobs."""
        self.now += seconds
        if status:
            self.run.save_status(replace(self.run.status, **status))
        self.attempts._step()
        return [*self.engine.jobs.values()]


@pytest.fixture
def case(small_sites: dict[str, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    made = Case(small_sites, tmp_path)
    for module in (engine, console):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_a_job_whose_attempt_has_ended_is_aborted(case: Case) -> None:
    """As after a cut: the engine waits for sites that have not heard of the end."""
    assert case.step() == ["RUNNING"]
    assert case.step(1000, state="running", attempts=1) == ["RUNNING"]
    assert case.step(1000) == ["RUNNING"]
    assert case.step(state="ended") == ["RUNNING"]
    assert case.step(LEAVING + 1) == ["FINISHED:ABORTED"]
    case.engine.heard = dict.fromkeys(case.engine.heard, 2.0)
    assert case.step() == ["FINISHED:ABORTED", "RUNNING"]


def test_a_job_that_does_not_begin_is_aborted(case: Case) -> None:
    assert case.step() == ["RUNNING"]
    assert case.step(STARTING - 1) == ["RUNNING"]
    assert case.step(STARTING + 1) == ["FINISHED:ABORTED"]


def test_a_lost_site_counts_as_back_when_it_is_heard_of_again(case: Case) -> None:
    """A site that is cut off stays on the engine's list; an attempt with it would wait for it."""
    up = {"up": True, "silent": 0.1, "trouble": "", "in": 0, "out": 0}
    sites = {f"site_{i}": up for i in range(1, 5)}
    case.step()
    case.step(state="running", attempts=1, sites=sites)
    case.step(20, sites=sites | {"site_2": up | {"up": False, "silent": 6.5, "trouble": "lost"}})
    case.step(10)
    assert case.run.requested == ""
    case.engine.heard["site_2"] = 9.0
    case.step()
    assert case.run.requested == REQUEST_AGAIN


def test_a_site_that_is_not_heard_of_is_not_waited_for(case: Case) -> None:
    session = case.attempts.console
    assert set(session.sites()) == set(case.engine.heard)
    case.now += 20
    case.engine.heard["site_1"] = 2.0
    session.sites()
    case.now += 20
    assert set(session.sites()) == {"site_1"}
    del case.engine.heard["site_1"]
    assert session.sites() == {}


def test_who_leaves_submits_nothing_more_and_the_next_start_goes_on(case: Case) -> None:
    case.attempts.patience = replace(case.attempts.patience, silence=0.1)
    asked: list[str] = []

    def passing(seconds: float) -> None:
        case.now += 1
        asked.append(case.run.requested)
        if len(asked) == 1:
            case.attempts.stop()
        elif asked[-1]:  # the attempt hears of it
            case.run.save_status(replace(case.run.status, state="ended"))
            case.engine.abort_job("job_0")

    engine.time.sleep = passing
    status = case.attempts.work(0.5, float("inf"))
    assert (status.state, [*case.engine.jobs.values()]) == ("ended", ["FINISHED:ABORTED"])
    assert asked == ["", REQUEST_LEAVE]
    case.run.clear_request()
    again = Attempts(case.run, case.attempts.console, "run", case.attempts.patience, lambda line: None)
    again._step()
    assert len(case.engine.jobs) == 2


def test_a_stop_holds_until_somebody_resumes(case: Case) -> None:
    """Also one that was asked for while nobody worked for the run, and whatever a service manager starts."""
    supervisor = supervisor_of(case)
    run = supervisor.run
    run.save_status(replace(run.status, state="running", round=2))
    run.request(REQUEST_STOP)
    for _ in range(2):
        assert supervisor.go().state == "stopped"
        assert (run.requested, run.status.round) == (REQUEST_STOP, 2)
    with pytest.raises(FileError, match=r"consortium\.json"):  # goes on, as far as this folder allows
        supervisor.go(resume=True)
    assert (run.requested, run.status.state) == ("", "ended")
    run.save_status(replace(run.status, state="finished"))
    assert supervisor.go().state == "finished"  # no port is opened for what is done


def test_attempts_that_move_nothing_become_seldom(case: Case) -> None:
    """A site that declines declines again; when somebody comes or goes, or something moved, the next one follows at once."""

    def fails(number: int) -> None:
        case.run.save_status(replace(case.run.status, state="ended", attempts=number, message="site_2 declined"))
        case.engine.abort_job(f"job_{number - 1}")
        later(0.5)

    def later(seconds: float) -> int:
        case.engine.heard = dict.fromkeys(case.engine.heard, case.now)
        return len(case.step(seconds))

    case.step()
    for number, wait in ((1, 0.0), (2, 10.0), (3, 20.0), (4, 40.0), (5, 80.0), (6, 120.0), (7, 120.0)):
        fails(number)
        if wait:
            assert later(wait - 1.5) == number
            assert case.run.status.waits == f"{wait:.0f} s: the last {number} attempts moved nothing"
        assert later(2.0) == number + 1
    assert case.run.status.message == "site_2 declined"
    fails(8)
    del case.engine.heard["site_4"]
    case.attempts.console._heard.clear()
    assert later(1.0) == 8
    case.engine.heard["site_4"] = case.now
    assert later(1.0) == 9


def test_sites_that_are_missing_stand_in_the_status(case: Case) -> None:
    said: list[str] = []
    case.attempts.say = said.append
    del case.engine.heard["site_4"], case.engine.heard["site_2"]
    for _ in range(3):
        assert case.step() == []
    assert case.run.status.waits == "for sites: site_2, site_4" and said == ["waits for sites: site_2, site_4"]


def test_a_full_disk_holds_attempts_up_and_is_said_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    said, supervisor, room = list[str](), supervisor_of(case), [0]
    supervisor.say = said.append
    monkeypatch.setattr(engine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=room[0]))

    def full(status: Status) -> None:
        raise NoRoomError("cannot write status.json: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(supervisor.run, "save_status", full)
        for _ in range(3):
            supervisor._step()
    assert case.engine.jobs == {} and len(said) == 1
    assert re.fullmatch("waits for room: less than 8 MB are free at .*runs/run, make some", said[0])
    room[0] = engine.LEAST_ROOM
    supervisor._step()
    assert [*case.engine.jobs.values()] == ["RUNNING"]


def supervisor_of(case: Case) -> Supervisor:
    """Return a supervisor of the case's run, in a coordinator's folder with the outline of a kit."""
    home = case.run.folder.parent / "coordinator"
    (home / "kit" / "startup").mkdir(parents=True)
    (home / "kit" / "startup" / "fed_server.json").touch()
    (home / "runs").mkdir()
    case.run.folder.rename(home / "runs" / "run")
    supervisor = Supervisor(home, "run")
    supervisor.console = case.attempts.console
    return supervisor


def test_when_each_site_was_connected_last_is_noted(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor, now = supervisor_of(case), [0.0]
    monkeypatch.setattr(seen, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: 5.0))
    noted, looks = supervisor.home / "seen.json", seen.Seen(supervisor.home, supervisor.console)
    noted.write_text('{"site_9": 1}')
    del case.engine.heard["site_4"]
    looks.look()
    assert json.loads(noted.read_text()) == {"site_9": 1}, "it is not time yet"
    now[0] = seen.LOOKS
    looks.look()
    assert json.loads(noted.read_text()) == {"site_9": 1, "site_1": 5, "site_2": 5, "site_3": 5}


HANGS = """
import json, os, sys, time
for number, line in enumerate(sys.stdin):
    if number:
        time.sleep(600)
    print(json.dumps({"value": [os.getpid(), *json.loads(line)]}), flush=True)
"""


def test_a_session_that_hangs_is_ended_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FLARE's does that was cut off while it connected."""
    monkeypatch.setattr(console, "PROGRAM", (sys.executable, "-c", HANGS))
    monkeypatch.setattr(console, "NEXT", 0.1)
    session = Console(tmp_path)
    first, *said = session.ask("state", "job")
    assert said == ["state", "job"]
    assert session.ask("state", "job") is None
    assert not psutil.pid_exists(first)
    second = session.ask("sites")[0]
    assert second != first
    session.close()
    assert not psutil.pid_exists(second)


@pytest.mark.parametrize("program", ["", "print('no answer', flush=True)", "raise SystemExit(3)"])
def test_a_session_that_ends_is_no_answer(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PROGRAM", (sys.executable, "-c", program))
    session = Console(tmp_path)
    assert session.ask("sites") is None and session.sites() == {}
    session.close()
