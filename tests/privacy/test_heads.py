"""Heads of accounts: a site whose account went back to a backup is noticed by the members of its runs."""

import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from infl.errors import FederationError, FileError
from infl.privacy.account import Account
from infl.privacy.heads import Heads

STEP: dict[str, Any] = {"noise": 2.0, "sample_rate": 0.2}
NAMES = ["record a", "record b", "record c"]


def fill(account: Account, run: str, names: list[str], rounds: int) -> None:
    part = account.admit(run, names, **STEP, rounds=rounds)
    for number in range(rounds):
        part.charge(f"{run} {number}".encode())


ME = bytes(32)


def test_others_keep_the_newest_head_whichever_they_see_first(tmp_path: Path) -> None:
    mine, others = Account(tmp_path / "mine"), Account(tmp_path / "others")
    fill(mine, "one", NAMES, 2)
    older = mine.head()
    fill(mine, "two", NAMES, 1)
    newer = mine.head()
    for head in (newer, older, newer):  # two runs at once: that of the earlier start may come later
        Heads(others).witness("a", ME, head)
    mine.admit("three", NAMES, **STEP, rounds=1)  # nothing is charged by that
    Heads(others).witness("a", ME, mine.head())
    Heads(Account(tmp_path / "others")).witness("a", ME, mine.head())  # another process
    Heads(others).witness("b", b"b" * 32, Account(tmp_path / "empty").head())  # another member


def restored(account: Account, backup: Path, later: list[str]) -> Account:
    """Return the account as it was in the backup, with other sums since."""
    shutil.rmtree(account.folder)
    shutil.copytree(backup, account.folder)
    for run in later:
        fill(account, run, NAMES, 1)
    return Account(account.folder)


@pytest.mark.parametrize("later", [[], ["three"]], ids=["as it was", "and as many sums"])
def test_an_account_that_was_restored_is_noticed(tmp_path: Path, later: list[str]) -> None:
    mine, others, backup = Account(tmp_path / "mine"), Account(tmp_path / "others"), tmp_path / "backup"
    fill(mine, "one", NAMES, 2)
    shutil.copytree(mine.folder, backup)
    fill(mine, "two", NAMES, 1)
    Heads(others).witness("a", ME, mine.head())
    again = restored(mine, backup, later)
    with pytest.raises(FederationError, match="a: its account goes back behind what was seen of it") as error:
        Heads(others).witness("a", ME, again.head())
    assert "\n" not in str(error.value) and "delete " in str(error.value)
    others.folder.joinpath("heads").unlink()  # what the error says
    Heads(others).witness("a", ME, again.head())


@pytest.mark.parametrize(("minutes", "noticed"), [(0, False), (9, False), (11, True)])
def test_sums_that_others_took_part_in_count_though_no_head_has_them_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, noticed: bool
) -> None:
    """After ten minutes: before, it may be the head of a start before those sums, by clocks that differ."""
    mine, others, backup = Account(tmp_path / "mine"), Account(tmp_path / "others"), tmp_path / "backup"
    fill(mine, "one", NAMES, 2)
    Heads(others).witness("a", ME, mine.head())
    shutil.copytree(mine.folder, backup)
    fill(mine, "two", NAMES, 5)
    for n in (7, 4):  # a second run, of which less was seen
        Heads(others).credit(ME, n)
    now = time.time_ns() + minutes * 60 * 10**9
    monkeypatch.setattr("infl.privacy.heads.time.time_ns", lambda: now)
    with pytest.raises(FederationError, match=r"\(2 sums after 7\)") if noticed else nullcontext():
        Heads(others).witness("a", ME, restored(mine, backup, []).head())


@pytest.mark.parametrize(("minutes", "refused"), [(9, False), (11, True), (525600, True)])
def test_a_clock_that_is_ahead_is_said_and_nothing_of_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, refused: bool
) -> None:
    """Else that head would be the newest until its time comes, and every later start would go back behind it."""
    mine, others = Account(tmp_path / "mine"), Account(tmp_path / "others")
    fill(mine, "one", NAMES, 1)
    with monkeypatch.context() as patch:
        now = time.time_ns() + minutes * 60 * 10**9
        patch.setattr("infl.privacy.heads.time.time_ns", lambda: now)
        ahead = mine.head()
    with pytest.raises(FederationError, match=f"^a: its clock is {minutes} min") if refused else nullcontext() as error:
        Heads(others).witness("a", ME, ahead)
    if error is not None:
        assert "\n" not in str(error.value)
        fill(mine, "two", NAMES, 1)
        Heads(others).witness("a", ME, mine.head())  # its clock was set


def test_a_head_tells_nothing_but_how_many_sums(tmp_path: Path) -> None:
    """Two sites with the same records and runs show heads that have only their number in common."""
    heads = []
    for name in ("one", "two"):
        account = Account(tmp_path / name)
        fill(account, "run", NAMES, 3)
        heads.append(account.head())
    assert len(heads[0]) == len(heads[1]) == 48
    assert heads[0][8:16] == heads[1][8:16] == (3).to_bytes(8, "big")
    assert heads[0][16:] != heads[1][16:]


@pytest.mark.parametrize("content", ["[]", "{", '{"00": {"head": "00"}}', '{"00": {"tail": ""}}', '{"00": 5}'])
def test_a_damaged_list_of_heads_is_said(tmp_path: Path, content: str) -> None:
    account = Account(tmp_path / "mine")
    (account.folder / "heads").write_text(content)
    with pytest.raises(FileError, match="heads is damaged"):
        Heads(account).witness("a", ME, Account(tmp_path / "other").head())
