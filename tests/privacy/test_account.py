"""A site's account: per record over all runs, charged before anything is sealed, and a run too much is refused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from infl.errors import FederationError, FileError
from infl.privacy.account import Account
from infl.privacy.dp import epsilon_of

STEP: dict[str, Any] = {"noise": 2.0, "sample_rate": 0.2}
NAMES = ["record a", "record b", "record c"]


def fill(account: Account, run: str, names: list[str], rounds: int) -> None:
    part = account.admit(run, names, **STEP, rounds=rounds)
    for number in range(rounds):
        part.charge(f"{run} {number}".encode())


def test_records_add_up_over_runs_and_data_sets_each_by_itself(tmp_path: Path) -> None:
    account = Account(tmp_path)
    fill(account, "one", NAMES[:2], 10)
    fill(account, "two", NAMES[1:], 5)
    alone, both = (epsilon_of([(2.0, 0.2, n)], 1e-5, "rdp") for n in (10, 15))
    assert account.spent(["record a"]) == pytest.approx(alone)
    assert account.spent(["record b"]) == account.spent(NAMES) == pytest.approx(both)
    assert account.spent(["record c"]) == pytest.approx(epsilon_of([(2.0, 0.2, 5)], 1e-5, "rdp"))
    assert account.spent(["record d"]) == 0.0
    assert Account(tmp_path).spent(NAMES) == pytest.approx(both)  # another process


def test_a_run_beyond_a_records_budget_is_refused_before_work(tmp_path: Path) -> None:
    most = epsilon_of([(2.0, 0.2, 15)], 1e-5, "rdp") + 1e-6
    account = Account(tmp_path, epsilon=most, delta=1e-5)
    fill(account, "one", NAMES[:2], 10)
    with pytest.raises(
        FederationError, match=r"6 rounds would take a record to epsilon .* lifetime_epsilon is"
    ) as error:
        account.admit("two", NAMES[1:], **STEP, rounds=6)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("two*"))
    account.admit("two", NAMES[1:], **STEP, rounds=5)
    account.admit("three", NAMES[2:], **STEP, rounds=15)  # who was in neither has all of it
    account.admit("one", NAMES[:2], **STEP, rounds=10)  # going on is not a second run
    Account(tmp_path).admit("four", NAMES, **STEP, rounds=1000)  # the control: no limit


def test_runs_at_the_same_time_share_a_budget(tmp_path: Path) -> None:
    account = Account(tmp_path, epsilon=epsilon_of([(2.0, 0.2, 15)], 1e-5, "rdp") + 1e-6)
    one, two = (account.admit(run, NAMES, **STEP, rounds=10) for run in ("one", "two"))
    for number in range(10):
        one.charge(b"one %d" % number)
    for number in range(5):
        two.charge(b"two %d" % number)
    with pytest.raises(FederationError, match="lifetime_epsilon"):
        two.charge(b"two 5")
    two.charge(b"two 4")  # was charged before
    assert account.spent(NAMES) <= account.epsilon


def test_the_same_sum_is_charged_once(tmp_path: Path) -> None:
    part = Account(tmp_path).admit("one", NAMES, **STEP, rounds=10)
    for _ in range(3):
        part.charge(b"first")
    again = Account(tmp_path).admit("one", NAMES, **STEP, rounds=10)
    again.charge(b"first")
    assert len(again.charged) == 1
    assert again.secret == part.secret
    assert Account(tmp_path).admit("two", NAMES, **STEP, rounds=1).secret != part.secret


def test_files_are_the_sites_own_and_name_nobody(tmp_path: Path) -> None:
    fill(Account(tmp_path / "account"), "one", ["record patient_of_note", "donor Jane"], 2)
    assert (tmp_path / "account").stat().st_mode & 0o777 == 0o700
    files = list((tmp_path / "account").iterdir())
    assert {f.name for f in files} == {"lock", "secret", "one.json", "one.names"}
    assert {f.stat().st_mode & 0o777 for f in files} == {0o600}
    content = b"".join(f.read_bytes() for f in files)
    assert b"note" not in content
    assert b"Jane" not in content
    other = Account(tmp_path / "other").digests(["donor Jane"])
    assert Account(tmp_path / "account").digests(["donor Jane"]) != other  # under a secret of the site


def test_an_account_without_its_secret_or_with_damage_is_refused(tmp_path: Path) -> None:
    fill(Account(tmp_path), "one", NAMES, 2)
    (tmp_path / "one.json").write_text("{")
    with pytest.raises(FileError, match=r"one\.json is damaged: restore"):
        Account(tmp_path).spent(NAMES)
    (tmp_path / "secret").unlink()
    with pytest.raises(FileError, match=r"secret is missing, and without it nobody's budget is known"):
        Account(tmp_path).spent(NAMES)


def test_what_was_charged_survives_kill_9(tmp_path: Path) -> None:
    """Charged is charged: a process that is killed at any moment leaves at least what it said that it had charged."""
    code = (
        "import sys; from infl.privacy.account import Account\n"
        f"part = Account({str(tmp_path)!r}).admit('one', ['a'], noise=2.0, sample_rate=0.2, rounds=10**6)\n"
        "for n in range(10**6):\n"
        "    part.charge(b'%d' % n)\n"
        "    print(n, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ))
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    whole = [line for line in said if line.endswith(b"\n")]
    assert len(whole) >= 20
    kept = Account(tmp_path).admit("one", ["a"], **STEP, rounds=1).charged
    assert len(whole) <= len(kept) <= len(whole) + 1


# -- what others keep of it ------------------------------------------------------------------------------------------------
ME = bytes(32)


def test_others_keep_the_newest_head_whichever_they_see_first(tmp_path: Path) -> None:
    mine, others = Account(tmp_path / "mine"), Account(tmp_path / "others")
    fill(mine, "one", NAMES, 2)
    older = mine.head()
    fill(mine, "two", NAMES, 1)
    newer = mine.head()
    for head in (newer, older, newer):  # two runs at once: that of the earlier start may come later
        others.witness("a", ME, head)
    mine.admit("three", NAMES, **STEP, rounds=1)  # nothing is charged by that
    others.witness("a", ME, mine.head())
    Account(tmp_path / "others").witness("a", ME, mine.head())  # another process
    others.witness("b", b"b" * 32, Account(tmp_path / "empty").head())  # another member


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
    others.witness("a", ME, mine.head())
    again = restored(mine, backup, later)
    with pytest.raises(FederationError, match="a: its account goes back behind what was seen of it") as error:
        others.witness("a", ME, again.head())
    assert "\n" not in str(error.value) and "delete " in str(error.value)
    others.folder.joinpath("heads").unlink()  # what the error says
    others.witness("a", ME, again.head())


@pytest.mark.parametrize(("minutes", "noticed"), [(0, False), (9, False), (11, True)])
def test_sums_that_others_took_part_in_count_though_no_head_has_them_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, noticed: bool
) -> None:
    """After ten minutes: before, it may be the head of a start before those sums, by clocks that differ."""
    mine, others, backup = Account(tmp_path / "mine"), Account(tmp_path / "others"), tmp_path / "backup"
    fill(mine, "one", NAMES, 2)
    others.witness("a", ME, mine.head())
    shutil.copytree(mine.folder, backup)
    fill(mine, "two", NAMES, 5)
    for n in (7, 4):  # a second run, of which less was seen
        others.credit(ME, n)
    now = time.time_ns() + minutes * 60 * 10**9
    monkeypatch.setattr("infl.privacy.account.time.time_ns", lambda: now)
    with pytest.raises(FederationError, match=r"\(2 sums after 7\)") if noticed else nullcontext():
        others.witness("a", ME, restored(mine, backup, []).head())


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
        account.witness("a", ME, Account(tmp_path / "other").head())
