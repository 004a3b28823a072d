"""The published test vectors, recomputed by a slow implementation that shares no code with the package.

``tests/vectors/seal.json`` lets another implementation check its masks, tags and messages.
"""

import hashlib
import hmac
import json
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from infl.privacy.seal import Context, Field, GroupSeal, Packing

FILE = Path(__file__).parents[2] / "vectors" / "seal.json"
P = 2**61 - 1


def _expand(key: bytes, info: bytes) -> bytes:
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()


def _stream(key: bytes, n_bytes: int) -> bytes:
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(n_bytes))


def _words(raw: bytes, size: int) -> list[int]:
    return [int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size)]


def reference(case: dict) -> dict[str, list[int]]:
    """Seal one message in plain Python."""
    key = bytes.fromhex(case["subkey"])
    arrays = [[f["name"], f["shape"], f["bits"], *(["of all"] if f.get("of_all") else [])] for f in case["packing"]]
    packing_digest = hashlib.sha256(json.dumps(arrays).encode()).hexdigest()
    c = {**case["context"], "packing": packing_digest}
    digest = hashlib.sha256(json.dumps(c, sort_keys=True).encode()).digest()
    place = c["cohort"].index(case["site"])

    def lane_key(lane: str, index: int = 0) -> bytes:
        return _expand(key, b"infl seal " + lane.encode() + index.to_bytes(4, "big") + digest)

    def integers(bits: int, values: list[float], weight: float) -> list[int]:
        fields = sorted((f for f in case["packing"] if f["bits"] == bits), key=lambda f: f.get("of_all", False))
        steps = [2.0 ** f["exponent"] for f in fields for _ in range(int(np.prod(f["shape"], dtype=int)))]
        return [round(v * (weight / s)) for v, s in zip(values, steps, strict=True)]  # round half to even, as IEEE

    def tag(lane: str, q: list[int]) -> int:
        n_sigma, n_rho = min(4096, len(q)), -(-len(q) // 4096)
        raw = _words(_stream(lane_key(f"{lane} tag"), 8 * (n_sigma + n_rho)), 8)
        sigma, rho = [w >> 4 for w in raw[:n_sigma]], [w >> 3 for w in raw[n_sigma:]]
        return sum(rho[j // 4096] * sigma[j % 4096] * v for j, v in enumerate(q)) % P

    def masked(lane: str, q: list[int], bits: int) -> list[int]:
        size = bits // 8
        plus, minus = (_words(_stream(lane_key(lane, place + k), size * len(q)), size) for k in (0, 1))
        return [(v + a - b) % 2**bits for v, a, b in zip(q, plus, minus, strict=True)]

    low = integers(32, case["vector"], case["weight"])
    high = integers(64, case["sums"], 1.0)
    n_all = sum(int(np.prod(f["shape"], dtype=int)) for f in case["packing"] if f.get("of_all"))
    high, of_all = high[: len(high) - n_all], high[len(high) - n_all :]
    t, own = (tag("low", low) + tag("high", high)) % P, tag("all", of_all)
    sealed = {
        "low": masked("low", low, 32),
        "high": masked("high", high, 64) + masked("tag", [t % 2**31, t >> 31], 64),
    }
    last = masked("all", of_all, 64) + masked("all's tag", [own % 2**31, own >> 31], 64)
    return sealed | ({"of_all": last} if n_all else {})


def make_cases() -> list[dict]:
    """Return the inputs of the vectors."""
    rng = np.random.default_rng(7)
    cases = []
    for number, (shape, cohort) in enumerate([((3, 2), "abc"), ((5000,), "abcd"), ((2,), "abc")]):
        size = int(np.prod(shape))
        packing = [
            {"name": "w", "shape": list(shape), "exponent": -24, "bits": 32},
            {"name": "n", "shape": [], "exponent": 0, "bits": 64},
            {"name": "m", "shape": [2], "exponent": -20, "bits": 64},
        ]
        if number == 2:  # a count that is opened of all sites only, named before sums that are opened of some
            packing[1]["of_all"] = True
        cases.append(
            {
                "subkey": bytes(range(number, number + 32)).hex(),
                "context": {
                    "run": f"run {number}",
                    "round": 2,
                    "attempt": number,
                    "cohort": list(cohort),
                    "kind": "train",
                },
                "site": "b",
                "packing": packing,
                "weight": 0.25,
                "vector": rng.normal(size=size).astype(np.float32).astype(float).tolist(),
                "sums": [17.0, -3.5, 1e6],
            }
        )
    return cases


def test_package_and_reference_agree_with_the_file() -> None:
    cases = json.loads(FILE.read_text())
    assert len(cases) == 3
    for case in cases:
        packing = Packing(tuple(Field(**{**f, "shape": tuple(f["shape"])}) for f in case["packing"]))
        context = Context(**{**case["context"], "cohort": tuple(case["context"]["cohort"])}, packing=packing.digest())
        words = GroupSeal(bytes.fromhex(case["subkey"])).seal(
            context,
            case["site"],
            np.array(case["vector"], dtype=np.float32),
            np.array(case["sums"]),
            packing,
            weight=case["weight"],
        )
        slow = reference(case)
        assert words.low.tolist() == slow["low"] == case["low"]
        assert words.high.tolist() == slow["high"] == case["high"]
        assert words.of_all.tolist() == slow.get("of_all", []) == case.get("of_all", [])


if __name__ == "__main__":  # python tests/privacy/seal/test_vectors.py writes the file
    FILE.write_text(json.dumps([{**case, **reference(case)} for case in make_cases()]) + "\n")
