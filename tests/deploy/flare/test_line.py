"""A site's connection as its own machine knows it, and what FLARE leaves behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infl.deploy.flare import daemon as daemons
from infl.deploy.flare import leftovers
from infl.deploy.flare.consortium import Consortium
from infl.deploy.flare.daemon import CLIENT_PROCESS, SELDOM, Daemon
from infl.deploy.flare.leftovers import FAILED, OVER, clear_jobs
from infl.deploy.flare.line import EVERY, TAIL, Line, Lookout, check_admitted, is_connected, refusal
from infl.errors import FederationError

CONSORTIUM = Consortium("tumours", "coordinator.example.org")
REFUSED = "2026-01-01 00:00:00,000 - Authenticator - ERROR - registration rejected: Client 'site_1' is disabled\n"
ACCEPTED = "2026-01-01 00:00:00,000 - FederatedClient - INFO - Successfully registered client:site_1 for project x.\n"


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    (tmp_path / "kit" / "startup").mkdir(parents=True)
    (tmp_path / "kit" / "startup" / "fed_client.json").write_text('{"client": {"fqsn": "site_1"}}')
    return tmp_path / "kit"


def test_what_changes_is_said_once_and_stands_in_the_folder(kit: Path) -> None:
    said, now, up = list[str](), [0.0], [False]
    participant: Any = SimpleNamespace(kit=kit, process=None)
    lookout = Lookout(participant, CONSORTIUM, said.append, connected=lambda d, port: up[0], clock=lambda: now[0])

    def look() -> str:
        now[0] += EVERY
        for _ in range(3):
            lookout.look()
        line = Line.read(kit.parent)
        assert line is not None and line == lookout.line
        return line.state

    assert Line.read(kit.parent) is None
    assert [look(), look()] == ["down", "down"] and len(said) == 1
    assert re.fullmatch(r"waits for the coordinator, coordinator\.example\.org:8002, since 20\S+", said[0])
    up[0] = True
    lookout.look()
    assert len(said) == 1  # not looked at all the time
    assert look() == "up" and said[1].startswith("connected to the coordinator")
    (kit / "log.txt").write_text(ACCEPTED + REFUSED)
    assert look() == "refused" and said[2].startswith("shut out by the coordinator")
    (kit / "log.txt").write_text(REFUSED + ACCEPTED)
    assert look() == "up" and len(said) == 4


def test_what_became_of_the_last_registration(kit: Path) -> None:
    assert refusal(kit) == "" and "did not shut this site out" in check_admitted(kit)
    (kit / "log.txt").write_text(ACCEPTED + "x" * TAIL + REFUSED)
    assert refusal(kit) == "Client 'site_1' is disabled"
    with pytest.raises(FederationError, match="shut this site out .Client 'site_1' is disabled.: ask there"):
        check_admitted(kit)


@pytest.mark.parametrize("content", ["", "[]", '{"state": "up"}', '{"state": "up", "since": 1, "x": 2}'])
def test_a_damaged_note_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "line.json").write_text(content)
    assert Line.read(tmp_path) is None


def test_the_system_knows_which_connections_a_process_has() -> None:
    me: Any = SimpleNamespace(process=SimpleNamespace(pid=os.getpid()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_connected(me, port)
        with socket.create_connection(("127.0.0.1", port)):
            assert is_connected(me, port) and not is_connected(me, 1)
    assert not is_connected(SimpleNamespace(process=None), port)  # type: ignore[arg-type]


def job(place: Path, number: int, *, age: float, error: str = "") -> Path:
    folder = place / f"{number:08x}-72cc-4f8e-af08-218f25bbf9f0"
    folder.mkdir(parents=True)
    (folder / "error_log.txt").write_text(error)
    for path in (folder / "error_log.txt", folder):
        os.utime(path, (1e9 - age, 1e9 - age))
    return folder


def test_folders_of_jobs_that_are_over_go(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = [job(kit, 1, age=OVER + 1), job(kit / "jobs", 2, age=OVER + 1)]
    young, busy = job(kit, 3, age=OVER - 1), job(kit, 4, age=OVER + 1)
    failed = [job(kit, 10 + i, age=OVER + 100 - i, error="why") for i in range(FAILED + 2)]
    monkeypatch.setattr(leftovers, "_commands", lambda: f"python -m worker --job {busy.name}")
    clear_jobs(kit, now=1e9)
    assert not any(folder.exists() for folder in (*over, *failed[:2]))
    assert all(folder.exists() for folder in (young, busy, kit / "startup", *failed[2:]))


def test_commands_of_processes_are_seen() -> None:
    with subprocess.Popen(["sleep", "33.125"]) as process:
        assert "sleep 33.125" in leftovers._commands()
        process.kill()


def test_a_process_that_dies_at_once_is_started_less_and_less(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, alive = [1000.0], [False]
    started = SimpleNamespace(pid=1, poll=lambda: None if alive[0] else 1)
    clock = SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
    monkeypatch.setattr(daemons, "time", clock)
    participant = Daemon(kit, CLIENT_PROCESS, kit.parent / "client.log")
    monkeypatch.setattr(participant, "clear", lambda: None)
    monkeypatch.setattr(daemons.subprocess, "Popen", lambda *arguments, **options: started)

    def pause() -> float:
        begun = now[0]
        while not participant.ensure():
            now[0] += 1
        return now[0] - begun

    pauses = [pause() for _ in range(14)]
    assert pauses == [0, 1, 1, 2, 4, 8, 16, 32, 64, 128, 256, SELDOM, SELDOM, SELDOM]
    alive[0] = True
    assert not participant.ensure()
    now[0] += 3600
    alive[0] = False
    assert pause() == 0  # it lived long enough


def test_with_a_participant_the_processes_of_its_jobs_end(kit: Path) -> None:
    """FLARE gives each a session of its own, and those that are about to end by themselves take seconds for it."""
    participant = Daemon(kit, CLIENT_PROCESS, kit.parent / "client.log")
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    of = {kit: "nvflare.worker", kit.parent / "another": "nvflare.worker"}
    jobs = [subprocess.Popen([*sleep, word, str(folder)], start_new_session=True) for folder, word in of.items()]
    try:
        participant.process = subprocess.Popen(sleep, start_new_session=True)
        participant.stop()
        assert participant.process.wait() == -signal.SIGTERM
        assert [job.poll() is None for job in jobs] == [False, True]
    finally:
        for process in jobs:
            process.kill()
            process.wait()
