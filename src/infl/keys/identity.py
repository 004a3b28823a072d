"""Identities and recipients: the two halves of an X25519 key pair, as age writes them.

An *identity* is the private half; its public half, ``age1…``, is a *recipient*. Identity files are those of ``age-keygen``.

With a signature a site shows in a run which member it is. The signing key (Ed25519) follows from the identity by HKDF, so
there is one secret to keep, and an identity file of any age has it. Its public half stands beside the recipient in
``NAME.pub``: ``age1… ed25519:…``. An older ``NAME.pub`` has the recipient alone; write it anew with `infl key identity NAME`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import pyrage

from infl._files import explained, write_atomic
from infl.errors import FileError, KeyringError, SettingsError
from infl.keys import age
from infl.keys.derive import derive_own

_SIGNS = re.compile(r"ed25519:([0-9a-f]{64})")
_SECRET = "AGE-SECRET-KEY-"
_LARGEST_TEXT = 65536  # bytes of an identity or recipient file; anything longer is something else


class Identity:
    """A site's or a person's private key. It opens the files that were encrypted to its public key.

    Make one with :meth:`create`, or open one with :meth:`load` or :meth:`own`. Its repr shows the public key only, and
    it cannot be pickled.

    Examples
    --------
    >>> identity = Identity.create()
    >>> identity.public[:4]
    'age1'
    """

    __slots__ = ("_secret",)
    _secret: pyrage.x25519.Identity

    def __init__(self) -> None:
        raise TypeError("use Identity.create(), Identity.load(path) or Identity.own()")

    @classmethod
    def _from_text(cls, secret: str) -> Identity:
        identity = object.__new__(cls)
        identity._secret = pyrage.x25519.Identity.from_str(secret)
        return identity

    @classmethod
    def create(cls) -> Identity:
        """Make an identity from the operating system's randomness."""
        return cls._from_text(str(pyrage.x25519.Identity.generate()))

    @classmethod
    def load(cls, path: str | os.PathLike[str], passphrase: str | None = None) -> Identity:
        """Read an identity from a file, its own or that of ``age-keygen``.

        Parameters
        ----------
        path
            A file that only its owner can read.
        passphrase
            Needed if the file is under one.

        Raises
        ------
        FileError, KeyringError
            There is no such file, others can read it, or it does not hold one identity.
        """
        _refuse_secret_text(path, "the path of an identity file")
        content = age.read_private(path)
        if age.is_under_passphrase(content):
            content = age.decrypt_under(content, passphrase, source=path)
        lines = [s for line in _text(content).splitlines() if (s := line.strip()) and not s.startswith("#")]
        if len(lines) == 1 and lines[0].startswith(_SECRET):
            try:
                return cls._from_text(lines[0])
            except pyrage.IdentityError:
                pass  # raised below, outside of this block: the line must not ride along as an exception's context
        raise FileError(f"{path} is not an identity file, or damaged: make one with `infl key identity NAME`")

    @classmethod
    def own(cls, *, create: bool = False, passphrase: str | None = None) -> Identity:
        """Return the user's own identity, kept at :func:`own_path`.

        Parameters
        ----------
        create
            Make it if there is none, and log that it was made.
        passphrase
            Needed if the file is under one.
        """
        import logging  # which with what it needs takes milliseconds

        path = own_path()
        if path.exists():
            return cls.load(path, passphrase)
        if not create:
            raise KeyringError(
                f"you have no identity at {path}: make one with `infl key identity NAME`, or name another"
            )
        with explained(path.parent, "make the folder"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = cls.create()
        try:
            identity.save(path)
        except FileError:
            if path.exists():  # another process was quicker: its identity is the user's own
                return cls.load(path, passphrase)
            raise
        logging.getLogger("infl").warning(
            "made your identity %s: keep a copy in a safe place, nothing else opens what is made for it", path
        )
        return identity

    @property
    def public(self) -> str:
        """The public key, ``age1…``, to which others encrypt."""
        return str(self._secret.to_public())

    @property
    def verifier(self) -> str:
        """The Ed25519 public key that checks this identity's signatures, in hexadecimal."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.subkey("sign")).public_key().public_bytes_raw().hex()

    @property
    def public_line(self) -> str:
        """What ``NAME.pub`` has, and the key holder is given: both public keys, ``age1… ed25519:…``."""
        return f"{self.public} ed25519:{self.verifier}"

    def sign(self, statement: bytes) -> bytes:
        """Return the signature (64 bytes) that :attr:`verifier` checks.

        Examples
        --------
        >>> len(Identity.create().sign(b"here I am"))
        64
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.subkey("sign")).sign(statement)

    def subkey(self, label: str, *, salt: bytes = b"") -> bytes:
        """Return 32 secret bytes for one use of this site alone, by HKDF-SHA256.

        Parameters
        ----------
        label
            The use: ``"ledger"`` or ``"checkpoint"`` of runs between machines, ``"log"``, ``"sign"``.
        salt
            Public bytes that set one run apart from the next.
        """
        return derive_own(str(self._secret).encode(), label, salt=salt)

    def save(self, path: str | os.PathLike[str], passphrase: str | None = None, *, overwrite: bool = False) -> Path:
        """Write the private key to a file of mode 0600, under a passphrase if one is given."""
        text = f"# public key: {self.public}\n{self._secret}\n".encode()
        content = text if passphrase is None else age.encrypt_under(text, passphrase)
        return age.write_private(path, content, overwrite=overwrite)

    def save_public(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the public keys to a file that may be sent to anybody (``NAME.pub``)."""
        return write_atomic(Path(path), f"{self.public_line}\n".encode(), overwrite=overwrite, mode=0o644)

    def __eq__(self, other: object) -> bool:
        return self.public == other.public if isinstance(other, Identity) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.public)

    def __repr__(self) -> str:
        return f"Identity({self.public})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise KeyringError("an identity is not pickled or copied: save it with .save(path)")


Recipients = str | os.PathLike[str] | Identity | Iterable[str | os.PathLike[str] | Identity]
"""Public keys as text, the paths of their files, identities, or several of these."""


def own_path() -> Path:
    """Return where the user's own identity is kept: ``infl.settings.identity``, else the configuration folder."""
    from infl._settings import settings

    if settings.identity is not None:
        return settings.identity
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "infl" / "identity.key"


def public_keys(recipients: Recipients) -> list[str]:
    """Return the public keys of `recipients`, checked and without repeats.

    Examples
    --------
    >>> identity = Identity.create()
    >>> public_keys([identity, identity.public]) == [identity.public]
    True
    """
    several = [recipients] if isinstance(recipients, str | os.PathLike | Identity) else list(recipients)
    if not several:
        raise SettingsError("recipients is empty, so nobody could open the file: give at least one public key")
    return list(dict.fromkeys(key for recipient in several for key, _ in _keys_of(recipient)))


def public_identities(recipients: Recipients) -> list[tuple[str, str]]:
    """Return recipient and verifier of each of `recipients`; the verifier is empty where only the recipient is given.

    Examples
    --------
    >>> identity = Identity.create()
    >>> public_identities(identity.public_line) == [(identity.public, identity.verifier)]
    True
    """
    several = [recipients] if isinstance(recipients, str | os.PathLike | Identity) else list(recipients)
    return list(dict.fromkeys(keys for recipient in several for keys in _keys_of(recipient)))


def _keys_of(recipient: str | os.PathLike[str] | Identity) -> list[tuple[str, str]]:
    if isinstance(recipient, Identity):
        return [(recipient.public, recipient.verifier)]
    _refuse_secret_text(recipient, "a public key (age1…)")
    if isinstance(recipient, str) and recipient.startswith("age1") and not Path(recipient).exists():
        lines, source = [recipient], recipient
    else:
        source = str(recipient)
        with explained(Path(recipient), "read the public key"), open(recipient, "rb") as file:
            content = file.read(_LARGEST_TEXT)
        lines = [s for line in _text(content).splitlines() if (s := line.strip()) and not s.startswith("#")]
    if any(line.startswith(_SECRET) for line in lines):
        raise KeyringError(
            f"{source} holds a private key: give the public one, NAME.pub, and send the private to nobody"
        )
    try:
        keys = [_public_line(line) for line in lines]
    except (pyrage.RecipientError, ValueError):
        keys = []
    if not keys:
        raise KeyringError(f"{source} is not an age public key (age1…): make a pair with `infl key identity NAME`")
    return keys


def _public_line(line: str) -> tuple[str, str]:
    recipient, _, rest = line.partition(" ")
    signs = _SIGNS.fullmatch(rest.strip()) if rest else None
    if rest and signs is None:
        raise ValueError("not a line of a public key")
    return str(pyrage.x25519.Recipient.from_str(recipient)), signs[1] if signs else ""


def encrypt(content: bytes, *, recipients: Recipients | None = None, passphrase: str | None = None) -> bytes:
    """Return `content` as an age file, to recipients or under a passphrase.

    Parameters
    ----------
    content
        What is to be read by some only.
    recipients
        Public keys, identities, or paths of ``NAME.pub``.
    passphrase
        Instead of recipients.

    Examples
    --------
    >>> identity = Identity.create()
    >>> decrypt(encrypt(b"hello", recipients=identity), identity=identity)
    b'hello'
    """
    if recipients is not None and passphrase is None:
        return age.encrypt_to(content, public_keys(recipients))
    if passphrase is not None and recipients is None:
        return age.encrypt_under(content, passphrase)
    raise SettingsError("give recipients or a passphrase, one of the two")


def decrypt(
    content: bytes,
    *,
    identity: Identity | str | os.PathLike[str] | None = None,
    passphrase: str | None = None,
    source: str | os.PathLike[str] = "the file",
) -> bytes:
    """Return what is in an age file.

    Parameters
    ----------
    content
        The file's bytes.
    identity
        One of those that it was encrypted to, or the path of its file (default: the user's own).
    passphrase
        For a file, or an identity's file, that is under one.
    source
        What to call the file in an error.

    Raises
    ------
    FileError
        It is not an age file, or damaged.
    KeyringError
        Passphrase or identity are missing or the wrong ones.

    Examples
    --------
    >>> identity = Identity.create()
    >>> decrypt(encrypt(b"hello", recipients=identity), identity=identity)
    b'hello'
    """
    if not age.is_age(content):
        raise FileError(f"{source} is not an age file: was it damaged on the way, or is it another file?")
    if age.is_under_passphrase(content):
        return age.decrypt_under(content, passphrase, source=source)
    if identity is None:
        identity = own_path()
        if not identity.exists():
            raise KeyringError(f"{source} opens with an identity: name its file, since you have none at {identity}")
    if not isinstance(identity, Identity):
        identity = Identity.load(identity, passphrase)
    return age.decrypt_with(content, identity._secret, source=source)


def _text(content: bytes) -> str:
    return content[:_LARGEST_TEXT].decode("utf-8", errors="replace")


def _refuse_secret_text(value: str | os.PathLike[str], wanted: str) -> None:
    # a secret that was given by mistake must not be repeated by "no such file"
    if str(value).strip().upper().startswith(_SECRET):
        raise KeyringError(f"a private key was given in place of {wanted}: keep it in its file")
