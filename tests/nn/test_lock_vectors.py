"""The published test vectors of the lock, recomputed by a slow implementation that shares no code with the package.

``tests/vectors/lock.json`` lets another implementation check its factors, ``lock-1.json`` those of files of infl 0.1. M and A are the factors, ``effective`` and
``stored`` weights before and after the lock; tensors are flattened in C order.
"""

import hashlib
import hmac
import itertools
import json
import math
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from infl.nn.field import public_network as package_network
from infl.nn.lock import Field

FILES = {
    1: Path(__file__).parents[1] / "vectors" / "lock-1.json",
    2: Path(__file__).parents[1] / "vectors" / "lock.json",
}


# ---- RFC 8439 and RFC 5869, word by word --------------------------------------------------------------------------


def chacha20_words(key: bytes, n: int, nonce: bytes = bytes(12)) -> list[int]:
    """The first n 64-bit words of the keystream, from block 0 on."""
    stream, counter = b"", 0
    while len(stream) < 8 * n:
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key), counter]
        start += struct.unpack("<3I", nonce)
        x = start.copy()

        def rotate(value: int, by: int) -> int:
            return (value << by | value >> (32 - by)) & 0xFFFFFFFF

        def quarter(a: int, b: int, c: int, d: int, x: list[int] = x) -> None:
            for first, second, third, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[first] = (x[first] + x[second]) & 0xFFFFFFFF
                x[third] = rotate(x[third] ^ x[first], by)

        for _ in range(10):
            for i in range(4):
                quarter(i, i + 4, i + 8, i + 12)
            for i in range(4):
                quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        stream += struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(x, start, strict=True)))
        counter += 1
    return list(struct.unpack(f"<{n}Q", stream[: 8 * n]))


def hkdf_extract(salt: bytes, secret: bytes) -> bytes:
    return hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()


def hkdf_expand(key: bytes, info: bytes, length: int = 32) -> bytes:
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()[:length]


def info(*parts: str | int | bytes) -> bytes:
    raw = [p.encode() if isinstance(p, str) else struct.pack("<I", p) if isinstance(p, int) else p for p in parts]
    return b"".join(struct.pack("<I", len(p)) + p for p in raw)


# ---- the public network -------------------------------------------------------------------------------------------


def public_network() -> dict:
    words = chacha20_words(hashlib.sha256(b"infl coordinate field").digest(), 100)
    halves = [word >> shift & 0xFFFF for word in words for shift in (0, 16, 32, 48)]
    take = iter(halves)
    return {
        "first": [[next(take) % 16 - 8 for _ in range(3)] for _ in range(16)],
        "first phase": [next(take) for _ in range(16)],
        "second": [[next(take) % 5 - 2 for _ in range(16)] for _ in range(16)],
        "second phase": [next(take) for _ in range(16)],
        "carrier": next(take) | 1,
    }


NETWORK = public_network()


def sine(phase: int) -> int:
    return round(32767 * math.sin(2 * math.pi * (phase % 65536) / 65536))


def layer(weights: list[list[int]], phases: list[int], inputs: list[int]) -> list[int]:
    return [
        sine(b + sum(w * x for w, x in zip(row, inputs, strict=True))) for row, b in zip(weights, phases, strict=True)
    ]


def channels(word: int) -> tuple[int, int, int]:
    """Phase, G and g of one weight, as integers."""
    u = [word >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
    hidden = layer(NETWORK["first"], NETWORK["first phase"], u[1:])
    hidden = layer(NETWORK["second"], NETWORK["second phase"], hidden)

    def read_out(mask: int) -> int:
        return sum(-h if (i & mask).bit_count() % 2 else h for i, h in enumerate(hidden))

    return (u[0] * NETWORK["carrier"] + read_out(4)) % 65536, read_out(1), read_out(2)


# ---- the factors --------------------------------------------------------------------------------------------------


def gain(key: bytes, axis: int, place: int, names: list[str] | None) -> float:
    if names is None:
        word = chacha20_words(hkdf_expand(key, info("gain", axis)), place + 1)[place]
    else:
        (word,) = struct.unpack("<Q", hkdf_expand(key, info("unit", axis, names[place]))[24:])
    return 2 * (word >> 11) / 2**53 - 1


def key_info(case: dict) -> bytes:
    if case["version"] == 1:
        return info("infl lock 1", case["name"])
    return info("infl lock 2", case["name"], struct.pack("<d", case["strength"]), case["widening"])


def factors(case: dict) -> tuple[list[float], list[float]]:
    shape, strength = case["shape"], case["strength"]
    units = {int(axis): names for axis, names in case["units"].items()}
    key = hkdf_expand(hkdf_extract(bytes.fromhex(case["salt"]), bytes.fromhex(case["subkey"])), key_info(case))
    named = sorted(units)
    others = [axis for axis in range(len(shape)) if axis not in units]
    scale = 0.5
    if len(shape) > 1:
        scale = 2.0 / math.prod(1024 if axis in units else shape[axis] for axis in range(1, len(shape))) ** 0.25
    scale *= 4 ** case["widening"]
    unit = 32767 * math.sqrt(8)
    m, a = [], []
    for index in itertools.product(*map(range, shape)):
        nonce = bytes(12)
        for axis in named:
            own = hkdf_expand(key, info("unit", axis, units[axis][index[axis]]))
            nonce = bytes(a ^ b for a, b in zip(nonce, own[:12], strict=True))
        place = 0  # of the weight among those of its unit
        for axis in others:
            place = place * shape[axis] + index[axis]
        word = chacha20_words(hkdf_expand(key, info("coordinates")), place + 1, nonce)[place]
        phase, magnitude, term = channels(word)
        arc = round(strength * 16384)
        flipped = (phase + arc) % 65536 < 2 * arc
        gains = [gain(key, axis, index[axis], units.get(axis)) for axis in range(len(shape)) if len(shape) > 1]
        m.append((-1 if flipped else 1) * math.exp(0.5 * strength * (math.tanh(magnitude / unit) + sum(gains))))
        a.append(strength**1.5 * scale * term / unit)
    return m, a


# ---- the vectors --------------------------------------------------------------------------------------------------

CASES = [
    {"name": "dense.weight", "shape": [3, 4], "units": {}, "strength": 1.0},
    {"name": "embed.weight", "shape": [2, 3], "units": {"1": ["TP53", "EGFR", "β-catenin"]}, "strength": 1.0},
    {"name": "embed.weight", "shape": [2, 2], "units": {"1": ["EGFR", "TP53"]}, "strength": 0.3},
    {"name": "decode.weight", "shape": [2, 3], "units": {"0": ["TP53", "EGFR"]}, "strength": 0.75},
    {"name": "graph.weight", "shape": [2, 2], "units": {"0": ["a", "b"], "1": ["b", "c"]}, "strength": 1.0},
    {"name": "conv.weight", "shape": [2, 2, 2, 3], "units": {}, "strength": 0.5},
    {"name": "norm.weight", "shape": [5], "units": {}, "strength": 1.0},
    {"name": "gate", "shape": [], "units": {}, "strength": 1.0},
    {"name": "px_r", "shape": [2], "units": {"0": ["TP53", "EGFR"]}, "strength": 0.5, "widening": 2},
]


def make(version: int) -> list[dict]:
    source = random.Random(0)
    cases = []
    for number, case in enumerate(CASES[: -1 if version == 1 else None]):
        secrets = {"subkey": bytes(range(number, number + 32)).hex(), "salt": f"salt {number}".encode().hex()}
        case = {"version": version, "widening": 0, **secrets, **case}
        m, a = factors(case)
        effective = [round(source.gauss(0, 1), 6) for _ in m]
        stored = [(x - a_) / m_ for x, m_, a_ in zip(effective, m, a, strict=True)]
        cases.append({**case, "M": m, "A": a, "effective": effective, "stored": stored})
    return cases


VECTORS = {version: json.loads(path.read_text()) if path.exists() else [] for version, path in FILES.items()}


def test_the_slow_implementation_gives_the_published_chacha20_keystream():
    # RFC 8439, appendix A.1, test vectors 1 and 2: key 0, nonce 0, blocks 0 and 1
    stream = struct.pack("<16Q", *chacha20_words(bytes(32), 16)).hex()
    assert stream.startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert stream[128:].startswith("9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed")


@pytest.mark.parametrize("version", [1, 2])
def test_the_file_is_what_the_slow_implementation_gives(version: int):
    made = make(version)
    assert len(made) == len(VECTORS[version]) > 7
    for ours, theirs in zip(made, VECTORS[version], strict=True):
        assert {k: v for k, v in ours.items() if isinstance(v, str | dict)} == {
            k: v for k, v in theirs.items() if isinstance(v, str | dict)
        }
        for what in ("M", "A", "effective", "stored"):
            np.testing.assert_allclose(ours[what], theirs[what], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("vector", "version"),
    [(vector, version) for version, vectors in VECTORS.items() for vector in vectors],
    ids=lambda v: f"{v['name']}-{v['strength']}" if isinstance(v, dict) else v,
)
def test_the_package_gives_the_vectors(vector: dict, version: int):
    secrets = bytes.fromhex(vector["subkey"]), bytes.fromhex(vector["salt"])
    field = Field(*secrets, vector["strength"], vector.get("widening", 0), version)
    units = {int(axis): names for axis, names in vector["units"].items()}
    shape = tuple(vector["shape"])
    m, a = field.factors(vector["name"], shape, units)
    np.testing.assert_allclose(m.flatten(), vector["M"], rtol=1e-13)
    np.testing.assert_allclose(a.flatten(), vector["A"], rtol=1e-13, atol=1e-15)
    effective = torch.tensor(vector["effective"], dtype=torch.float64).reshape(shape)
    stored = field.lock(vector["name"], effective, units)
    np.testing.assert_allclose(stored.flatten(), vector["stored"], rtol=1e-12)
    np.testing.assert_allclose(field.unlock(vector["name"], stored, units), effective, rtol=1e-12, atol=1e-15)


def test_the_public_network_is_the_documented_one():
    network = package_network()
    for ours, theirs in (("first", network.first), ("second", network.second)):
        np.testing.assert_array_equal(np.array(NETWORK[ours]), theirs.view(np.int16))
    np.testing.assert_array_equal(NETWORK["first phase"], network.first_phase.ravel())
    np.testing.assert_array_equal(NETWORK["second phase"], network.second_phase.ravel())
    assert NETWORK["carrier"] == network.carrier
    assert [sine(phase) for phase in range(65536)] == network.sine.tolist()
    # a dead or a doubled unit would take entropy from the field
    assert (np.array(NETWORK["first"]) != 0).any(axis=1).all()
    for rows in (NETWORK["first"], NETWORK["second"]):
        assert len({tuple(sign * w for w in row) for row in rows for sign in (1, -1)}) == 32


if __name__ == "__main__":  # python tests/nn/test_lock_vectors.py writes the file
    rows = [json.dumps(case, ensure_ascii=False) for case in make(2)]  # those of version 1 stay as infl 0.1 had them
    FILES[2].write_text("[\n" + ",\n".join(rows) + "\n]\n")
