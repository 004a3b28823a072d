"""The ledger: on disk before anything is sent, one message an exchange, and no line lost unnoticed."""

import errno
import hashlib
import hmac
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from infl.errors import FileError, SealError
from infl.privacy.seal import Context, Field, GroupSeal, Ledger, MaskedArrays, Packing

PACKING = Packing((Field("w", (4,), -20),))
KEY = b"k" * 32


def context(round: int = 1, attempt: int = 0) -> Context:
    return Context("run", round, attempt, ("a", "b", "c"), "5:train", PACKING.digest())


def words(value: int) -> MaskedArrays:
    return MaskedArrays(np.full(4, value, dtype=np.uint32), np.zeros(2, dtype=np.uint64))


def filled(path: Path, n: int = 4) -> Ledger:
    ledger = Ledger(path, KEY)
    for r in range(n):
        ledger.record(context(r), words(r), sealed=True)
    return ledger


def test_same_message_may_be_sent_again_another_may_not(tmp_path: Path) -> None:
    for path in (None, tmp_path / "l"):
        ledger = Ledger(path, KEY)
        ledger.record(context(), words(1), sealed=True)
        ledger.record(context(), words(1), sealed=True)
        with pytest.raises(SealError, match="another message was already sealed for round 1, attempt 0"):
            ledger.record(context(), words(2), sealed=True)
        ledger.record(context(attempt=1), words(2), sealed=True)
        assert len(ledger.entries) == 2


def test_sealing_twice_gives_the_same_bytes_or_a_refusal() -> None:
    seal, ledger = GroupSeal(KEY), Ledger(None, KEY)
    first = seal.seal(context(), "a", np.ones(4), np.empty(0), PACKING, ledger=ledger)
    again = seal.seal(context(), "a", np.ones(4), np.empty(0), PACKING, ledger=ledger)
    np.testing.assert_array_equal(first.low, again.low)
    with pytest.raises(SealError, match="refused"):
        seal.seal(context(), "a", np.zeros(4), np.empty(0), PACKING, ledger=ledger)


def test_reopened_ledger_remembers(tmp_path: Path) -> None:
    filled(tmp_path / "l").close()
    ledger = Ledger(tmp_path / "l", KEY)
    with pytest.raises(SealError):
        ledger.record(context(2), words(9), sealed=True)
    table = ledger.frame()
    assert table["round"].tolist() == [0, 1, 2, 3]
    assert set(table["kind"]) == {"train"}
    assert table["bytes"].tolist() == [32] * 4
    assert table["sealed"].all()
    assert table["time"].is_monotonic_increasing


def test_a_crash_at_any_byte_loses_at_most_the_line_that_was_not_sent(tmp_path: Path) -> None:
    filled(tmp_path / "l", 3).close()
    content = (tmp_path / "l").read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for length in range(len(content) + 1):
        path = tmp_path / "cut"
        path.write_bytes(content[:length])
        ledger = Ledger(path, KEY)
        assert len(ledger.entries) == sum(end - 1 <= length for end in ends)  # a whole line may lack its newline
        ledger.record(context(77), words(7), sealed=True)
        ledger.close()
        assert len(Ledger(path, KEY).entries) == len(ledger.entries)
        path.unlink()


@pytest.mark.parametrize("last", [b"x", b"\0\0\0", b"{}", b"7", b'{"time": "now"}', b'{"timf'])
def test_an_end_that_no_crash_leaves_is_refused_and_kept(tmp_path: Path, last: bytes) -> None:
    filled(tmp_path / "l").close()
    content = (tmp_path / "l").read_bytes() + last
    (tmp_path / "l").write_bytes(content)
    with pytest.raises(FileError, match="line 5: altered"):
        Ledger(tmp_path / "l", KEY)
    assert (tmp_path / "l").read_bytes() == content


def test_a_newline_taken_off_hides_nothing(tmp_path: Path) -> None:
    """What was sent cannot be made unsent by taking the end off its line."""
    filled(tmp_path / "l").close()
    content = (tmp_path / "l").read_bytes()
    (tmp_path / "l").write_bytes(content[:-1])
    ledger = Ledger(tmp_path / "l", KEY)
    assert (tmp_path / "l").read_bytes() == content
    with pytest.raises(SealError, match="already sealed"):
        ledger.record(context(3), words(9), sealed=True)


@pytest.mark.parametrize("cut", [1, 20])
def test_a_torn_end_that_cannot_be_mended_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    filled(tmp_path / "l").close()
    (tmp_path / "l").write_bytes((tmp_path / "l").read_bytes()[:-cut])

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="cannot mend ledger .*: No space left on device"):
        Ledger(tmp_path / "l", KEY)


def test_a_new_ledger_is_its_owners_and_its_folders_entry_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(os.readlink(f"/proc/self/fd/{handle}")), sync(handle))
    )
    ledger = Ledger(tmp_path / "l", KEY)
    assert synced == [str(tmp_path)]
    assert stat.S_IMODE((tmp_path / "l").stat().st_mode) == 0o600
    ledger.record(context(), words(1), sealed=True)
    assert synced == [str(tmp_path), str(tmp_path / "l")]
    ledger.close()
    Ledger(tmp_path / "l", KEY)
    assert len(synced) == 2


def test_a_line_is_what_its_format_says(tmp_path: Path) -> None:
    """JSON with the digest of the line before, and HMAC-SHA256 of it with its names sorted: later versions read it too."""
    filled(tmp_path / "l", 2).close()
    before = "0" * 64
    for line in (tmp_path / "l").read_bytes().splitlines():
        assert line.startswith(b'{"time": "')
        raw = json.loads(line)
        mac = raw.pop("mac")
        assert raw["before"] == before
        assert mac == hmac.new(KEY, json.dumps(raw, sort_keys=True).encode(), "sha256").hexdigest()
        before = hashlib.sha256(line).hexdigest()


def test_a_disk_that_takes_a_byte_at_a_time_gets_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[:1]))
        filled(tmp_path / "l").close()
    content = (tmp_path / "l").read_bytes()
    assert content.endswith(b"}\n") and content.count(b"\n") == 4
    assert len(Ledger(tmp_path / "l", KEY).entries) == 4


def test_what_opens_a_sum_is_given_for_one_list() -> None:
    ledger = Ledger(None, KEY)
    assert not ledger.revealed("run", 5)
    for _ in range(2):
        ledger.record_reveal(5, context(2, 1), ["a", "b"], 777)
    assert ledger.revealed("run", 5) and not ledger.revealed("run", 4) and not ledger.revealed("other", 5)
    with pytest.raises(SealError, match="taken off another sum of exchange 5 already"):
        ledger.record_reveal(5, context(2, 2), ["a", "b", "c"], 777)
    (row,) = ledger.rows()
    names = ("run", "kind", "round", "attempt", "cohort", "bytes", "sealed")
    assert [row[name] for name in names] == ["run", "reveal", 2, 1, 3, 777, True]


def test_what_has_nothing_of_the_data_is_one_line_an_exchange() -> None:
    ledger = Ledger(None, KEY)
    for _ in range(2):
        ledger.record_other("run", 3, "keys", b"12345")
        ledger.record_other("run", 3, "refusal")
    ledger.record_other("run", 4, "refusal")
    ledger.record_other("run", 3, "keys", b"1234")  # of another start
    table = ledger.frame()
    assert table["kind"].tolist() == ["keys", "refusal", "refusal", "keys"]
    assert table["bytes"].tolist() == [5, 0, 0, 4] and table["sealed"].tolist() == [True] * 4
    assert not table[["round", "attempt", "cohort"]].to_numpy().any()


def test_ledger_of_another_run_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "l").close()
    with pytest.raises(FileError, match=r"another run \(run\): give each run its own"):
        Ledger(tmp_path / "l", KEY, run="run 2")
    assert len(Ledger(tmp_path / "l", KEY, run="run").entries) == 4


@pytest.mark.parametrize("line", [0, 1, 2])
def test_removed_moved_or_altered_lines_are_noticed(tmp_path: Path, line: int) -> None:
    filled(tmp_path / "l").close()
    lines = (tmp_path / "l").read_bytes().splitlines(keepends=True)
    versions = [
        lines[:line] + lines[line + 1 :],
        [*lines[:line], lines[line + 1], lines[line], *lines[line + 2 :]],
        [*lines[:line], lines[line].replace(b'"bytes": 32', b'"bytes": 31'), *lines[line + 1 :]],
        [*lines[:line], b"not json\n", *lines[line + 1 :]],
        [*lines[:line], b"[]\n", *lines[line + 1 :]],
    ]
    for number, version in enumerate(versions):
        path = tmp_path / f"v{number}"
        path.write_bytes(b"".join(version))
        with pytest.raises(FileError, match=rf"line {line + 1}: altered"):
            Ledger(path, KEY)


def test_a_folder_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot open ledger .*: Is a directory"):
        Ledger(tmp_path, KEY)


def test_ledger_of_another_key_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "l").close()
    with pytest.raises(FileError, match="another key"):
        Ledger(tmp_path / "l", b"x" * 32)


def test_two_processes_cannot_share_one(tmp_path: Path) -> None:
    held = filled(tmp_path / "l")
    with pytest.raises(FileError, match="in use"):
        Ledger(tmp_path / "l", KEY)
    held.close()
    Ledger(tmp_path / "l", KEY)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_disk_that_cannot_even_be_mended_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    ledger = filled(tmp_path / "l")

    def full(*arguments: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, pytest.raises(FileError, match="Input/output error; nothing was sent"):
        patch.setattr(os, call, full)
        patch.setattr(os, "ftruncate", full)
        ledger.record(context(50), words(1), sealed=True)
    assert len(ledger.entries) == 4


def test_full_disk_sends_nothing_and_leaves_the_ledger_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = filled(tmp_path / "l")
    before = (tmp_path / "l").read_bytes()
    write = os.write

    def half(handle: int, data: bytes) -> int:
        write(handle, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(FileError, match="No space left.*nothing was sent"):
        patch.setattr(os, "write", half)
        GroupSeal(KEY).seal(context(50), "a", np.ones(4), np.empty(0), PACKING, ledger=ledger)
    assert (tmp_path / "l").read_bytes() == before
    ledger.record(context(50), words(1), sealed=True)


SCRIPT = """
import os, signal, sys
import numpy as np
sys.path.insert(0, {folder!r})
from test_ledger import KEY, PACKING, context
from infl.privacy.seal import GroupSeal, Ledger
ledger = Ledger({path!r}, KEY)
words = GroupSeal(KEY).seal(context(), "a", np.ones(4), np.empty(0), PACKING, ledger=ledger)
os.kill(os.getpid(), signal.SIGKILL)  # sealed and written down, not yet sent
"""


def test_kill_9_between_writing_and_sending(tmp_path: Path) -> None:
    script = SCRIPT.format(folder=str(Path(__file__).parent), path=str(tmp_path / "l"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    ledger = Ledger(tmp_path / "l", KEY)
    assert len(ledger.entries) == 1
    seal = GroupSeal(KEY)
    with pytest.raises(SealError):
        seal.seal(context(), "a", np.zeros(4), np.empty(0), PACKING, ledger=ledger)
    again = seal.seal(context(), "a", np.ones(4), np.empty(0), PACKING, ledger=ledger)
    assert again.digest() == ledger.entries[0]["digest"]
