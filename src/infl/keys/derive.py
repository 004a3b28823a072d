"""Subkeys and fingerprints by HKDF-SHA256 (RFC 5869).

A root key is never used itself: every use has a label, and a subkey for one use says nothing about another. The
``info`` of HKDF is ``infl/1/LABEL/VERSION`` in ASCII; labels are a closed table without ``/``, so no two uses can meet.
"""

from __future__ import annotations

import base64

from infl.errors import KeyringError

ROOT_BYTES = 32
"""Length of a root key: 256 bits."""

SUBKEY_LABELS = {
    "lock": "the secret coordinates, signs and gains of a model's lock",
    "seal": "the masks and tags of sealed updates",
    "ledger": "proof that a site's seal ledger was written by a holder of the ring (all sites in one process)",
    "fingerprint": "the public name of a key version; it is the only subkey that is ever shown",
    "file": "the private arrays in a model file (moments, priors, calibration)",
    "checkpoint": "a run's state between rounds (all sites in one process)",
    "published": "the secret coordinates of the published method",
    "seed": "random choices that the sites share and the coordinator must not foresee",
    "salt": "the public salts of a model's tensors, which nobody can choose",
}
"""Every label that a subkey may have, and what the subkey protects."""


OWN_LABELS = {
    "sign": "the Ed25519 key that says which member a site is",
    "ledger": "proof that a site's ledger of a run between machines was written by that site",
    "checkpoint": "what a site keeps of a run between machines",
    "log": "the seals of a site's security log",
}
"""Every label that a subkey of an identity may have, and what the subkey protects."""


def hkdf(root: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes derived from `root` by HKDF-SHA256.

    Examples
    --------
    >>> hkdf(bytes(32), salt=b"", info=b"example", length=4).hex()
    '239a04fe'
    """
    # imported here, so that `import infl.keys` stays light
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length=length, salt=salt, info=info).derive(root)


def derive(root: bytes, label: str, version: int, *, salt: bytes = b"", length: int = 32) -> bytes:
    """Return the subkey of one version of a ring for one use.

    Parameters
    ----------
    root
        The version's 32 secret bytes.
    label
        One of :data:`SUBKEY_LABELS`.
    version
        The version's number.
    salt
        Public bytes that set one model, run or file apart from the next.
    length
        Bytes wanted, at most 255 · 32.
    """
    if label not in SUBKEY_LABELS:
        raise KeyringError(f"no subkey is called {label!r}: the labels are {', '.join(SUBKEY_LABELS)}")
    if not 1 <= length <= 255 * 32:
        raise KeyringError(f"a subkey has 1 to {255 * 32} bytes, asked for {length}")
    return hkdf(root, salt=salt, info=f"infl/1/{label}/{version}".encode(), length=length)


def derive_own(secret: bytes, label: str, *, salt: bytes = b"") -> bytes:
    """Return 32 bytes of a site's own secret for one use.

    Parameters
    ----------
    secret
        An identity's private key, as age writes it.
    label
        One of :data:`OWN_LABELS`.
    salt
        Public bytes that set one run apart from the next.
    """
    if label not in OWN_LABELS:
        raise KeyringError(f"no subkey of an identity is called {label!r}: the labels are {', '.join(OWN_LABELS)}")
    return hkdf(secret, salt=salt, info=f"infl/1/identity/{label}".encode(), length=32)


def fingerprint(root: bytes, version: int) -> str:
    """Return the public name of one version of a ring."""
    return readable(derive(root, "fingerprint", version))


def readable(digest: bytes) -> str:
    """Return 15 bytes as six groups of letters and digits that can be compared over the telephone.

    Examples
    --------
    >>> readable(bytes(range(15)))
    'aaaq-eaye-auda-ocaj-bifq-ydio'
    """
    text = base64.b32encode(digest[:15]).decode().lower()
    return "-".join(text[i : i + 4] for i in range(0, 24, 4))
