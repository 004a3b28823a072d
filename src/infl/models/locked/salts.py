"""Salts of locked tensors: public, chosen by nobody, and the same for what is made again in the same way."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from infl.errors import SettingsError
from infl.models.locked.header import SALT

if TYPE_CHECKING:
    from torch import Tensor

    from infl.keys import Keyring


def tensor_salt(key: Keyring, version: int, name: str, made: bytes) -> str:
    """Return the public salt of a tensor: a keyed function of its name and of what made it.

    Nobody chooses it, it tells nothing of the weights, and what is made again in the same way gets it again.

    Parameters
    ----------
    key, version
        Key ring and its version.
    name
        The tensor's name.
    made
        32 bytes of SHA-256 over what the weights follow from: the weights themselves (:func:`content_of`), or the sums of a
        run that they were computed from.

    Examples
    --------
    >>> import infl
    >>> key = infl.keys.Keyring.create()
    >>> one, other = (tensor_salt(key, 1, "head.weight", bytes([i]) * 32) for i in range(2))
    >>> len(one), one == tensor_salt(key, 1, "head.weight", bytes(32)), one == other
    (32, True, False)
    """
    if len(made) != 32:
        raise SettingsError(f"what made a tensor is named by 32 bytes, got {len(made)}")
    return hmac.digest(key.subkey("salt", version=version), name.encode() + made, "sha256")[:SALT].hex()


def content_of(tensor: Tensor) -> bytes:
    """Return the SHA-256 of a tensor's type, shape and bytes.

    Examples
    --------
    >>> import torch
    >>> (
    ...     content_of(torch.zeros(3)) == content_of(torch.zeros(3)),
    ...     content_of(torch.zeros(3)) == content_of(torch.ones(3)),
    ... )
    (True, False)
    """
    import torch

    tensor = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"infl tensor {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
