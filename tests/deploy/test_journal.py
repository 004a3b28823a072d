"""Logs of infl's own: they stay small, and lose nothing but their oldest files."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infl.deploy.journal import Journal, bound
from infl.errors import NoRoomError


def test_rows_are_numbered_and_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    assert (journal.last(), journal.rows()) == (0, [])
    assert [journal.append({"event": f"é{i}"}) for i in range(3)] == [1, 2, 3]
    assert [row["event"] for row in Journal(tmp_path / "events.jsonl").rows(after=1)] == ["é1", "é2"]
    assert journal.last() == 3
    assert (tmp_path / "events.jsonl").stat().st_mode & 0o777 == 0o600


def test_old_files_go_and_numbers_go_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl", largest=1000, kept=2)
    for i in range(200):
        journal.append({"event": f"something happened, {i}"})
    names = sorted(path.name for path in tmp_path.iterdir() if "lock" not in path.name)
    assert names == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    assert sum((tmp_path / name).stat().st_size for name in names) < 3 * 1100
    numbers = [row["n"] for row in journal.rows()]
    assert numbers == [*range(numbers[0], 201)]
    assert numbers[0] > 100
    (tmp_path / "events.jsonl").unlink()  # the newest was just put aside, and nothing came since
    assert journal.append({"event": "next"}) == journal.rows()[-2]["n"] + 1


def test_half_a_line_of_a_crash_costs_no_other_row(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = Journal(path)
    journal.append({"event": "first"})
    with path.open("a") as log:
        log.write('{"n": 2, "time": "2026-')
    assert journal.append({"event": "second"}) == 2
    assert [row["event"] for row in journal.rows()] == ["first", "second"]


def test_a_full_disk_leaves_no_half_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, write = Journal(tmp_path / "events.jsonl"), os.write
    journal.append({"event": "first"})
    before = journal.path.read_bytes()

    def full(handle: int, content: bytes) -> int:
        write(handle, content[:5])
        raise OSError(28, "No space left on device")

    for fails in (full, lambda handle, content: write(handle, content[:7])):
        monkeypatch.setattr(os, "write", fails)
        with pytest.raises(NoRoomError, match=r"events\.jsonl"):
            journal.append({"event": "second"})
        assert journal.path.read_bytes() == before


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    def write(who: int) -> None:
        for i in range(30):
            Journal(path, largest=2000, kept=20).append({"who": who, "i": i})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    rows = Journal(path, largest=2000, kept=20).rows()
    assert [row["n"] for row in rows] == [*range(1, 121)]
    assert all([row["i"] for row in rows if row["who"] == who] == [*range(30)] for who in range(4))


def test_a_log_that_another_process_appends_to_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    bound(log)  # there is none yet
    with log.open("a") as held:
        for i in range(100):
            held.write(f"[E:{i}]\n")
        held.flush()
        bound(log, largest=10_000)
        assert log.stat().st_size > 0
        bound(log, largest=500)
        held.write("[E:100]\n")
        held.flush()
    assert log.read_text() == "[E:100]\n"
    assert (tmp_path / "audit.log.1").read_text().endswith("[E:99]\n")
    assert (tmp_path / "audit.log.1").stat().st_size <= 500


def test_rows_are_json_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl")
    journal.append({"event": "two\nlines"})
    (line,) = journal.path.read_text().splitlines()
    assert json.loads(line)["event"] == "two\nlines"
