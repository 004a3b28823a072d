"""A configuration folder of one's own for every test, so that nobody's identity is used or made."""

import base64
import hashlib
import hmac
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

import infl
from infl.keys import Identity, Keyring
from infl.keys.derive import hkdf


@pytest.fixture(autouse=True)
def own_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's own identity is; there is none yet."""
    path = tmp_path / "config" / "identity.key"
    monkeypatch.setattr(infl.settings, "identity", path)
    return path


@pytest.fixture
def me() -> Identity:
    return Identity.create()


@pytest.fixture
def ring() -> Keyring:
    return Keyring.create()


@pytest.fixture(scope="session")
def age_by_hand() -> Callable[[bytes, str], bytes]:
    """Encrypt under a passphrase by the age specification: a second opinion, and 500 times quicker to open.

    Real files are stretched for a second with 2^18 or more rounds of scrypt, these with 2^10.
    """

    def b64(content: bytes) -> bytes:
        return base64.b64encode(content).rstrip(b"=")

    def encrypt(plain: bytes, passphrase: str) -> bytes:
        file_key, salt, nonce = os.urandom(16), os.urandom(16), os.urandom(16)
        salted = b"age-encryption.org/v1/scrypt" + salt
        wrap = hashlib.scrypt(passphrase.encode(), salt=salted, n=2**10, r=8, p=1, dklen=32)
        body = ChaCha20Poly1305(wrap).encrypt(bytes(12), file_key, None)
        header = b"age-encryption.org/v1\n-> scrypt %b 10\n%b\n---" % (b64(salt), b64(body))
        mac = hmac.digest(hkdf(file_key, salt=b"", info=b"header", length=32), header, "sha256")
        assert len(plain) <= 65536  # one chunk
        payload = ChaCha20Poly1305(hkdf(file_key, salt=nonce, info=b"payload", length=32))
        return header + b" " + b64(mac) + b"\n" + nonce + payload.encrypt(bytes(11) + b"\1", plain, None)

    return encrypt
