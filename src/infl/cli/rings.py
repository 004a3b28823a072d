"""Rings and identities that commands make, find and open, and passphrases that they ask for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infl.errors import FileError, KeyringError

if TYPE_CHECKING:
    from infl.keys import Identity, Keyring

Ring = Annotated[
    Path | None,
    typer.Option("--key", envvar="INFL_KEY", help="The ring's file.  [default: the one ring in this folder]"),
]
IdentityFile = Annotated[
    Path | None,
    typer.Option("--identity", help="Identity file that opens it.  [default: your own, see `infl key identity`]"),
]


def make_ring(file: Path, recipient: list[str] | None = None, passphrase: bool = False) -> Keyring:
    """Make a ring, save it as `infl key new` does, and say what opens it."""
    from infl.keys import Keyring
    from infl.keys.identity import own_path

    if file.exists():
        raise FileError(f"{file} exists: choose another name, or add a version to it with `infl key rotate`")
    ring = Keyring.create()
    if recipient:
        if passphrase:
            raise KeyringError("give --recipient or --passphrase, one of the two")
        ring.save(file, recipients=recipient)
        opens = "the identities of its recipients"
    elif passphrase or os.environ.get("INFL_KEY_PASSPHRASE"):
        ring.save(file, passphrase=ask_passphrase(str(file), confirm=True))
        opens = "its passphrase"
    else:
        ring.save(file)
        opens = f"your identity {own_path()}"
    typer.echo(f"{file}: version {ring.current}, fingerprint {ring.fingerprint()}")
    typer.echo(f"Opens with {opens}, and with nothing else: keep a copy of both in a safe place.")
    return ring


def open_ring(file: Path, identity: Path | None = None, *, in_transit: bool = False) -> Keyring:
    """Open a ring for a command, and ask for a passphrase where one is needed and somebody can be asked."""
    from infl.keys import Keyring

    return Keyring.load(file, identity, passphrase_of(file, identity), in_transit=in_transit)


def passphrase_of(file: Path, identity: Path | None) -> str | None:
    """Return the passphrase of the ring `file`, or of the identity that opens it; None if neither is under one."""
    from infl.keys.identity import own_path

    for path in (file, own_path() if identity is None else identity):
        if is_under_passphrase(path):
            return ask_passphrase(str(path))
    return None


def is_under_passphrase(path: Path) -> bool:
    """Whether a file is under a passphrase."""
    from infl.keys import age

    try:
        with open(path, "rb") as file:
            return age.is_under_passphrase(file.read(64))
    except OSError:
        return False  # whoever opens it says what is wrong


def ask_passphrase(what: str, *, confirm: bool = False) -> str:
    """Return the passphrase of the environment, or of the person at the terminal.

    Raises
    ------
    KeyringError
        There is neither.
    """
    value = os.environ.get("INFL_KEY_PASSPHRASE")
    if value:
        return value
    if not _is_terminal():
        raise KeyringError(f"{what} needs a passphrase and there is nobody to ask: set INFL_KEY_PASSPHRASE")
    return typer.prompt(f"Passphrase of {what}", hide_input=True, confirmation_prompt=confirm, err=True)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def open_identity(path: Path | None, *, create: bool = False, passphrase: bool = False) -> Identity:
    """Open an identity file, the user's own by default; with `create`, make it where it is missing."""
    from infl.keys import Identity
    from infl.keys.identity import own_path

    file = own_path() if path is None else path
    if file.exists() or not create:
        return Identity.load(file, ask_passphrase(str(file)) if is_under_passphrase(file) else None)
    if path is None and not passphrase:
        return Identity.own(create=True)
    made = Identity.create()
    secret = ask_passphrase(str(file), confirm=True) if passphrase else None
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made.save(file, secret)
    return made


def find_ring(file: Path | None) -> Path:
    """Return the ring that is meant: `file`, else the only one in this folder that is not a copy for a site."""
    if file is not None:
        return file
    from infl.keys.age import is_age

    names = {path.name for path in Path().glob("*.key")}
    found = []
    for path in map(Path, sorted(names)):
        parts = path.stem.split(".")
        is_copy = any(".".join(parts[:n]) + ".key" in names for n in range(1, len(parts)))
        if not is_copy and path.is_file() and is_age(path.read_bytes()):
            found.append(path)
    if len(found) != 1:
        what = f"several rings here ({', '.join(map(str, found))})" if found else "no ring in this folder"
        raise KeyringError(f"{what}: say which with --key FILE, or make one with `infl key new`")
    return found[0]


@contextmanager
def changing(file: Path, identity: Path | None) -> Iterator[Keyring]:
    """Open a ring, let it be changed, and save it as it was protected; one command at a time."""
    from infl.keys import Keyring
    from infl.keys.age import exclusive

    with exclusive(file):
        secret = passphrase_of(file, identity)
        ring = Keyring.load(file, identity, secret)
        yield ring
        ring.save(file, passphrase=secret if is_under_passphrase(file) else None, overwrite=True)
