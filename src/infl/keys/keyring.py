"""Key rings: 256-bit root keys in versions, and subkeys derived from them."""

from __future__ import annotations

import hmac
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from infl._files import explained, write_atomic
from infl.errors import FileError, KeyringError

ROOT_BYTES = 32
FORMAT = 1
LABELS = {
    "lock": "coordinate field of the weights",
    "published": "coordinates of the published method",
    "seal": "masks and tags of what travels",
    "ledger": "authentication of a site's ledger",
    "file": "private arrays of a model file",
    "checkpoint": "the sites' checkpoints",
    "grants": "authentication of the trail of grants",
    "fingerprint": "the public name of a key",
}
"""What each subkey is for. Two purposes never share one."""


class Keyring:
    """Root keys by version. They stay with the sites; the coordinator never has them.

    Made by :meth:`create`, read by :meth:`load`. Neither ``repr`` nor pickling gives a key away.

    Examples
    --------
    >>> ring = Keyring.create()
    >>> ring.versions, ring.rotate(), ring.versions
    ([1], 2, [1, 2])
    >>> len(ring.subkey("lock", salt=b"model"))
    32
    """

    __slots__ = ("_roots",)

    def __init__(self) -> None:
        raise TypeError("make a key ring with Keyring.create() or Keyring.load(path)")

    @classmethod
    def create(cls) -> Keyring:
        """Return a ring with one fresh key from the operating system."""
        return cls._from_roots({1: os.urandom(ROOT_BYTES)})

    @classmethod
    def _from_roots(cls, roots: Mapping[int, bytes]) -> Keyring:
        ring = object.__new__(cls)
        ring._roots = dict(sorted(roots.items()))
        return ring

    # -- what is public --------------------------------------------------------------------------------------------
    @property
    def versions(self) -> list[int]:
        """Version numbers in the ring, ascending."""
        return list(self._roots)

    @property
    def current(self) -> int:
        """The newest version; new runs and models use it."""
        return self.versions[-1]

    def fingerprint(self, version: int | None = None) -> str:
        """Return the public name of a version (default: the current one): 16 hexadecimal digits in groups.

        Raises
        ------
        KeyringError
            The ring does not have the version.
        """
        text = self.subkey("fingerprint", version=version, length=8).hex()
        return "-".join(text[i : i + 4] for i in range(0, 16, 4))

    def check(self, version: int, fingerprint: str) -> None:
        """Refuse, before anything is computed, a model or message that this ring does not open.

        Raises
        ------
        KeyringError
            Names the version and fingerprint that are needed and those in the ring.
        """
        if version not in self._roots:
            raise KeyringError(
                f"key version {version} ({fingerprint}) is needed, this ring has {self._shown_versions()}"
            )
        own = self.fingerprint(version)
        if not hmac.compare_digest(own, fingerprint):
            raise KeyringError(
                f"wrong key: {fingerprint} (version {version}) is needed, this ring's version {version} is {own}"
            )

    def _shown_versions(self) -> str:
        versions = self.versions
        whole = versions == list(range(versions[0], versions[-1] + 1)) and len(versions) > 1
        return f"{versions[0]}–{versions[-1]}" if whole else ", ".join(map(str, versions))

    # -- what is secret --------------------------------------------------------------------------------------------
    def subkey(self, label: str, *, version: int | None = None, salt: bytes = b"", length: int = 32) -> bytes:
        """Return a secret for one purpose, by HKDF-SHA256 (RFC 5869).

        Parameters
        ----------
        label
            One of :data:`LABELS`.
        version
            Key version (default: the current one).
        salt
            Public; separates models and runs.
        length
            Bytes.

        Raises
        ------
        KeyringError
            Unknown label, or the ring does not have the version.
        """
        if label not in LABELS:
            raise KeyringError(f"no subkey has the label {label!r}: one of {', '.join(LABELS)}")
        version = self.current if version is None else version
        if version not in self._roots:
            raise KeyringError(f"key version {version} is needed, this ring has {self._shown_versions()}")
        info = f"infl {label} v{version}".encode()
        return HKDF(SHA256(), length, salt or None, info).derive(self._roots[version])

    def rotate(self) -> int:
        """Add a fresh key as the new current version, and return its number. Old versions keep opening old models."""
        self._roots[self.current + 1] = os.urandom(ROOT_BYTES)
        return self.current

    def only(self, versions: Sequence[int]) -> Keyring:
        """Return a ring with some of the versions, to be granted."""
        missing = [v for v in versions if v not in self._roots]
        if missing or not versions:
            raise KeyringError(
                f"key version {missing[0] if missing else '?'} is needed, this ring has {self._shown_versions()}"
            )
        return Keyring._from_roots({v: self._roots[v] for v in versions})

    # -- files -----------------------------------------------------------------------------------------------------
    def save(
        self,
        path: str | Path,
        recipients: Sequence[str] | None = None,
        passphrase: str | None = None,
        *,
        overwrite: bool = False,
    ) -> Path:
        """Write the ring, encrypted in the age format, readable by its owner only.

        Parameters
        ----------
        path
            Where.
        recipients
            age X25519 public keys (``age1…``) that can open it.
        passphrase
            Opens it instead.
        overwrite
            Replace a file that exists.

        Raises
        ------
        KeyringError
            Neither or both of `recipients` and `passphrase`, or something that is no age public key.
        FileError
            The file exists or cannot be written; nothing is left behind.
        """
        import pyrage

        if (recipients is None) == (passphrase is None) or recipients == [] or passphrase == "":
            raise KeyringError("save the ring either for recipients=['age1…'] or under a passphrase=")
        content = {"infl_keyring": FORMAT, "roots": {str(v): root.hex() for v, root in self._roots.items()}}
        plain = json.dumps(content).encode()
        if passphrase is not None:
            sealed = pyrage.passphrase.encrypt(plain, passphrase)
        else:
            sealed = pyrage.encrypt(plain, [recipient(r) for r in recipients or ()])
        return write_atomic(path, sealed, overwrite=overwrite, mode=0o600)

    @classmethod
    def load(cls, path: str | Path, identity: object = None, passphrase: str | None = None) -> Keyring:
        """Read a ring.

        Parameters
        ----------
        path
            Written by :meth:`save`.
        identity
            The age identity that opens it: an :class:`Identity`, or the path of its file.
        passphrase
            The passphrase that opens it.

        Raises
        ------
        FileError
            Not there, damaged, no key ring, of another format, or readable by others.
        KeyringError
            Opened by another passphrase or identity.
        """
        from infl.keys.identity import Identity

        path = Path(path)
        check_private(path)
        with explained(path, "read"):
            content = path.read_bytes()
        if passphrase is None and identity is None:
            raise KeyringError(f"{path} is encrypted: pass identity= (a file) or passphrase=")
        plain = _decrypt(path, content, None if identity is None else Identity.coerce(identity), passphrase)
        try:
            raw = json.loads(plain)
            version = raw["infl_keyring"]
            roots = {int(v): bytes.fromhex(root) for v, root in raw["roots"].items()} if version == FORMAT else {}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FileError(f"{path} is an age file, but holds no key ring") from None
        if version != FORMAT:
            raise FileError(f"{path} has key ring format {version!r}; this infl reads {FORMAT}: install a newer infl")
        if not roots or any(len(root) != ROOT_BYTES or v < 1 for v, root in roots.items()):
            raise FileError(f"{path} is an age file, but holds no whole key ring")
        return cls._from_roots(roots)

    # -- no secret in any text -------------------------------------------------------------------------------------
    def __repr__(self) -> str:
        names = ", ".join(f"{v}: {self.fingerprint(v)}" for v in self.versions)
        return f"Keyring({names})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{v}</td><td><code>{self.fingerprint(v)}</code></td></tr>" for v in self.versions)
        return f"<table><caption>infl key ring</caption><tr><th>version</th><th>fingerprint</th></tr>{rows}</table>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Keyring):
            return NotImplemented
        same = [hmac.compare_digest(self._roots[v], other._roots[v]) for v in self._roots if v in other._roots]
        return self.versions == other.versions and all(same)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key ring is not pickled: save it with ring.save(path, passphrase=…)")


def recipient(text: str) -> object:
    """Return an age recipient, or say in one line that it is none."""
    import pyrage

    try:
        return pyrage.x25519.Recipient.from_str(text.strip())
    except (pyrage.RecipientError, AttributeError, TypeError):
        raise KeyringError(f"{str(text)[:40]!r} is no age public key: it begins with 'age1'") from None


def check_private(path: Path) -> None:
    """Refuse a secret file that others can read.

    Raises
    ------
    FileError
        Group or others have a permission; the message has the command that mends it.
    """
    with explained(path, "read"):
        mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise FileError(f"{path} can be read by others (mode {mode:o}): chmod 600 {path}")


def _decrypt(path: Path, content: bytes, identity: object, passphrase: str | None) -> bytes:
    import pyrage

    if not content.startswith(b"age-encryption.org/v1"):
        raise FileError(f"{path} is no age file: a key ring is written by Keyring.save or 'infl key new'")
    try:
        if passphrase is not None:
            return pyrage.passphrase.decrypt(content, passphrase)
        return pyrage.decrypt(content, [identity.secret])  # type: ignore[attr-defined]
    except pyrage.DecryptError as error:
        what = "passphrase" if passphrase is not None else "identity"
        text = str(error).lower()
        if "mac" in text or "header" in text or "chunk" in text:
            raise FileError(f"{path} is damaged: get it again") from None
        raise KeyringError(f"{path} is not opened by this {what}, or is damaged") from None
