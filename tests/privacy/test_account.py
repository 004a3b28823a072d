"""A site's account: per record over all runs, charged before anything is sealed, and a run too much is refused."""

import os
import signal
import subprocess
import sys
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
