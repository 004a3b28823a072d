"""Rings in files: who can open them, what is refused, and that a write is whole or not at all."""

import errno
import json
import os
import re
import stat
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infl.errors import MAX_LENGTH, FileError, InflError, KeyringError, SettingsError
from infl.keys import Identity, Keyring, encrypt
from infl.keys.age import exclusive
from infl.keys.payload import pack

ME = Identity.create()
PASSPHRASE = "correct horse battery"


@pytest.fixture
def under_passphrase(tmp_path: Path, ring: Keyring, age_by_hand: Callable[[bytes, str], bytes]) -> Path:
    """A file of `ring` under a passphrase that opens quickly."""
    path = tmp_path / "ring.key"
    path.write_bytes(age_by_hand(pack(ring._roots, ring._signer, (), ring.trail), PASSPHRASE))
    path.chmod(0o600)
    return path


def forge(ring: Keyring, **changes) -> dict:
    """What is in a ring's file, with some of it replaced."""
    return json.loads(pack(ring._roots, ring._signer, (), ring.trail)) | changes


def put(path: Path, payload: object) -> Path:
    plain = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    path.write_bytes(encrypt(plain, recipients=ME))
    path.chmod(0o600)
    return path


# -- there and back ----------------------------------------------------------------------------------------------------
def test_a_ring_comes_back_with_its_versions_trail_and_right_to_grant(tmp_path: Path, ring: Keyring) -> None:
    ring.rotate()
    path = ring.save(tmp_path / "ring.key", recipients=[ME, Identity.create().public])
    back = Keyring.load(path, identity=ME)
    assert back == ring and back.trail == ring.trail and back.versions == [1, 2] and back.is_holder
    assert back.rotate() == 3
    part = Keyring.load(ring.only(2).save(tmp_path / "part.key", recipients=ME), identity=ME)
    assert part == ring.only(2) and not part.is_holder


def test_the_file_is_private_and_tells_nothing(tmp_path: Path, ring: Keyring) -> None:
    path = ring.save(tmp_path / "ring.key", recipients=ME)
    content = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert content.startswith(b"age-encryption.org/v1\n")
    for text in (ring._roots[1], ring._roots[1].hex().encode(), ring.fingerprint().encode(), b"trail", b"keys"):
        assert text not in content
    assert os.listdir(tmp_path) == ["ring.key"]


def test_a_passphrase_opens_and_a_wrong_one_does_not(tmp_path: Path, ring: Keyring) -> None:
    path = ring.save(tmp_path / "ring.key", passphrase=PASSPHRASE)
    assert Keyring.load(path, passphrase=PASSPHRASE) == ring
    with pytest.raises(KeyringError) as error:
        Keyring.load(path, passphrase="wrong")
    assert str(error.value) == f"{path}: wrong passphrase"


def test_a_file_that_takes_too_much_work_is_not_called_damaged(under_passphrase: Path) -> None:
    """A faster machine wrote it; the rest of the file is never looked at."""
    under_passphrase.write_bytes(re.sub(rb"(-> scrypt \S+ )\d+", rb"\g<1>30", under_passphrase.read_bytes()))
    with pytest.raises(KeyringError, match="takes more work to open than this machine can do now: try again") as error:
        Keyring.load(under_passphrase, passphrase=PASSPHRASE)
    assert "\n" not in str(error.value) and "damaged" not in str(error.value)


def test_a_machine_that_is_busy_for_a_moment_opens_what_it_can_open(
    under_passphrase: Path, ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much work is too much is measured anew each time, and a busy machine measures too little."""
    decrypt, calls = pyrage.passphrase.decrypt, list[bytes]()

    def busy(content: bytes, passphrase: str) -> bytes:
        calls.append(content)
        if len(calls) < 3:
            raise pyrage.DecryptError(
                "Excessive work parameter for passphrase.\nDecryption would take around 64 seconds."
            )
        return decrypt(content, passphrase)

    monkeypatch.setattr(pyrage.passphrase, "decrypt", busy)
    assert Keyring.load(under_passphrase, passphrase=PASSPHRASE) == ring
    assert len(calls) == 3


def test_a_passphrase_is_asked_for_where_it_is_needed(under_passphrase: Path, ring: Keyring) -> None:
    assert Keyring.load(under_passphrase, passphrase=PASSPHRASE) == ring
    for identity in (None, ME):
        with pytest.raises(KeyringError, match=f"{under_passphrase} is under a passphrase: give it"):
            Keyring.load(under_passphrase, identity=identity)


def test_an_identity_is_given_as_itself_as_a_file_or_is_ones_own(tmp_path: Path, ring: Keyring) -> None:
    path = ring.save(tmp_path / "ring.key", recipients=ME)
    file = ME.save(tmp_path / "me.identity")
    assert Keyring.load(path, ME) == Keyring.load(str(path), file) == Keyring.load(path, str(file)) == ring


def test_without_recipients_a_ring_is_for_ones_own_identity(tmp_path: Path, ring: Keyring, own_identity: Path) -> None:
    path = ring.save(tmp_path / "ring.key")
    assert own_identity.exists() and Keyring.load(path) == ring == Keyring.load(path, identity=own_identity)


def test_an_own_identity_under_a_passphrase_takes_it(
    tmp_path: Path, ring: Keyring, own_identity: Path, age_by_hand: Callable[[bytes, str], bytes]
) -> None:
    own_identity.parent.mkdir()
    own_identity.write_bytes(age_by_hand(str(ME._secret).encode(), PASSPHRASE))
    own_identity.chmod(0o600)
    path = ring.save(tmp_path / "ring.key", recipients=ME)
    assert Keyring.load(path, passphrase=PASSPHRASE) == ring
    with pytest.raises(KeyringError, match="identity.key is under a passphrase"):
        Keyring.load(path)


def test_saved_again_a_ring_stays_for_whom_it_was(tmp_path: Path, ring: Keyring, own_identity: Path) -> None:
    other = Identity.create()
    path = ring.save(tmp_path / "ring.key", recipients=[ME, other])
    back = Keyring.load(path, ME)
    back.rotate()
    back.save(path, overwrite=True)
    assert Keyring.load(path, ME) == Keyring.load(path, other) == back
    assert not own_identity.exists()


def test_a_ring_from_under_a_passphrase_is_not_saved_without(under_passphrase: Path, tmp_path: Path) -> None:
    ring = Keyring.load(under_passphrase, passphrase=PASSPHRASE)
    with pytest.raises(KeyringError, match="this ring was under a passphrase, give one again"):
        ring.save(tmp_path / "copy.key")
    assert os.listdir(tmp_path) == ["ring.key"]


def test_a_link_is_written_through(tmp_path: Path, ring: Keyring) -> None:
    (tmp_path / "stick").mkdir()
    target = ring.save(tmp_path / "stick/ring.key", recipients=ME)
    link = tmp_path / "ring.key"
    link.symlink_to(target)
    back = Keyring.load(link, ME)
    back.rotate()
    back.save(link, overwrite=True)
    assert link.is_symlink() and Keyring.load(target, ME) == back


# -- what is refused -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601])
def test_a_ring_that_others_can_read_is_refused_unless_it_comes_by_mail(
    tmp_path: Path, ring: Keyring, mode: int
) -> None:
    path = ring.save(tmp_path / "ring.key", recipients=ME)
    path.chmod(mode)
    with pytest.raises(KeyringError) as error:
        Keyring.load(path, ME)
    assert str(error.value) == f"{path} can be read by others: chmod 600 {path}"
    assert Keyring.load(path, ME, in_transit=True) == ring


def test_a_file_that_exists_is_kept(tmp_path: Path, ring: Keyring, own_identity: Path) -> None:
    path = ring.save(tmp_path / "ring.key", recipients=ME)
    before = path.read_bytes()
    for to in ({}, {"recipients": ME}, {"passphrase": PASSPHRASE}):
        with pytest.raises(FileError, match=f"{path} exists: choose another name or pass overwrite=True"):
            Keyring.create().save(path, **to)
    assert path.read_bytes() == before and not own_identity.exists()


def test_the_wrong_identity_is_named(tmp_path: Path, ring: Keyring) -> None:
    path = ring.save(tmp_path / "ring.key", recipients=ME)
    stranger = Identity.create()
    with pytest.raises(KeyringError, match=f"{path} was not made for the identity {stranger.public}"):
        Keyring.load(path, stranger)


def test_recipients_and_passphrase_are_one_too_many(tmp_path: Path, ring: Keyring) -> None:
    with pytest.raises(SettingsError, match="one of the two"):
        ring.save(tmp_path / "ring.key", recipients=ME, passphrase=PASSPHRASE)
    with pytest.raises(SettingsError, match="recipients is empty"):
        ring.save(tmp_path / "ring.key", recipients=[])
    with pytest.raises(KeyringError, match="not an age public key"):
        ring.save(tmp_path / "ring.key", recipients="age1x")
    assert os.listdir(tmp_path) == []


def test_files_that_are_something_else_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        Keyring.load(tmp_path / "no.key")
    text = tmp_path / "text.key"
    text.write_text("hello")
    text.chmod(0o600)
    with pytest.raises(FileError, match="text.key is not an age file"):
        Keyring.load(text)


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"not json",
        b"[1, 2]",
        b"\xff\xfe",
        b'"text"',
        b"null",
        b"[" * 100_000,
        {"format": "another"},
        {"format_version": "1"},
        {"format_version": 0},
        {"keys": {}},
        {"keys": {"1": "00" * 31}},
        {"keys": {"1": "zz"}},
        {"keys": {"0": "00" * 32}},
        {"keys": ["00" * 32]},
        {"signer": "00"},
        {"signer": 7},
        {"trail": None},
        {"trail": {}},
        {"trail": {"holder": 1, "signature": "", "lines": []}},
        {"trail": {"holder": "", "signature": "", "lines": [{}]}},
        {"trail": {"holder": "", "signature": "", "lines": [{"versions": [], "fingerprints": []}]}},
        {"kept_for": None},
    ],
    ids=str,
)
def test_an_age_file_with_something_else_in_it_is_refused(tmp_path: Path, ring: Keyring, change: bytes | dict) -> None:
    path = put(tmp_path / "ring.key", change if isinstance(change, bytes) else forge(ring, **change))
    with pytest.raises(FileError, match="holds no key ring: name a file that") as error:
        Keyring.load(path, ME)
    assert ring._roots[1].hex() not in "".join(traceback.format_exception(error.value))
    assert error.value.__context__ is None


def test_a_newer_format_says_so(tmp_path: Path, ring: Keyring) -> None:
    path = put(tmp_path / "ring.key", forge(ring, format_version=3, keys="of another shape"))
    with pytest.raises(FileError, match="has key format 3, this infl reads 2: upgrade infl"):
        Keyring.load(path, ME)


def test_a_key_that_the_key_holder_did_not_sign_is_refused(tmp_path: Path, ring: Keyring) -> None:
    keys = {"1": ring._roots[1].hex()}
    for forged in ({"1": "00" * 32}, keys | {"2": "11" * 32}):
        path = put(tmp_path / "ring.key", forge(ring, keys=forged))
        with pytest.raises(KeyringError, match="holds a key that the key holder did not sign"):
            Keyring.load(path, ME)


def test_another_key_holders_right_to_grant_is_refused(tmp_path: Path, ring: Keyring) -> None:
    signer = Keyring.create()._signer
    assert signer is not None
    path = put(tmp_path / "ring.key", forge(ring, signer=signer.hex()))
    with pytest.raises(KeyringError, match="has another key holder's right to grant"):
        Keyring.load(path, ME)


# -- damage --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Keyring.create().save(tmp_path_factory.mktemp("intact") / "ring.key", recipients=ME)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_altered_byte_or_cut_is_an_error_of_ours(intact: Path, data: st.DataObject) -> None:
    content = bytearray(intact.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1), label="at")
    if data.draw(st.booleans(), label="cut"):
        del content[at:]
    else:
        content[at] ^= data.draw(st.integers(1, 255), label="xor")
    damaged = intact.with_name("damaged.key")
    damaged.write_bytes(content)
    damaged.chmod(0o600)
    with pytest.raises((FileError, KeyringError)) as error:
        Keyring.load(damaged, ME)
    assert len(str(error.value)) < MAX_LENGTH and "\n" not in str(error.value)


@pytest.mark.parametrize("xor", [1, 2, 8, 64, 255])
def test_any_altered_byte_under_a_passphrase_is_an_error_of_ours(under_passphrase: Path, xor: int) -> None:
    content = under_passphrase.read_bytes()
    for at in [*range(content.index(b"---") + 50), len(content) - 1]:
        damaged = under_passphrase.with_name("damaged.key")
        damaged.write_bytes(content[:at] + bytes([content[at] ^ xor]) + content[at + 1 :])
        damaged.chmod(0o600)
        with pytest.raises((FileError, KeyringError)):
            Keyring.load(damaged, ME, passphrase=PASSPHRASE)


# -- whole or not at all -------------------------------------------------------------------------------------------
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ring.save(tmp_path / "ring.key", recipients=ME)
    before = path.read_bytes()
    write = os.write
    left = [100]

    def nearly_full(handle: int, content: bytes) -> int:
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, bytes(content)[: left.pop()])

    monkeypatch.setattr(os, "write", nearly_full)
    for target, overwrite in ((path, True), (tmp_path / "other.key", False)):
        left[:] = [100]
        with pytest.raises(FileError, match=f"cannot write {target}: No space left on device"):
            Keyring.create().save(target, recipients=ME, overwrite=overwrite)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["ring.key"]


def test_a_file_that_another_process_wrote_meanwhile_is_kept(
    tmp_path: Path, ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ring.key"
    fsync = os.fsync

    def late(handle: int) -> None:
        fsync(handle)
        if not path.exists():
            path.write_text("the other process's")

    monkeypatch.setattr(os, "fsync", late)
    with pytest.raises(FileError, match=r"ring\.key exists: choose another name"):
        ring.save(path, recipients=ME)
    assert path.read_text() == "the other process's" and os.listdir(tmp_path) == ["ring.key"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_killed_while_writing_the_old_ring_is_whole(tmp_path: Path, ring: Keyring, call: str) -> None:
    path = ring.save(tmp_path / "ring.key", recipients=ME)
    identity = ME.save(tmp_path / "me.identity")
    script = f"""
        import os, signal
        from infl.keys import Keyring
        ring = Keyring.load({str(path)!r}, {str(identity)!r})
        ring.rotate()
        os.{call} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        ring.save({str(path)!r}, overwrite=True)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -9
    assert Keyring.load(path, ME) == ring
    leftover = [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600 for name in leftover)
    again = Keyring.load(path, ME)
    again.rotate()
    again.save(path, overwrite=True)
    assert Keyring.load(path, ME).versions == [1, 2]


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, ring: Keyring) -> None:
    with pytest.raises(InflError, match=r"cannot write .*ring\.key"):
        ring.save(tmp_path / "no" / "ring.key", recipients=ME)


def test_changes_made_at_the_same_time_are_all_kept(tmp_path: Path, ring: Keyring) -> None:
    path = ring.save(tmp_path / "ring.key", recipients=ME)
    names = [f"site_{i}" for i in range(8)]

    def grant(name: str) -> None:
        with exclusive(path):
            mine = Keyring.load(path, ME)
            mine.grant(name, Identity.create())
            mine.save(path, overwrite=True)

    threads = [threading.Thread(target=grant, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Keyring.load(path, ME).members) == set(names)


def test_importing_keys_loads_no_heavy_package() -> None:
    code = "import sys, infl.keys; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "scanpy", "anndata", "pandas", "numpy", "matplotlib", "typer"} & set(loaded)


@pytest.mark.parametrize("kept", [10, -40, -1])
def test_a_cut_file_under_a_passphrase_is_damaged_and_the_passphrase_not_wrong(
    under_passphrase: Path, kept: int
) -> None:
    cut = under_passphrase.with_name("cut.key")
    cut.write_bytes(under_passphrase.read_bytes()[:kept])
    cut.chmod(0o600)
    with pytest.raises(FileError, match=r"damaged|not a key"):
        Keyring.load(cut, ME, passphrase=PASSPHRASE)
