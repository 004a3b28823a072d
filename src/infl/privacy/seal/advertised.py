"""What a site advertises at its start for the pairwise seal: a public key, who signed it, and what the site says of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

UNSIGNED, SIGNED = 64, 128
"""Bytes of a public key and its MAC; with a signature. What a site says of itself may follow."""


def epochs_of(peers: Mapping[str, bytes]) -> str:
    """Return the digest of what sites advertised at their last starts; empty where nothing is signed, in one process.

    Parameters
    ----------
    peers
        What each site advertised, by name.

    Returns
    -------
    str
        SHA-256 in hexadecimal, or an empty string.

    Examples
    --------
    >>> epochs_of({"a": bytes(64)}), len(epochs_of({"a": bytes(128)}))
    ('', 64)
    """
    if not peers or any(len(advertised) <= UNSIGNED for advertised in peers.values()):
        return ""
    keys = sorted((name, advertised[:32].hex()) for name, advertised in peers.items())
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def said_by(advertised: bytes) -> tuple[bytes, bytes]:
    """Return the public key that a site advertised, and what it says of itself, which is signed with the key.

    Parameters
    ----------
    advertised
        What :meth:`PairwiseSite.advertise` returned.

    Returns
    -------
    tuple
        X25519 public key (32 bytes), and what the site says (empty where it has no identity, or nothing to say).

    Examples
    --------
    >>> said_by(bytes(128) + b"head")[1]
    b'head'
    """
    return advertised[:32], advertised[SIGNED:]
