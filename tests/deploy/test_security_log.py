"""The security log: whoever edits it without the key is noticed, and where."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infl.cli.app import app
from infl.deploy.security_log import SecurityLog, _hash, coordinator_log
from infl.deploy.site_log import SiteLog
from infl.errors import FederationError, FileError, KeyringError
from infl.keys import Identity

KEY = bytes(range(32))


def log_of(path: Path, key: bytes | None = KEY, **options: int) -> SecurityLog:
    return SecurityLog(path / "security.jsonl", lambda: key, **options)


def filled(path: Path) -> SecurityLog:
    log = log_of(path)
    for i in range(6):
        log.note("refused", why=f"reason {i}")
    return log


def test_a_log_is_whole(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    assert log.verify().words == "empty"
    assert [log.note("offered", run="1a"), log.note("refused", why="policy"), log.note("refused", why="policy")] == [
        1,
        2,
        2,
    ]
    found = log.verify()
    assert (found.first, found.last, found.unsealed, found.sealed) == (1, 2, (), True)
    assert found.words.startswith("rows 1 to 2: chain and seals are whole; last 2:")
    assert not log_of(tmp_path, None).verify().sealed
    assert "there is no key here" in log_of(tmp_path, None).verify().words


def edit(rows: list[dict], number: int, **changes: object) -> None:
    rows[number - 1] |= changes


def rechain(rows: list[dict]) -> None:
    """What an enemy who knows the format can do without the key."""
    before = rows[0]["before"]
    for row in rows:
        row["before"] = before
        before = row["hash"] = _hash(row)


def renumber(rows: list[dict]) -> None:
    for i, row in enumerate(rows):
        row["n"] = i + 1
    rechain(rows)


EDITS: dict[str, Callable[[list[dict]], object]] = {
    "a reason": lambda rows: edit(rows, 3, why="another"),
    "a time": lambda rows: edit(rows, 3, time="2020-01-01T00:00:00+00:00"),
    "a seal": lambda rows: edit(rows, 3, seal="0" * 64),
    "a row is gone": lambda rows: rows.pop(2),
    "a row is there twice": lambda rows: rows.insert(2, rows[2]),
    "two rows changed places": lambda rows: rows.insert(2, rows.pop(3)),
    "a reason, and all hashes after it": lambda rows: (edit(rows, 3, why="another"), rechain(rows)),
    "a row is gone, and all hashes after it": lambda rows: (rows.pop(2), renumber(rows)),
    "the seals of the last rows are gone": lambda rows: [row.pop("seal") for row in rows[3:]],
    "a reason, and all seals": lambda rows: (
        edit(rows, 3, why="another"),
        [r.pop("seal") for r in rows],
        rechain(rows),
    ),
    "the first rows": lambda rows: (rows.__delitem__(slice(2)), renumber(rows)),
}


@pytest.mark.parametrize("what", EDITS)
def test_edits_are_noticed(what: str, tmp_path: Path) -> None:
    log = filled(tmp_path)
    rows = [json.loads(line) for line in log.path.read_text().splitlines()]
    EDITS[what](rows)
    log.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(FederationError, match=r"security\.jsonl"):
        log_of(tmp_path).verify()


def test_a_log_that_was_cut_off_is_noticed_by_what_was_written_down(tmp_path: Path) -> None:
    log = filled(tmp_path)
    known = log.verify().words.rpartition("last ")[2]
    assert log.verify(known).last == 6
    log.note("shut out")
    assert log.verify(known).last == 7
    log.path.write_text("".join(line + "\n" for line in log.path.read_text().splitlines()[:4]))
    assert log.verify().last == 4  # by itself it looks whole
    with pytest.raises(FederationError, match="row 6 is not what was written down"):
        log.verify(known)
    for wrong in ("", "6", "six:0123456789", "6:01"):
        if wrong:
            with pytest.raises(FederationError, match="nothing that was written down"):
                log.verify(wrong)


def test_a_chain_goes_on_over_files(tmp_path: Path) -> None:
    log = log_of(tmp_path, largest=1000, kept=2)
    for i in range(40):
        log.note("refused", why=f"reason {i}")
    found = log.verify()
    assert found.first > 1
    assert found.last == 40
    assert len(log.files()) == 3
    with pytest.raises(FederationError, match="so old that it was removed"):
        log.verify("1:0123456789")
    log.files()[1].unlink()
    with pytest.raises(FederationError, match="changed, removed or inserted"):
        log.verify()


@pytest.mark.parametrize("n_rows", [6, 18])
def test_the_oldest_rows_go_when_there_are_too_many_files_and_not_before(n_rows: int, tmp_path: Path) -> None:
    log = log_of(tmp_path, largest=1000, kept=20)
    for i in range(n_rows):
        log.note("refused", why=f"reason {i}")
    assert log.verify().first == 1 and len(log.files()) < 20
    first = log.files()[0]
    first.write_text("".join(line + "\n" for line in first.read_text().splitlines()[1:]))
    with pytest.raises(FederationError, match=r"rows before 2 are gone, which were not so old"):
        log.verify()
    if len(log.files()) > 1:
        first.unlink()
        with pytest.raises(FederationError, match="are gone, which were not so old"):
            log.verify()


def test_rows_without_a_seal_are_named(tmp_path: Path) -> None:
    """A command without the passphrase writes one; nothing else may."""
    filled(tmp_path)
    log_of(tmp_path, None).note("approved", digest="1a2b")
    assert log_of(tmp_path).verify().unsealed == (7,)
    assert "without the identity: 7" in log_of(tmp_path).verify().words
    log_of(tmp_path, None).note("refused", why="policy")
    with pytest.raises(FederationError, match=r"row 8 \(refused\) has lost its seal"):
        log_of(tmp_path).verify()


def test_another_identity_does_not_pass(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(FederationError, match="not the identity that wrote it"):
        log_of(tmp_path, bytes(32)).verify()


def test_half_a_row_of_a_crash_is_no_edit_and_other_lines_are(tmp_path: Path) -> None:
    log = filled(tmp_path)
    with log.path.open("a") as file:
        file.write('{"n": 7, "time": "2026-')
    assert log.verify().last == 6
    log.note("shut out")
    assert log.verify().last == 7
    with log.path.open("a") as file:
        file.write("by hand\n")
    with pytest.raises(FederationError, match="a line in it is no row"):
        log.verify()


def test_strangers_write_no_control_characters(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.note("refused", why="\x1b[2J" + "x" * 9999, sites=["a\nb"])
    (row,) = log.rows()
    assert row["why"].startswith("?[2J")
    assert len(row["why"]) == 500
    assert row["sites"] == ["a?b"]


def test_a_site_seals_with_its_identity(tmp_path: Path) -> None:
    identity = Identity.create()
    log = SiteLog(tmp_path, lambda: identity)
    log.refused("hospital_b refuses: its policy does not accept 3 rounds")
    assert log.security.verify().sealed
    assert log.events()[-1].endswith("does not accept 3 rounds")

    def closed() -> Identity:
        raise KeyringError("you have no identity")

    assert not SiteLog(tmp_path, closed).security.verify().sealed


def test_a_coordinator_has_a_key_of_its_own(tmp_path: Path) -> None:
    coordinator_log(tmp_path).note("enrolled", name="hospital_b")
    key = tmp_path / "log.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert coordinator_log(tmp_path).verify().sealed
    copy = key.rename(tmp_path / "copy.key")
    with pytest.raises(FileError, match=r"log\.key is missing"):
        coordinator_log(tmp_path).verify()
    assert coordinator_log(tmp_path, copy).verify().last == 1
    copy.write_bytes(b"short")
    with pytest.raises(FileError, match="no key of a log"):
        coordinator_log(tmp_path, copy).verify()


def test_commands_show_and_check_it(tmp_path: Path) -> None:
    (tmp_path / "consortium.json").write_text("{}")
    (tmp_path / "consortium.json").write_text('{"name": "t", "host": "localhost"}')
    coordinator_log(tmp_path).note("enrolled", name="hospital_b", key="1a2b")
    home = ["--home", str(tmp_path)]
    shown = CliRunner().invoke(app, ["coordinator", "log", *home])
    assert "enrolled     name=hospital_b key=1a2b" in shown.output
    whole = CliRunner().invoke(app, ["coordinator", "log", "--verify", *home])
    assert "rows 1 to 1: chain and seals are whole" in whole.output
    path = tmp_path / "security.jsonl"
    path.write_text(path.read_text().replace("hospital_b", "hospital_c"))
    broken = CliRunner().invoke(app, ["coordinator", "log", "--verify", *home])
    assert isinstance(broken.exception, FederationError)
    assert "row 1" in str(broken.exception)
