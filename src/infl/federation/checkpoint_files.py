"""Files of a checkpoint: arrays that are read or mapped, and the encryption of what sites save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.exceptions import InvalidTag

from infl._files import parse_json
from infl.errors import FileError

if TYPE_CHECKING:
    from pathlib import Path

    from infl.federation.agreement import Agreement


def read_arrays(path: Path, content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays of a file's content, and its metadata."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        size = int.from_bytes(content[:8], "little")
        metadata = parse_json(content[8 : 8 + size])["__metadata__"]
        return {name: value.copy() for name, value in load(content).items()}, metadata
    except (SafetensorError, ValueError, KeyError):
        raise FileError(f"{path} is damaged: begin the run again in another folder") from None


def map_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the flat unsigned arrays of a file, read from it when they are used, and its metadata."""
    try:
        content = np.memmap(path, np.uint8, mode="r")
        size = int.from_bytes(content[:8].tobytes(), "little")
        header, data = parse_json(content[8 : 8 + size].tobytes()), content[8 + size :]
        metadata = header.pop("__metadata__")
        arrays = {}
        for name, row in header.items():
            start, stop = row["data_offsets"]
            arrays[name] = data[start:stop].view(f"<u{int(row['dtype'].removeprefix('U')) // 8}")
            if arrays[name].shape != tuple(row["shape"]):
                raise ValueError(name)
        return arrays, metadata
    except (OSError, ValueError, KeyError, TypeError):
        raise FileError(f"{path} is damaged: begin the run again in another folder") from None


def encrypted(content: bytes, key: bytes | None, agreement: Agreement) -> bytes:
    """Return a site's state as it is written: encrypted and bound to the run; unchanged without a key."""
    if key is None:
        return content
    import os

    nonce = os.urandom(12)
    return nonce + _vault(key).encrypt(nonce, content, agreement.digest.encode())


def decrypted(path: Path, key: bytes | None, agreement: Agreement) -> bytes:
    """Read what :func:`encrypted` made."""
    content = path.read_bytes()
    if key is None:
        return content
    try:
        return _vault(key).decrypt(content[:12].ljust(12, b"\0"), content[12:], agreement.digest.encode())
    except InvalidTag:
        raise FileError(f"{path} is damaged or belongs to another key or run") from None


def _vault(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)
