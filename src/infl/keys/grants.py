"""The trail of grants: who may have which version of a key ring, since when, and by whose word.

Lines are chained (each has the SHA-256 of the one before and of itself), and the key holder signs the head of the chain
with Ed25519, so a line that is altered, removed, swapped or added is noticed, the last one too. The trail has no
secrets; it travels with every granted ring, and a site that gets a later one checks that it continues the one it has.

The trail is also the state: members and their versions are what its lines add up to.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from infl.errors import KeyringError, SettingsError
from infl.keys.derive import readable

if TYPE_CHECKING:
    import pandas as pd

ACTIONS = ("create", "grant", "rotate", "revoke", "relock")
_DOMAIN = b"infl grants 1"
_NAME = re.compile(r"\w[\w.-]{0,63}")


@dataclass(frozen=True)
class GrantLine:
    """One event in a ring's life.

    Attributes
    ----------
    number
        From 1.
    when
        UTC, ISO 8601.
    action
        One of create, grant, rotate, revoke, relock.
    who
        The site (grant, revoke), or what was re-locked (relock).
    versions
        The versions that were made, granted, or re-locked to.
    fingerprints
        Of `versions`, when they were made (create, rotate).
    recipient
        The site's public key (grant).
    chain
        SHA-256 of the line before and this one.
    identity
        The Ed25519 public key that checks the site's signatures, in hexadecimal (grant; empty in lines of infl 0.1).
    """

    number: int
    when: str
    action: str
    who: str = ""
    versions: tuple[int, ...] = ()
    fingerprints: tuple[str, ...] = ()
    recipient: str = ""
    chain: str = ""
    identity: str = ""

    def chained_to(self, before: str) -> str:
        """Return what :attr:`chain` has to be."""
        fields = self.to_json() | {"chain": before}
        return hashlib.sha256(_DOMAIN + json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the line as JSON; without an identity it is what infl 0.1 wrote, and has the same chain."""
        fields = asdict(self)
        return fields if self.identity else {name: value for name, value in fields.items() if name != "identity"}


@dataclass(frozen=True)
class Member:
    """A site as the trail has it: its public key, and the versions that it was granted.

    Attributes
    ----------
    name
        The site.
    recipient
        Its public key.
    versions
        That it may open.
    identity
        The Ed25519 public key that checks its signatures, in hexadecimal; empty where it was granted without one.

    Examples
    --------
    >>> import infl
    >>> ring = infl.keys.Keyring.create()
    >>> _ = ring.grant("hospital_b", infl.keys.Identity.create().public)
    >>> ring.members["hospital_b"].versions
    (1,)
    """

    name: str
    recipient: str
    versions: tuple[int, ...]
    identity: str = ""


@dataclass(frozen=True)
class Trail:
    """A chain of lines, and the key holder's signature of its head.

    Attributes
    ----------
    holder
        The key holder's Ed25519 public key, in hexadecimal.
    lines
        Oldest first.
    signature
        Of the number of lines and the last one's :attr:`GrantLine.chain`, in hexadecimal.

    Examples
    --------
    >>> import infl
    >>> trail = infl.keys.Keyring.create().trail
    >>> [(line.action, line.versions) for line in trail.lines]
    [('create', (1,))]
    >>> trail.verify()
    """

    holder: str
    lines: tuple[GrantLine, ...] = ()
    signature: str = ""

    def append(self, signer: bytes, *events: Mapping[str, Any]) -> Trail:
        """Return the trail with lines for `events` added, signed by the holder of `signer` (32 secret bytes)."""
        lines = list(self.lines)
        for event in events:
            line = GrantLine(number=len(lines) + 1, when=_now(), **event)
            lines.append(replace(line, chain=line.chained_to(lines[-1].chain if lines else self.holder)))
        trail = replace(self, lines=tuple(lines))
        return replace(trail, signature=_private(signer).sign(trail._head()).hex())

    def verify(self) -> None:
        """Check chain and signature.

        Raises
        ------
        KeyringError
            A line was altered, removed, swapped or added; which is named where that can be known.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        before = self.holder
        for number, line in enumerate(self.lines, start=1):
            if line.chain != line.chained_to(before):
                raise KeyringError(
                    f"the grant trail was altered at or before line {number}: do not use this file, ask the key holder"
                )
            before = line.chain
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.holder))
            key.verify(bytes.fromhex(self.signature), self._head())
        except (InvalidSignature, ValueError):
            raise KeyringError(
                f"the grant trail's {len(self.lines)} lines are not what the key holder signed: ask the key holder"
            ) from None

    def _head(self) -> bytes:
        last = self.lines[-1].chain if self.lines else self.holder
        return _DOMAIN + f" {len(self.lines)} {last}".encode()

    def require_continues(self, earlier: Trail) -> None:
        """Raise a KeyringError unless `earlier` is a beginning of this trail, by the same key holder."""
        if self.holder != earlier.holder:
            raise KeyringError(
                f"another consortium's: its key holder is {self.holder_fingerprint()}, this ring's is "
                f"{earlier.holder_fingerprint()}; import it into a file of its own"
            )
        shared = min(len(self.lines), len(earlier.lines))
        if self.lines[:shared] != earlier.lines[:shared]:
            raise KeyringError("its grant trail contradicts the one in this ring: do not use it, ask the key holder")
        if len(self.lines) < len(earlier.lines):
            raise KeyringError("older than this ring, which has grants of a later day: ask for the newest file")

    def holder_fingerprint(self) -> str:
        """Return the key holder's public name, to be compared over the telephone."""
        return readable(hashlib.sha256(bytes.fromhex(self.holder)).digest())

    def fingerprints(self) -> dict[int, str]:
        """Return the fingerprint of every version that was ever made."""
        return {v: f for line in self.lines for v, f in zip(line.versions, line.fingerprints, strict=False)}

    def members(self) -> dict[str, Member]:
        """Return the sites that have a grant now."""
        members: dict[str, Member] = {}
        for line in self.lines:
            if line.action == "grant":
                had = members.get(line.who, Member(line.who, line.recipient, ()))
                versions = tuple(sorted({*had.versions, *line.versions}))
                members[line.who] = Member(line.who, line.recipient, versions, line.identity or had.identity)
            elif line.action == "revoke":
                members.pop(line.who, None)
        return members

    def member(self, name: str) -> Member:
        """Return the site `name`, or raise a KeyringError that lists those that have a grant."""
        members = self.members()
        if name not in members:
            known = ", ".join(sorted(members)) or "none"
            was = any(line.who == name and line.action == "revoke" for line in self.lines)
            raise KeyringError(
                f"{name!r} {'was revoked already' if was else 'has no grant'}: sites with one are {known}"
            )
        return members[name]

    def refuse_clash(self, name: str, recipient: str, identity: str = "") -> None:
        """Raise a KeyringError if `name` has another public key or identity, or one of these another name."""
        if not _NAME.fullmatch(name):
            raise SettingsError(f"{name[:80]!r} cannot be a site's name: letters, digits, '_', '-' and '.', at most 64")
        for member in self.members().values():
            other = bool(identity and member.identity) and member.identity != identity
            if member.name == name and (member.recipient != recipient or other):
                raise KeyringError(
                    f"a site {name!r} with another public key has a grant: choose another name, or revoke that one first"
                )
            same = member.recipient == recipient or (identity and member.identity == identity)
            if member.name != name and same:
                raise KeyringError(f"{name!r} has the public key of {member.name!r}: each site makes its own identity")

    def to_frame(self) -> pd.DataFrame:
        """Return the lines as a table, for people."""
        import pandas as pd

        columns = ["when", "action", "who", "versions", "fingerprints", "recipient", "identity"]
        rows = [[getattr(line, column) for column in columns] for line in self.lines]
        return pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(1, len(rows) + 1, name="line"))

    def to_json(self) -> dict[str, Any]:
        """Return the trail as JSON."""
        return {"holder": self.holder, "lines": [line.to_json() for line in self.lines], "signature": self.signature}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trail:
        """Inverse of :meth:`to_json`; a ``ValueError`` if it is no trail. Not verified yet."""
        try:
            lines = tuple(_line(row) for row in data["lines"])
            return cls(holder=_text(data["holder"]), lines=lines, signature=_text(data["signature"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a trail: {error}") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def public_of(signer: bytes) -> str:
    """Return the public key of `signer` in hexadecimal."""
    return _private(signer).public_key().public_bytes_raw().hex()


def _private(signer: bytes):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(signer)


def _line(row: Mapping[str, Any]) -> GrantLine:
    line = GrantLine(**{**row, "versions": tuple(row["versions"]), "fingerprints": tuple(row["fingerprints"])})
    for text in (line.when, line.action, line.who, line.recipient, line.chain, line.identity, *line.fingerprints):
        _text(text)
    if line.action not in ACTIONS or not all(type(n) is int for n in (line.number, *line.versions)):
        raise ValueError("not a line of a trail")
    return line


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value
