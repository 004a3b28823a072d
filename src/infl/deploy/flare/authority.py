"""The authority of a consortium: its key signs certificates and nothing else. It may lie elsewhere, and be under a passphrase."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infl._files import explained, write_atomic
from infl.deploy.flare.commands import nvflare
from infl.errors import FederationError, FileError

PASSPHRASE = "INFL_CA_PASSPHRASE"
"""Environment variable with the passphrase of the authority's key."""
KEY, CERTIFICATE = "rootCA.key", "rootCA.pem"


def make(home: Path) -> None:
    """Make an authority in a coordinator's folder; its key is under the passphrase in :data:`PASSPHRASE`, if there is one."""
    from cryptography.hazmat.primitives import serialization as form

    nvflare(home, "cert", "init", "--profile", home / "profile.yml", "-o", home / "ca")
    if passphrase := os.environ.get(PASSPHRASE):
        key = form.load_pem_private_key((home / "ca" / KEY).read_bytes(), None)
        under = form.BestAvailableEncryption(passphrase.encode())
        content = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, under)
        write_atomic(home / "ca" / KEY, content, overwrite=True, mode=0o600)


def rotate(home: Path, name: str) -> Path:
    """Make another authority, and put the old one aside under a name; return where. The old one stays where that fails."""
    aside = home / f"ca.{name}"
    (home / "ca").rename(aside)
    try:
        make(home)
    except BaseException:
        shutil.rmtree(home / "ca", ignore_errors=True)
        aside.rename(home / "ca")
        raise
    return aside


def sign(home: Path, request: Path, out: Path, days: int, ca: Path | None = None) -> Path:
    """Have FLARE sign a request, whatever it is for.

    Raises
    ------
    FileError
        The key is not there, or its passphrase is missing or wrong.
    FederationError
        `ca` is another authority than the coordinator's.
    """
    ca, own = ca or home / "ca", home / "ca" / CERTIFICATE
    if not (ca / KEY).exists():
        raise FileError(f"{ca} has no {KEY}, which signs: name the folder that has it with --ca")
    with explained(ca, "read"):
        if (ca / CERTIFICATE).read_bytes() != own.read_bytes():
            raise FederationError(f"{ca} is another authority than {own}: name the folder that was made with it")
    with _opened(ca) as usable:
        nvflare(
            home, "cert", "approve", request, "-c", usable, "--profile", home / "profile.yml", "--out", out,
            "--valid-days", days,
        )  # fmt: skip
    return out


@contextmanager
def _opened(ca: Path) -> Iterator[Path]:
    """Yield a folder whose key FLARE can use: for as long as it takes in memory, where the key is under a passphrase."""
    from cryptography.hazmat.primitives import serialization as form

    content = (ca / KEY).read_bytes()
    if b"ENCRYPTED" not in content:
        yield ca
        return
    if not (passphrase := os.environ.get(PASSPHRASE)):
        raise FileError(f"{ca / KEY} is under a passphrase: give it in the environment variable {PASSPHRASE}")
    try:
        key = form.load_pem_private_key(content, passphrase.encode())
    except ValueError:
        raise FileError(f"{ca / KEY} does not open with the passphrase in {PASSPHRASE}: give the right one") from None
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as work:
        for path in ca.iterdir():
            if path.is_file() and path.name != KEY:
                shutil.copy(path, work)
        clear = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        write_atomic(Path(work) / KEY, clear, mode=0o600)
        yield Path(work)
