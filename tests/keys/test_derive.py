"""Subkeys: published vectors of HKDF, our own vectors, and that no two uses meet."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infl.errors import KeyringError
from infl.keys import SUBKEY_LABELS
from infl.keys.derive import derive, fingerprint, hkdf, readable

VECTORS = json.loads((Path(__file__).parent / "subkeys.json").read_text())["vectors"]

# RFC 5869, appendix A: the three cases with SHA-256
RFC_5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    ("0b" * 22, "", "", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
]


def hkdf_by_hand(root: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """The two formulas of RFC 5869, for a second opinion."""
    extracted = hmac.digest(salt or bytes(32), root, "sha256")
    out = block = b""
    for i in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([i]), "sha256")
        out += block
    return out[:length]


@pytest.mark.parametrize(("root", "salt", "info", "expected"), RFC_5869)
def test_hkdf_is_that_of_rfc_5869(root: str, salt: str, info: str, expected: str) -> None:
    out = hkdf(
        bytes.fromhex(root), salt=bytes.fromhex(salt), info=bytes.fromhex(info), length=len(bytes.fromhex(expected))
    )
    assert out.hex() == expected


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['label']}-{v['version']}")
def test_our_vectors_have_not_changed(vector: dict) -> None:
    root, salt = bytes.fromhex(vector["root"]), bytes.fromhex(vector["salt"])
    subkey = bytes.fromhex(vector["subkey"])
    assert derive(root, vector["label"], vector["version"], salt=salt, length=len(subkey)) == subkey
    info = f"infl/1/{vector['label']}/{vector['version']}".encode()
    assert hkdf_by_hand(root, salt, info, len(subkey)) == subkey
    assert fingerprint(root, vector["version"]) == vector["fingerprint"]


def test_every_label_has_a_vector_and_a_meaning() -> None:
    assert {v["label"] for v in VECTORS} == set(SUBKEY_LABELS)
    assert all(len(meaning) > 10 for meaning in SUBKEY_LABELS.values())
    assert not any("/" in label for label in SUBKEY_LABELS)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 1000), st.binary(max_size=40))
def test_no_two_uses_have_one_subkey(root: bytes, version: int, salt: bytes) -> None:
    uses = [(label, v, s) for label in SUBKEY_LABELS for v in (version, version + 1) for s in (salt, salt + b"\1")]
    subkeys = {derive(root, label, v, salt=s) for label, v, s in uses}
    assert len(subkeys) == len(uses)
    assert root not in subkeys


@given(st.binary(min_size=32, max_size=32), st.integers(0, 255))
def test_one_bit_of_the_root_changes_half_of_the_subkey(root: bytes, bit: int) -> None:
    other = (int.from_bytes(root, "big") ^ (1 << bit)).to_bytes(32, "big")
    pairs = zip(derive(root, "lock", 1, length=256), derive(other, "lock", 1, length=256), strict=True)
    changed = sum((a ^ b).bit_count() for a, b in pairs)
    assert 800 < changed < 1248  # 2048 fair coins: mean 1024, sd 23
    assert fingerprint(root, 1) != fingerprint(other, 1)


def test_the_fingerprint_does_not_give_the_subkey_of_another_use_away() -> None:
    root = hashlib.sha256(b"test").digest()
    assert readable(derive(root, "lock", 1)) != fingerprint(root, 1) == readable(derive(root, "fingerprint", 1))


def test_an_unknown_label_names_the_known_ones() -> None:
    with pytest.raises(KeyringError, match="no subkey is called 'lok': the labels are lock, seal,"):
        derive(bytes(32), "lok", 1)


@pytest.mark.parametrize("length", [0, -1, 255 * 32 + 1])
def test_a_length_that_hkdf_has_not_is_refused(length: int) -> None:
    with pytest.raises(KeyringError, match="1 to 8160 bytes"):
        derive(bytes(32), "lock", 1, length=length)


def test_the_documentation_has_the_table_of_labels() -> None:
    page = (Path(__file__).parents[2] / "docs" / "keys.md").read_text()
    for label, meaning in SUBKEY_LABELS.items():
        assert f"| `{label}` | {meaning} |" in page
