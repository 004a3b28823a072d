"""The key ring: versions of a 256-bit root key, what is derived from them, and where they rest.

Longer than other files: it is one class, and half of it documents methods that users call.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from infl.errors import FileError, KeyringError
from infl.keys import age
from infl.keys.derive import ROOT_BYTES, derive, fingerprint
from infl.keys.grants import Member, Trail, public_of
from infl.keys.identity import Identity, Recipients, decrypt, encrypt, public_identities, public_keys
from infl.keys.payload import pack, unpack
from infl.keys.shown import ranges, ring_line, ring_table


class Keyring:
    """The secret of a consortium, in versions.

    Each version is 32 bytes from the operating system. Nothing is ever encrypted or locked with them; uses take
    subkeys. Old versions stay in the ring, so that what was locked under them still opens.

    Make a ring with :meth:`create`, or open one with :meth:`load`. Whoever creates it is its *key holder*: this ring
    alone can rotate, grant and revoke. A ring that was granted opens and locks models, and cannot do those three.

    Its repr shows fingerprints only, and it cannot be pickled or copied, so it does not slip into a file or an
    ``AnnData`` by accident. Rings are equal if their secrets are.

    Attributes
    ----------
    trail
        Who was granted which version, when. Public.

    Examples
    --------
    >>> import infl
    >>> ring = infl.keys.Keyring.create()
    >>> ring.rotate()
    2
    >>> ring.versions, ring.current
    ([1, 2], 2)
    >>> ring.subkey("lock", version=1) == ring.subkey("lock", version=2)
    False
    """

    __slots__ = ("_kept_for", "_roots", "_signer", "trail")
    trail: Trail
    _roots: dict[int, bytes]
    _signer: bytes | None  # the key holder's Ed25519 seed; None in a granted ring
    _kept_for: tuple[str, ...] | None  # public keys that its file is made for, () a passphrase, None no file yet
    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        raise TypeError("use Keyring.create() or Keyring.load(path)")

    @classmethod
    def _new(cls, roots: Mapping[int, bytes], trail: Trail, signer: bytes | None) -> Keyring:
        ring = object.__new__(cls)
        ring._roots, ring.trail, ring._signer, ring._kept_for = dict(sorted(roots.items())), trail, signer, None
        return ring

    @classmethod
    def _from_roots(cls, roots: Mapping[int, bytes]) -> Keyring:
        """Make a ring from given secrets, for attacks and test vectors; a real one comes from :meth:`create`."""
        if not roots or any(type(v) is not int or v < 1 or len(root) != ROOT_BYTES for v, root in roots.items()):
            raise KeyringError(f"a ring has versions from 1 on, of {ROOT_BYTES} bytes each")
        signer = os.urandom(32)
        ring = cls._new(roots, Trail(public_of(signer)), signer)
        ring._record({"action": "create", **ring._made(ring.versions)})
        return ring

    @classmethod
    def create(cls) -> Keyring:
        """Make a ring with one version, 256 bits from the operating system."""
        return cls._from_roots({1: os.urandom(ROOT_BYTES)})

    # -- versions and what is derived from them --------------------------------------------------------------------
    @property
    def versions(self) -> list[int]:
        """The versions in the ring, oldest first."""
        return list(self._roots)

    @property
    def current(self) -> int:
        """The newest version; new models are locked under it."""
        return max(self._roots)

    def subkey(self, label: str, *, version: int | None = None, salt: bytes = b"", length: int = 32) -> bytes:
        """Return the secret bytes for one use, by HKDF-SHA256.

        Parameters
        ----------
        label
            The use, one of :data:`infl.keys.SUBKEY_LABELS`.
        version
            Default: the current one.
        salt
            Public bytes that set one model or run apart from the next.
        length
            Bytes wanted.

        Raises
        ------
        KeyringError
            The ring has no such version, or there is no such label.
        """
        version = self.current if version is None else version
        return derive(self._root(version), label, version, salt=salt, length=length)

    def fingerprint(self, version: int | None = None) -> str:
        """Return the public name of a version (default: the current one): 120 bits, six groups of four."""
        version = self.current if version is None else version
        return fingerprint(self._root(version), version)

    def check(self, version: int, fingerprint: str) -> None:
        """Raise a KeyringError unless the ring has `version`, with this `fingerprint`."""
        mine = self.fingerprint(version)
        if not hmac.compare_digest(mine.encode(), fingerprint.encode()):
            raise KeyringError(
                f"wrong key: version {version} with fingerprint {fingerprint} needed, this ring's version {version} is {mine}"
            )

    def _root(self, version: int) -> bytes:
        if version not in self._roots:
            raise KeyringError(
                f"key version {version} needed, ring has {ranges(self.versions)}: ask the key holder for a grant of it"
            )
        return self._roots[version]

    def only(self, versions: int | Iterable[int]) -> Keyring:
        """Return a ring with just these versions, as a site gets it: it cannot rotate, grant or revoke.

        Examples
        --------
        >>> ring = Keyring.create()
        >>> _ = ring.rotate()
        >>> ring.only(2).versions
        [2]
        """
        wanted = [versions] if isinstance(versions, int) else sorted(versions)
        if not wanted:
            raise KeyringError("a ring without a version opens nothing: name at least one")
        return self._new({version: self._root(version) for version in wanted}, self.trail, None)

    # -- the key holder's part -------------------------------------------------------------------------------------
    @property
    def is_holder(self) -> bool:
        """Whether this ring can rotate, grant and revoke."""
        return self._signer is not None

    @property
    def members(self) -> dict[str, Member]:
        """The sites that have a grant, and what it covers."""
        return self.trail.members()

    def rotate(self) -> int:
        """Add a version, granted to all members, and return its number. In memory: save the ring, and grant it anew."""
        self._require_holder("rotate")
        self._roots[self.current + 1] = os.urandom(ROOT_BYTES)
        renewed = ({"action": "grant", **_site(m), "versions": (self.current,)} for m in self.members.values())
        self._record({"action": "rotate", **self._made([self.current])}, *renewed)
        return self.current

    def grant(self, name: str, recipient: Recipients, *, versions: Iterable[int] | None = None) -> Keyring:
        """Grant a site the current version, and return the ring that it is to get, to be saved and sent.

        Granted again, a site gets all that it was ever granted; the trail gets a line only if something is new.

        Parameters
        ----------
        name
            The site's name, one for each public key.
        recipient
            The site's public keys, ``age1… ed25519:…``, or the path of its file ``NAME.pub``. With ``age1…`` alone the site
            opens models, and is no member of runs between machines.
        versions
            Others than the current one, for a site that is to open older models too.

        Examples
        --------
        >>> ring, hospital_b = Keyring.create(), Identity.create()
        >>> ring.grant("hospital_b", hospital_b.public_line)
        Keyring(version 1: ..., granted)
        >>> ring.members["hospital_b"].versions
        (1,)
        """
        self._require_holder("grant")
        keys = public_identities(recipient)
        if len(keys) != 1:
            raise KeyringError(f"a grant is to one public key, {name!r} has {len(keys)}: give each site its own name")
        ((public, identity),) = keys
        self.trail.refuse_clash(name, public, identity)
        wanted = {self.current} if versions is None else set(versions)
        for version in wanted:
            self._root(version)
        member = self.members.get(name)
        new = sorted(wanted - set(member.versions if member else ()))
        identity = identity or (member.identity if member else "")
        if new or identity != (member.identity if member else ""):
            site = Member(name, public, (), identity)
            self._record({"action": "grant", **_site(site), "versions": tuple(new or sorted(wanted))})
        return self.granted(name)

    def granted(self, name: str) -> Keyring:
        """Return the ring that the site `name` is to get; saved without `recipients`, it is for that site alone."""
        self._require_holder("grant")
        member = self.trail.member(name)
        ring = self.only(member.versions)
        ring._kept_for = (member.recipient,)
        return ring

    def revoke(self, name: str) -> int:
        """Take a site's grant away and rotate, and return the new version, which the other sites are granted.

        What the site already holds it keeps: its ring still opens what was locked under older versions.
        """
        self._require_holder("revoke")
        member = self.trail.member(name)
        self._record({"action": "revoke", **_site(member)})
        return self.rotate()

    def record_relock(self, model: str, version: int) -> None:
        """Add a line to the trail: `model` (its name) is now locked under `version`. In memory; key holder only."""
        self._require_holder("record in the trail")
        self._record({"action": "relock", "who": model, "versions": (version,)})

    def _require_holder(self, action: str) -> None:
        if self._signer is None:
            raise KeyringError(
                f"this ring was granted and cannot {action}: only the key holder's can ({self.trail.holder_fingerprint()})"
            )

    def _record(self, *events: Mapping[str, Any]) -> None:
        assert self._signer is not None  # for the type checker; callers have asked
        self.trail = self.trail.append(self._signer, *events)

    def _made(self, versions: list[int]) -> dict[str, Any]:
        return {"versions": tuple(versions), "fingerprints": tuple(self.fingerprint(v) for v in versions)}

    # -- the site's part -------------------------------------------------------------------------------------------
    def accept(self, granted: Keyring) -> list[int]:
        """Take in what the key holder granted since, and return the versions that are new. In memory.

        Raises
        ------
        KeyringError
            It comes from another key holder, is older than this ring, or has another trail.
        """
        if self.is_holder:
            raise KeyringError("this is the key holder's own ring: import into another file")
        granted.trail.require_continues(self.trail)
        new = [version for version in granted.versions if version not in self._roots]
        self._roots = dict(sorted((self._roots | granted._roots).items()))
        self.trail = granted.trail
        return new

    # -- files -----------------------------------------------------------------------------------------------------
    def save(
        self,
        path: str | os.PathLike[str],
        recipients: Recipients | None = None,
        passphrase: str | None = None,
        *,
        overwrite: bool = False,
    ) -> Path:
        """Write the ring to an encrypted file (age) of mode 0600.

        All of the ring is written, a key holder's right to grant included: give others what :meth:`grant` returns.

        Parameters
        ----------
        path
            Usually ``NAME.key``.
        recipients
            Public keys, or paths of ``NAME.pub``: only they can open the file. Default: the site, for a ring from
            :meth:`grant`; those who could open the file that the ring came from; else the user's own identity, which
            is made if there is none.
        passphrase
            Instead of recipients.
        overwrite
            Replace a file that exists.

        Raises
        ------
        FileError
            The file exists or cannot be written; nothing is left behind.
        KeyringError
            A recipient is not a public key.

        Examples
        --------
        >>> import tempfile
        >>> me, ring = Identity.create(), Keyring.create()
        >>> path = ring.save(f"{tempfile.mkdtemp()}/consortium.key", recipients=me)
        >>> Keyring.load(path, identity=me) == ring
        True
        """
        # before an identity is made or a passphrase stretched for nothing
        if Path(path).expanduser().exists() and not overwrite:
            raise FileError(f"{path} exists: choose another name or pass overwrite=True")
        if recipients is None and passphrase is None:
            if self._kept_for == ():
                raise KeyringError(
                    f"{path}: this ring was under a passphrase, give one again (passphrase=) or recipients="
                )
            recipients = self._kept_for or Identity.own(create=True)
        keys = () if recipients is None else tuple(public_keys(recipients))
        content = encrypt(
            pack(self._roots, self._signer, keys, self.trail), recipients=keys or None, passphrase=passphrase
        )
        written = age.write_private(path, content, overwrite=overwrite)
        self._kept_for = keys
        return written

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        identity: Identity | str | os.PathLike[str] | None = None,
        passphrase: str | None = None,
        *,
        in_transit: bool = False,
    ) -> Keyring:
        """Read a ring from its file.

        Parameters
        ----------
        path
            A file of mode 0600.
        identity
            One that the file was made for, or the path of its file (default: the user's own).
        passphrase
            For a file under one.
        in_transit
            The file has just come by mail and is to be imported: its mode does not matter yet, and nobody that it names gets
            what is saved from it.

        Raises
        ------
        FileError
            There is no such file, it is damaged, or of a newer format.
        KeyringError
            Others can read it, passphrase or identity are not the right ones, or its trail was altered.
        """
        content = age.read_private(path, check_mode=not in_transit)
        plain = decrypt(content, identity=identity, passphrase=passphrase, source=path)
        roots, signer, kept_for, trail = unpack(plain, path)
        ring = cls._new(roots, trail, signer)
        ring._kept_for = None if in_transit else kept_for  # whom a stranger wrote it for is no wish of ours
        return ring

    # -- what is shown and compared --------------------------------------------------------------------------------
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Keyring):
            return NotImplemented
        return hmac.compare_digest(self._digest(), other._digest())

    def _digest(self) -> bytes:
        digest = hashlib.sha256()
        for version, root in self._roots.items():
            digest.update(version.to_bytes(8, "big") + root)
        return digest.digest()

    def __repr__(self) -> str:
        return ring_line(self._fingerprints(), is_holder=self.is_holder)

    def _repr_html_(self) -> str:
        return ring_table(self._fingerprints(), self.members, is_holder=self.is_holder)

    def _fingerprints(self) -> dict[int, str]:
        return {version: self.fingerprint(version) for version in self.versions}

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise KeyringError("a key ring is not pickled or copied: save it with .save(path)")


def _site(member: Member) -> dict[str, str]:
    return {"who": member.name, "recipient": member.recipient, "identity": member.identity}
