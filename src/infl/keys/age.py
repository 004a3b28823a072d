"""The age file format (https://age-encryption.org/v1) by pyrage, bytes in and bytes out; and private files.

What is encrypted to recipients opens with any of their identities; what is under a passphrase opens with that alone.
Both are files of the ``age`` command, which can read and write them too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyrage

from infl._files import explained, write_atomic
from infl.errors import FileError, KeyringError

Source = str | os.PathLike[str]

_MAGIC = b"age-encryption.org/v1\n"
_TRIES = 5
"""How much work is too much, age measures anew each time; a machine that is busy for a moment measures too little."""


def is_age(content: bytes) -> bool:
    """Whether `content` begins like an age file."""
    return content.startswith(_MAGIC)


def is_under_passphrase(content: bytes) -> bool:
    """Whether the age file `content` opens with a passphrase and not with an identity."""
    return content.startswith(_MAGIC + b"-> scrypt ")


def encrypt_to(content: bytes, public_keys: Iterable[str]) -> bytes:
    """Return an age file that opens with the identity of any of `public_keys`."""
    return pyrage.encrypt(content, [pyrage.x25519.Recipient.from_str(key) for key in public_keys])


def encrypt_under(content: bytes, passphrase: str) -> bytes:
    """Return an age file under `passphrase`, which takes a second on purpose (scrypt)."""
    if not passphrase:
        raise KeyringError("the passphrase is empty: choose several random words")
    return pyrage.passphrase.encrypt(content, passphrase)


def decrypt_with(content: bytes, secret: pyrage.x25519.Identity, *, source: Source) -> bytes:
    """Return what is in the age file `content`, which `source` names in errors."""
    problem, plain = _attempt(lambda: pyrage.decrypt(content, [secret]))
    if problem == "No matching keys found":
        raise KeyringError(f"{source} was not made for the identity {secret.to_public()}: name the right one")
    return _undamaged(plain, source)


def decrypt_under(content: bytes, passphrase: str | None, *, source: Source) -> bytes:
    """Return what is in the age file `content` under `passphrase`; `source` names it in errors."""
    if passphrase is None:
        raise KeyringError(f"{source} is under a passphrase: give it (passphrase=, or INFL_KEY_PASSPHRASE in a shell)")
    for _ in range(_TRIES):
        problem, plain = _attempt(lambda: pyrage.passphrase.decrypt(content, passphrase))
        if not (too_much := problem.startswith("Excessive work")):
            break
    if too_much:
        raise KeyringError(
            f"{source} takes more work to open than this machine can do now: try again when it is less busy, or on a faster one"
        )
    if problem == "Decryption failed":
        raise KeyringError(f"{source}: wrong passphrase")
    return _undamaged(plain, source)


def _attempt(decrypt: Callable[[], bytes]) -> tuple[str, bytes | None]:
    try:
        return "", decrypt()
    except pyrage.DecryptError as error:
        return str(error), None


def _undamaged(plain: bytes | None, source: Source) -> bytes:
    if plain is None:
        raise FileError(f"{source} is damaged: get it again, or take a copy")
    return plain


def read_private(path: Source, *, check_mode: bool = True) -> bytes:
    """Return the bytes of a file that only its owner may read."""
    path = Path(path).expanduser()
    with explained(path, "read"), path.open("rb") as file:
        # of the open file, so that what is checked is what is read; Windows has no such bits
        if check_mode and os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise KeyringError(f"{path} can be read by others: chmod 600 {path}")
        return file.read()


def write_private(path: Source, content: bytes, *, overwrite: bool = False) -> Path:
    """Write a file of mode 0600 in one step; through a link, to where it points."""
    return write_atomic(Path(os.path.realpath(Path(path).expanduser())), content, overwrite=overwrite, mode=0o600)


@contextmanager
def exclusive(path: Source) -> Iterator[None]:
    """Let one process at a time read, change and replace `path`, so that none of their changes is lost."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = Path(path).expanduser()
    with explained(path, "read"):
        while True:
            handle = os.open(path, os.O_RDONLY)
            with suppress(OSError):  # file systems without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
            os.close(handle)  # replaced while we waited: queue for the new one
    try:
        yield
    finally:
        os.close(handle)
