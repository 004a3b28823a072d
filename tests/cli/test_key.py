"""``infl key``: what each command writes and says, and the one line when it cannot."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import infl
from infl.cli.key import app
from infl.errors import MAX_LENGTH, FileError, InflError, KeyringError
from infl.keys import Identity, Keyring

COMMANDS = ("new", "show", "rotate", "grant", "revoke", "import", "identity")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, a key holder's identity of its own, and no variables of the shell."""
    for name in ("INFL_KEY", "INFL_KEY_PASSPHRASE", "INFL_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(infl.settings, "identity", tmp_path / "config/holder.identity")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def infl_key(*arguments: object, **options) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], **options)


def ok(*arguments: object, **options) -> str:
    result = infl_key(*arguments, **options)
    assert result.exit_code == 0, result.exception or result.output
    return result.stdout


def refused(*arguments: object, kind: type[InflError] = KeyringError, **options) -> str:
    """Return the one line, which the entry point prints before it leaves with 2."""
    result = infl_key(*arguments, **options)
    assert type(result.exception) is kind, result.exception or result.output
    assert result.stdout == "" and len(str(result.exception)) < MAX_LENGTH
    return str(result.exception)


def make_site(name: str) -> Path:
    """A site's identity file; its public key is in NAME.pub."""
    ok("identity", name, "--identity", f"{name}.identity")
    return Path(f"{name}.identity")


@pytest.fixture
def consortium(folder: Path) -> Path:
    """consortium.key, with hospital_b and hospital_c granted."""
    ok("new", "consortium.key")
    for name in ("hospital_b", "hospital_c"):
        make_site(name)
        ok("grant", f"{name}.pub")
    return Path("consortium.key")


def is_private(path: Path | str) -> bool:
    return stat.S_IMODE(os.stat(path).st_mode) == 0o600


# -- new ---------------------------------------------------------------------------------------------------------------
def test_new_makes_a_ring_for_ones_own_identity_without_asking(folder: Path) -> None:
    out = ok("new", "consortium.key")
    ring = Keyring.load("consortium.key")
    assert out.splitlines()[0] == f"consortium.key: version 1, fingerprint {ring.fingerprint()}"
    assert f"Opens with your identity {infl.settings.identity}, and with nothing else" in out
    assert ring.is_holder and is_private("consortium.key") and is_private(infl.settings.identity)
    assert os.listdir() == ["consortium.key"]


def test_new_for_recipients_is_for_them_only(folder: Path) -> None:
    alice, bob = make_site("alice"), make_site("bob")
    ok("new", "ring.key", "--recipient", "alice.pub", "--recipient", Identity.load(bob).public)
    assert Keyring.load("ring.key", alice) == Keyring.load("ring.key", bob)
    assert not infl.settings.identity.exists()


def test_new_under_a_passphrase_from_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, age_by_hand: Callable[[bytes, str], bytes]
) -> None:
    monkeypatch.setattr("infl.keys.age.encrypt_under", age_by_hand)
    monkeypatch.setenv("INFL_KEY_PASSPHRASE", "correct horse")
    assert "Opens with its passphrase" in ok("new", "ring.key")
    assert Keyring.load("ring.key", passphrase="correct horse").fingerprint() in ok("show", "ring.key")


def test_a_passphrase_is_asked_for_twice_where_somebody_can_be_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def prompt(text: str, **options) -> str:
        asked.append((text, options))
        return "correct horse"

    monkeypatch.setattr("infl.cli.rings._is_terminal", lambda: True)
    monkeypatch.setattr(typer, "prompt", prompt)
    monkeypatch.setattr("infl.keys.age.encrypt_under", lambda content, passphrase: passphrase.encode())
    ok("new", "ring.key", "--passphrase")
    assert Path("ring.key").read_bytes() == b"correct horse"
    assert asked == [("Passphrase of ring.key", {"hide_input": True, "confirmation_prompt": True, "err": True})]


def test_without_a_terminal_nobody_is_asked(folder: Path) -> None:
    line = refused("new", "ring.key", "--passphrase")
    assert line == "ring.key needs a passphrase and there is nobody to ask: set INFL_KEY_PASSPHRASE"
    assert os.listdir() == []


def test_new_refuses_a_file_that_exists_and_two_ways_to_open_it(consortium: Path) -> None:
    before = consortium.read_bytes()
    assert "consortium.key exists: choose another name" in refused("new", "consortium.key", kind=FileError)
    assert "one of the two" in refused("new", "x.key", "--passphrase", "--recipient", "hospital_b.pub")
    assert "hospital_b.identity holds a private key" in refused("new", "x.key", "--recipient", "hospital_b.identity")
    assert consortium.read_bytes() == before and not Path("x.key").exists()


# -- show --------------------------------------------------------------------------------------------------------------
def test_show_names_fingerprints_versions_and_grants(consortium: Path) -> None:
    ok("rotate")
    ring, out = Keyring.load(consortium), ok("show", "consortium.key", "--trail")
    for text in (
        "consortium.key: the key holder’s ring",
        f"key holder    {ring.trail.holder_fingerprint()}",
        f"version 1     {ring.fingerprint(1)}\n",
        f"version 2     {ring.fingerprint(2)}  (current)",
        "granted       hospital_b: versions 1, 2",
        "create version 1",
        "grant hospital_c version 2",
    ):
        assert text in out
    assert "create" not in ok("show")


def test_show_as_json_is_everything_public_and_nothing_secret(consortium: Path) -> None:
    ring, out = Keyring.load(consortium), ok("show", "--json")
    public = json.loads(out)
    assert public["fingerprints"] == {"1": ring.fingerprint()} and public["is_holder"]
    assert public["members"] == {"hospital_b": [1], "hospital_c": [1]}
    assert infl.keys.Trail.from_json(public["trail"]) == ring.trail
    assert ring._signer is not None
    for secret in (ring._roots[1], ring._signer, ring.subkey("lock")):
        assert secret.hex() not in out and "AGE-SECRET" not in out


def test_a_ring_that_others_can_read_is_refused(consortium: Path) -> None:
    consortium.chmod(0o644)
    for command in (("show", "consortium.key"), ("rotate",), ("revoke", "hospital_b")):
        assert refused(*command) == "consortium.key can be read by others: chmod 600 consortium.key"


# -- which ring --------------------------------------------------------------------------------------------------------
def test_the_one_ring_in_the_folder_is_meant_and_copies_for_sites_are_not(
    consortium: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("site.key").write_text("# an identity, not a ring\n")
    assert "consortium.key: the key holder" in ok("show")
    ok("new", "other.key")
    assert refused("show") == (
        "several rings here (consortium.key, other.key): say which with --key FILE, or make one with `infl key new`"
    )
    assert "several rings" in refused("rotate")
    ok("rotate", "--key", "other.key")
    assert Keyring.load("other.key").versions == [1, 2] and Keyring.load(consortium).versions == [1]
    monkeypatch.setenv("INFL_KEY", "other.key")
    assert "other.key: the key holder" in ok("show")


def test_no_ring_in_the_folder_says_how_to_make_one(folder: Path) -> None:
    assert refused("rotate") == ("no ring in this folder: say which with --key FILE, or make one with `infl key new`")
    assert "No such file" in refused("rotate", "--key", "no.key", kind=FileError)


# -- grant, rotate, revoke, import ---------------------------------------------------------------------------------------
def test_a_grant_is_a_file_that_the_site_alone_can_open(consortium: Path) -> None:
    path = Path("consortium.hospital_b.key")
    granted = Keyring.load(path, "hospital_b.identity")
    assert is_private(path) and granted == Keyring.load(consortium) and not granted.is_holder
    for other in ("hospital_c.identity", infl.settings.identity):
        with pytest.raises(KeyringError, match="was not made for"):
            Keyring.load(path, other)


def test_granted_again_only_the_file_is_written_again(consortium: Path) -> None:
    trail = Keyring.load(consortium).trail
    Path("consortium.hospital_b.key").unlink()
    assert "hospital_b: already had version 1" in ok("grant", "hospital_b.pub")
    assert Path("consortium.hospital_b.key").exists() and Keyring.load(consortium).trail == trail


def test_grant_takes_a_name_older_versions_and_a_file(consortium: Path) -> None:
    ok("rotate")
    site = make_site("d")
    public = Identity.load(site).public
    assert refused("grant", public) == "whose public key is it? give --name SITE, or the key's file SITE.pub"
    out = ok("grant", public, "--name", "hospital_d", "--all-versions", "--out", "for_d.key")
    assert "hospital_d: granted versions 1, 2" in out and "for_d.key: for hospital_d, who alone can open it" in out
    assert Keyring.load("for_d.key", site).versions == [1, 2]
    assert not Path("consortium.hospital_d.key").exists()


def test_a_grant_replaces_no_file_that_is_not_an_earlier_grant(consortium: Path) -> None:
    before = make_site("hospital_d").read_text()
    trail = Keyring.load(consortium).trail
    line = refused("grant", "hospital_d.pub", "--out", "hospital_d.identity", kind=FileError)
    assert line.startswith(
        "hospital_d.identity is in the way of the file for hospital_d: move it, or name another with"
    )
    Path("hospital_d.identity").rename("consortium.hospital_d.key")
    assert "in the way" in refused("grant", "hospital_d.pub", kind=FileError)
    Path("hospital_b.identity").rename("consortium.hospital_b.key")
    for command in (("rotate",), ("revoke", "hospital_c")):
        assert "consortium.hospital_b.key is in the way" in refused(*command, kind=FileError)
    assert Path("consortium.hospital_d.key").read_text() == before and Keyring.load(consortium).trail == trail


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("grant", "broken.pub"), "broken.pub is not an age public key (age1…): make a pair with"),
        (("grant", "hospital_b.identity"), "hospital_b.identity holds a private key"),
        (("grant", "hospital_b.pub", "--name", "again"), "'again' has the public key of 'hospital_b'"),
        (("grant", "twin/hospital_b.pub"), "a site 'hospital_b' with another public key has a grant"),
        (("revoke", "hospital_x"), "'hospital_x' has no grant: sites with one are hospital_b, hospital_c"),
        (("grant", "hospital_b.pub", "--identity", "hospital_c.identity"), "was not made for the identity age1"),
    ],
)
def test_what_cannot_be_granted_or_revoked_changes_nothing(
    consortium: Path, arguments: tuple[str, ...], line: str
) -> None:
    Path("broken.pub").write_text("age1broken\n")
    Path("twin").mkdir()
    Identity.create().save_public("twin/hospital_b.pub")
    before = {path: path.read_bytes() for path in Path().glob("*.key")}
    assert line in refused(*arguments)
    assert {path: path.read_bytes() for path in Path().glob("*.key")} == before


def test_grant_rotate_revoke_import(consortium: Path) -> None:
    """The revoked site's ring opens the old version and not the new one; the others open both."""
    for name in ("hospital_b", "hospital_c"):
        Path(f"consortium.{name}.key").chmod(0o644)  # as it comes by mail
        out = ok("import", f"consortium.{name}.key", "--into", f"{name}.ring", "--identity", f"{name}.identity")
        assert f"{name}.ring: version 1" in out and "compare it with the key holder's" in out
        assert is_private(f"{name}.ring")
    out = ok("revoke", "hospital_b")
    assert "hospital_b revoked; version 2" in out and "hospital_b keeps what it holds" in out
    assert "consortium.hospital_c.key: for hospital_c" in out and "consortium.hospital_b.key" not in out
    ring = Keyring.load(consortium)

    import_c = ("import", "consortium.hospital_c.key", "--into", "hospital_c.ring", "--identity", "hospital_c.identity")
    out = ok(*import_c)
    assert "hospital_c.ring: version 2 added" in out and ring.fingerprint() in out
    assert "nothing new" in ok(*import_c)
    remaining = Keyring.load("hospital_c.ring", "hospital_c.identity")
    revoked = Keyring.load("hospital_b.ring", "hospital_b.identity")
    assert remaining == ring and revoked.versions == [1]
    remaining.check(1, ring.fingerprint(1))
    remaining.check(2, ring.fingerprint(2))
    revoked.check(1, ring.fingerprint(1))
    with pytest.raises(KeyringError, match="key version 2 needed, ring has 1"):
        revoked.check(2, ring.fingerprint(2))
    assert "a granted ring" in ok("show", "hospital_c.ring", "--identity", "hospital_c.identity")
    for command in (("rotate",), ("revoke", "hospital_b"), ("grant", "hospital_b.pub")):
        line = refused(*command, "--key", "hospital_c.ring", "--identity", "hospital_c.identity")
        assert "this ring was granted and cannot" in line


def test_rotate_writes_each_site_its_file_anew(consortium: Path) -> None:
    out = ok("rotate")
    assert out.count("who alone can open it") == 2
    for name in ("hospital_b", "hospital_c"):
        assert Keyring.load(f"consortium.{name}.key", f"{name}.identity").versions == [1, 2]


def test_import_refuses_what_it_should_not_take(consortium: Path) -> None:
    mine = ("--into", "b.ring", "--identity", "hospital_b.identity")
    old = Path("consortium.hospital_b.key").read_bytes()
    ok("rotate")
    holder = Keyring.load(consortium).trail.holder_fingerprint()
    line = refused("import", "consortium.hospital_b.key", *mine, "--holder", "aaaa-bbbb")
    assert line.startswith(f"consortium.hospital_b.key is from the key holder {holder}, not aaaa-bbbb")
    assert not Path("b.ring").exists()
    ok("import", "consortium.hospital_b.key", *mine, "--holder", holder)
    before = Path("b.ring").read_bytes()

    Path("old.key").write_bytes(old)
    assert "older than this ring" in refused("import", "old.key", *mine)
    ok("new", "other.key")
    ok("grant", "hospital_b.pub", "--key", "other.key")
    assert "another consortium's" in refused("import", "other.hospital_b.key", *mine)
    assert "was not made for the identity" in refused("import", "consortium.hospital_c.key", *mine)
    assert "a key holder's own ring and should not travel" in refused("import", "other.key", "--into", "x.ring")
    assert "the key holder's own ring: import into another file" in refused(
        "import", "consortium.hospital_b.key", "--identity", "hospital_b.identity", "--into", own_ring()
    )
    assert Path("b.ring").read_bytes() == before


def own_ring() -> Path:
    """A key holder's ring that hospital_b's identity opens."""
    return Keyring.create().save("own.key", recipients="hospital_b.pub")


# -- identity and passphrases --------------------------------------------------------------------------------------------
def test_identity_makes_ones_own_once_and_writes_its_public_key(folder: Path) -> None:
    out = ok("identity", "hospital_b")
    mine = Identity.own()
    assert Path("hospital_b.pub").read_text().strip() == mine.public_line and mine.public_line in out
    assert "SECRET" not in out and is_private(infl.settings.identity)
    assert ok("identity", "hospital_b") == out and Identity.own() == mine
    Path("hospital_b.pub").write_text("something else\n")
    assert "hospital_b.pub exists" in refused("identity", "hospital_b", kind=FileError)
    line = refused("identity", "hospital_b", "--passphrase", kind=FileError)
    assert line == f"{infl.settings.identity} exists already: name another with --identity"


def test_an_identity_under_a_passphrase(
    consortium: Path, age_by_hand: Callable[[bytes, str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path("hospital_b.identity")
    locked = Path("locked.identity")
    locked.write_bytes(age_by_hand(plain.read_bytes(), "correct horse"))
    locked.chmod(0o600)
    show = ("show", "consortium.hospital_b.key", "--identity", "locked.identity")
    assert refused(*show) == "locked.identity needs a passphrase and there is nobody to ask: set INFL_KEY_PASSPHRASE"
    monkeypatch.setenv("INFL_KEY_PASSPHRASE", "wrong")
    assert refused(*show) == "locked.identity: wrong passphrase"
    monkeypatch.setenv("INFL_KEY_PASSPHRASE", "correct horse")
    assert "a granted ring" in ok(*show)
    ok("import", "consortium.hospital_b.key", "--into", "b.ring", "--identity", "locked.identity")
    assert Keyring.load("b.ring", plain).versions == [1]


def test_a_ring_under_a_passphrase_stays_under_it(
    folder: Path, age_by_hand: Callable[[bytes, str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from infl.keys.payload import pack

    ring = Keyring.create()
    Path("ring.key").write_bytes(age_by_hand(pack(ring._roots, ring._signer, (), ring.trail), "correct horse"))
    Path("ring.key").chmod(0o600)
    monkeypatch.setattr("infl.keys.age.encrypt_under", age_by_hand)
    assert "there is nobody to ask" in refused("rotate")
    monkeypatch.setenv("INFL_KEY_PASSPHRASE", "wrong")
    assert refused("rotate") == "ring.key: wrong passphrase"
    monkeypatch.setenv("INFL_KEY_PASSPHRASE", "correct horse")
    ok("rotate")
    assert Keyring.load("ring.key", passphrase="correct horse").versions == [1, 2]


# -- all of them ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_an_example(command: str) -> None:
    assert f"Example: infl key {command} " in ok(command, "--help").replace("`", "")


def test_no_command_takes_a_secret_as_an_argument() -> None:
    for command in COMMANDS:
        out = ok(command, "--help")
        assert "--passphrase <" not in out and "--passphrase TEXT" not in out


def test_the_way_of_the_documentation_in_a_shell(folder: Path) -> None:
    """``infl key new consortium.key && infl key grant hospital_b.pub``, and what a mistake looks like."""
    Identity.create().save_public("hospital_b.pub")
    environment = os.environ | {"INFL_IDENTITY": str(folder / "me.identity")}

    def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from infl.cli import main; main()", "key", *arguments],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, check=False,
        )  # fmt: skip

    assert shell("new", "consortium.key").returncode == 0
    done = shell("grant", "hospital_b.pub")
    assert done.returncode == 0 and done.stdout.startswith("hospital_b: granted version 1\n") and done.stderr == ""
    wrong = shell("revoke", "hospital_x")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr == "infl: 'hospital_x' has no grant: sites with one are hospital_b\n"
