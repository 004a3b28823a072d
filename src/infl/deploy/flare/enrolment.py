"""Who asks to be enrolled, and who is: what a request says inside, and the coordinator's register of members.

A request is a file that a stranger made. Its name, FLARE's own description in it and the certificate request in it can each
say something else, and FLARE signs the last. So that is what people are shown, and all three must agree.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from pydantic import TypeAdapter

from infl._files import parse_json, read_own, write_atomic
from infl.errors import FederationError, FileError

if TYPE_CHECKING:
    from cryptography import x509

SITE_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
CLIENT = "client"
RESERVED = ("server", "admin", "all", "rootCA")
"""Names that mean somebody else, or everybody, to FLARE."""
BROKEN = (
    zipfile.BadZipFile, zlib.error, UnsupportedAlgorithm, EOFError, KeyError, NotImplementedError, OSError, RuntimeError,
    ValueError,
)  # fmt: skip
"""What zip, JSON and certificates of a stranger's make may raise: zipfile, for one, NotImplementedError and RuntimeError for ways of
packing that it does not know, or that are encrypted."""
_LARGEST = 1 << 16  # bytes of a file in a request


@dataclass(frozen=True)
class Request:
    """What a request asks for, by its certificate request.

    Attributes
    ----------
    name
        Who wants to be called what.
    role
        ``"client"`` for a site; FLARE also has ``"server"`` and roles of administrators.
    fingerprint
        SHA-256 of the public key, in groups to read aloud.
    """

    name: str
    role: str
    fingerprint: str


@dataclass(frozen=True)
class Entry:
    """A line of the register: one certificate.

    Attributes
    ----------
    name, key
        The site, and the fingerprint of its public key.
    certificate
        Fingerprint of the certificate.
    revoked
        The site is shut out.
    until
        Until when the certificate is valid (seconds since 1970; 0: an earlier version did not note it).
    """

    name: str
    key: str
    certificate: str
    revoked: bool = False
    until: float = 0.0


def read_request(path: Path) -> Request:
    """Return what is in a request, after checking that all its parts say the same.

    Raises
    ------
    FileError
        There is no such file.
    FederationError
        It is no request of ``infl site enrol``, or says two things at once.
    """
    from cryptography import x509

    nothing = FederationError(f"{shown(path)} is not a request of `infl site enrol`")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.file_size <= _LARGEST]
            names = [info.filename for info in members]
            requests = [name for name in names if name.endswith(".csr")]
            if len(archive.infolist()) != 3 or len(requests) != 1 or sorted(set(names) - {*requests}) != _OTHERS:
                raise nothing
            asked = x509.load_pem_x509_csr(archive.read(requests[0]))
            request = parse_json(archive.read("request.json"))
            name, role = _one(asked.subject, _OID.name), _one(asked.subject, _OID.role)
            short = getattr(asked.public_key(), "key_size", 0) < 2048
            if (
                short
                or not asked.is_signature_valid
                or not isinstance(request, dict)
                or _one(asked.subject, _OID.org) != "infl"
            ):
                raise nothing
    except FileNotFoundError:
        raise FileError(f"{shown(path)} does not exist") from None
    except FederationError:
        raise
    except BROKEN:
        raise nothing from None
    if (request.get("name"), request.get("cert_type"), requests[0]) != (name, role, f"{name}.csr"):
        raise FederationError(
            f"{shown(path)} asks for one name or role and describes another: have the site make its request again"
        )
    return Request(name, role, key_fingerprint(asked))


def check_request(
    request: Request, path: Path, register: list[Entry], reserved: tuple[str, ...], *, renew: bool
) -> None:
    """Refuse to enrol what is no site, or is somebody already.

    Parameters
    ----------
    request, path
        What is asked for, and the file that it came in.
    register
        Who is enrolled.
    reserved
        Names of the coordinator's own server and administrator.
    renew
        A site that is enrolled gets a new certificate.

    Raises
    ------
    FederationError
        In one line, what is asked for that is not granted.
    """
    name = request.name
    if request.role != CLIENT:
        raise FederationError(
            f"{shown(path)} asks for the certificate of a server or an administrator: sites alone are enrolled"
        )
    if not SITE_NAME_PATTERN.fullmatch(name) or name.casefold() in {own.casefold() for own in (*reserved, *RESERVED)}:
        raise FederationError(f"{shown(path)} asks for a name that no site can have: letters, digits, '_' and '-'")
    if path.name != f"{name}.request.zip":
        raise FederationError(
            f"{shown(path)} is a request of {name!r}: ask who sent it, and call it {name}.request.zip"
        )
    mine = [entry for entry in register if entry.name == name]
    alike = next(
        (entry.name for entry in register if entry.name != name and entry.name.casefold() == name.casefold()), None
    )
    if alike is not None:
        raise FederationError(f"{name!r} is {alike!r} but for case, who is enrolled: the site chooses another name")
    if any(entry.revoked for entry in mine):
        raise FederationError(f"{name!r} was revoked: a site that comes back chooses another name")
    other = next((entry.name for entry in register if entry.name != name and entry.key == request.fingerprint), None)
    if other is not None:
        raise FederationError(f"the key of {name!r} is that of {other!r}, who is enrolled: one site has one name")
    if mine and not renew:
        raise FederationError(
            f"{name!r} is enrolled already, and another key would be a second {name!r}: --renew, if the site itself asked "
            "for a new certificate"
        )
    if renew and not mine:
        raise FederationError(f"{name!r} is not enrolled, so there is nothing to renew: leave --renew out")


# -- the register -----------------------------------------------------------------------------------------------------
def read_register(home: Path) -> list[Entry]:
    """Return who is enrolled: from the register, or from the files that were sent back where there is none yet."""
    path = home / "members.json"
    if not path.exists():
        return [entry_of(signed) for signed in sorted(home.glob("*.signed.zip"))]
    return read_own(
        path, TypeAdapter(list[Entry]).validate_python, "put it back from a backup: it says who is enrolled"
    )


def write_register(home: Path, entries: list[Entry]) -> None:
    """Keep who is enrolled."""
    write_atomic(
        home / "members.json", json.dumps([asdict(entry) for entry in entries], indent=1).encode(), overwrite=True
    )


def without(register: list[Entry], name: str) -> list[Entry]:
    """Return the register with a site shut out: all its certificates.

    Raises
    ------
    FederationError
        No certificate has this name.
    """
    if not any(entry.name == name for entry in register):
        raise FederationError(
            f"{name!r} was not enrolled here: there are {', '.join(sorted({e.name for e in register})) or 'no sites'}"
        )
    return [replace(entry, revoked=True) if entry.name == name else entry for entry in register]


def entry_of(signed: Path) -> Entry:
    """Return the register's line for the certificate in a signed file."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        with zipfile.ZipFile(signed) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(".crt"))
            certificate = x509.load_pem_x509_certificate(archive.read(name))
        return Entry(
            _one(certificate.subject, _OID.name),
            key_fingerprint(certificate),
            groups(certificate.public_bytes(Encoding.DER)),
            until=certificate.not_valid_after_utc.timestamp(),
        )
    except FileNotFoundError:
        raise FileError(f"{shown(signed)} does not exist") from None
    except BROKEN:
        raise FederationError(f"{shown(signed)} holds no certificate: sign the request again") from None


def check_answer(requests: Path, signed: Path, fingerprint: str) -> None:
    """Refuse what came back from the coordinator unless it can be for a request in the folder `requests`, and the fingerprint is whole.

    Raises
    ------
    FederationError
        It is for another site, or holds no certificate, or digits are missing.
    """
    if not re.fullmatch("[0-9a-f]{64}", fingerprint.replace(" ", "").lower()):
        raise FederationError(
            f"fingerprint={fingerprint[:80]!r}: give all 64 digits and letters from a to f that the coordinator told you"
        )
    name = entry_of(signed).name
    if not (requests / name).is_dir():
        asked = ", ".join(sorted(path.name for path in requests.glob("*/"))) or "nobody"
        raise FederationError(f"{shown(signed)} is for {name}, and {asked} asked here: have its own file sent")


# -- fingerprints -----------------------------------------------------------------------------------------------------
def key_fingerprint(of: x509.CertificateSigningRequest | x509.Certificate) -> str:
    """Return the SHA-256 of a public key, in groups to read aloud."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return groups(of.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def groups(content: bytes) -> str:
    """Return the SHA-256 of some bytes, in groups to read aloud."""
    digest = hashlib.sha256(content).hexdigest()
    return " ".join(digest[i : i + 8] for i in range(0, 64, 8))


def shown(path: Path) -> str:
    """Return a file's name for a terminal: what strangers called it may hold control characters."""
    return path.name if path.name.isprintable() else repr(path.name)


class _OID:
    """Where FLARE writes who asks, and for which role."""

    name, org, role = "2.5.4.3", "2.5.4.10", "1.2.840.113549.1.9.2"


_OTHERS = ["request.json", "site.yaml"]


def _one(subject: x509.Name, oid: str) -> str:
    """Return an attribute that must be there once."""
    values = list(_values(subject, oid))
    if len(values) != 1:
        raise ValueError
    return values[0]


def _values(subject: x509.Name, oid: str) -> Iterator[Any]:
    return (attribute.value for attribute in subject if attribute.oid.dotted_string == oid)
