"""What is inside a key ring's file, once it is decrypted: JSON with a format version.

Decryption says that nobody altered the file; it does not say who wrote it, since anybody can encrypt to a public key.
So the content is checked as if it came from an enemy: the trail's signature, and that the trail names every key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from infl.errors import FileError, KeyringError
from infl.keys.age import Source
from infl.keys.derive import ROOT_BYTES, fingerprint
from infl.keys.grants import Trail, public_of

_FORMAT = "infl-keyring"
_FORMAT_VERSION = 2
"""Since 2 lines of the trail may have identities; a trail without is written as 1, which infl 0.1 reads too."""

Content = tuple[dict[int, bytes], bytes | None, tuple[str, ...], Trail]
"""Roots by version, the key holder's signing seed, the public keys that the file is made for, the trail."""


def pack(roots: Mapping[int, bytes], signer: bytes | None, kept_for: Iterable[str], trail: Trail) -> bytes:
    """Return the content of a ring's file, to be encrypted."""
    payload = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION if any(line.identity for line in trail.lines) else 1,
        "keys": {str(version): root.hex() for version, root in roots.items()},
        "signer": None if signer is None else signer.hex(),
        "kept_for": list(kept_for),
        "trail": trail.to_json(),
    }
    return json.dumps(payload).encode()


def unpack(plain: bytes, source: Source) -> Content:
    """Return what :func:`pack` was given, checked; `source` names the file in errors."""
    format_version, content = _parse(plain)
    if isinstance(format_version, int) and format_version > _FORMAT_VERSION:
        raise FileError(f"{source} has key format {format_version}, this infl reads {_FORMAT_VERSION}: upgrade infl")
    if content is None:
        raise FileError(f"{source} holds no key ring: name a file that `infl key new` or `infl key import` wrote")
    roots, signer, _, trail = content
    trail.verify()
    made = trail.fingerprints()
    if any(made.get(version) != fingerprint(root, version) for version, root in roots.items()):
        raise KeyringError(f"{source} holds a key that the key holder did not sign: do not use it, ask the key holder")
    if signer is not None and public_of(signer) != trail.holder:
        raise KeyringError(f"{source} has another key holder's right to grant: do not use it, take a copy")
    return content


def _parse(plain: bytes) -> tuple[Any, Content | None]:
    # no exception leaves here: that of the JSON parser would carry the document, keys included
    format_version = None
    try:
        payload = json.loads(plain)
        if payload["format"] == _FORMAT:
            format_version = payload["format_version"]
        if format_version not in (1, _FORMAT_VERSION):
            return format_version, None
        roots = {int(version): bytes.fromhex(root) for version, root in payload["keys"].items()}
        signer = None if payload["signer"] is None else bytes.fromhex(payload["signer"])
        whole = roots and all(version >= 1 and len(root) == ROOT_BYTES for version, root in roots.items())
        if not whole or (signer is not None and len(signer) != 32):
            return format_version, None
        kept_for = tuple(map(str, payload["kept_for"]))
        return format_version, (dict(sorted(roots.items())), signer, kept_for, Trail.from_json(payload["trail"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return format_version, None
