"""Private arrays of a model: what was learned from data and is not weights, encrypted under the key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    from infl.keys import Keyring
    from infl.models.locked.header import Header
    from infl.models.task import Sums

PRIVATE = "__private__"
"""Under which name a model file has them."""


def pack_arrays(arrays: Sums) -> bytes:
    """Return arrays as bytes, in the format of safetensors."""
    from safetensors.numpy import save

    return save({name: np.asarray(value, order="C") for name, value in arrays.items()})


def is_open(content: bytes) -> bool:
    """Whether arrays can be read without a key."""
    from safetensors import SafetensorError

    try:
        unpack_arrays(content)
    except SafetensorError:
        return False
    return True


def unpack_arrays(content: bytes) -> Sums:
    """Inverse of :func:`pack_arrays`."""
    from safetensors.numpy import load

    return load(content)


def vault(key: Keyring, header: Header) -> ChaCha20Poly1305:
    """Return what encrypts and decrypts the private arrays of a model with a key."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    salt = header.salt if header.format == 1 else header.digest  # what is encrypted belongs to these weights alone
    return ChaCha20Poly1305(key.subkey("file", version=header.key_version, salt=bytes.fromhex(salt)))
