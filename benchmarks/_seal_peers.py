"""One update of 1 M weights under `infl`'s seal, Flower's SecAgg+ and TenSEAL's CKKS, on one core; for performance.py.

Runs in an environment that has Flower and TenSEAL, and prints its measurements as JSON. CKKS has the parameters that NVIDIA
FLARE provisions; SecAgg+ has four neighbours and runs through the functions that Flower's client and server call.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
import tenseal
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation import secaggplus_utils
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key

from infl.privacy.seal import Context, Field, GroupSeal, Packing, add, dequantise
from infl.privacy.seal.lanes import LANE_BLOCK

N, REPEATS = 1_000_000, 9
SITES = (11, 12, 13, 14, 15)
UPDATE = (np.random.default_rng(0).normal(size=N) * 1e-2).astype(np.float32)
secagg = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")


class Times(dict):
    """Seconds by name; processor time, so that neighbours on the machine count little."""

    def take(self, name: str, function, *arguments):
        begun = time.process_time()
        result = function(*arguments)
        self.setdefault(name, []).append(time.process_time() - begun)
        return result


def own(times: Times, repeat: int) -> int:
    """Seal at one of five sites, and open the sum of all."""
    packing = Packing((Field("w", (N,), -31), Field("n", (), 0, bits=64)))
    context = Context("run", repeat, 0, tuple(map(str, SITES)), "train", packing.digest())

    def seal(site: str):
        arguments = (context, site, UPDATE, np.array([100.0]), packing)
        return GroupSeal(bytes(32)).seal(*arguments, weight=0.2, share=0.2)

    messages = [times.take("infl: seal", seal, str(site)) for site in SITES]
    total = None
    for words in messages:
        total = add(total, words)

    def open_sum():
        return dequantise(GroupSeal(bytes(32)).unseal(context, context.cohort, total, packing), packing)

    vector, _ = times.take("infl: open the sum", open_sum)
    assert np.allclose(vector, UPDATE, atol=1e-7)
    return messages[0].nbytes


def flower(times: Times) -> int:
    """A round of SecAgg+: keys, shares, masked vectors at five clients; then the sum is opened."""
    config = {
        Key.SAMPLE_NUMBER: 5, Key.SHARE_NUMBER: 5, Key.THRESHOLD: 3, Key.CLIPPING_RANGE: 8.0, Key.TARGET_RANGE: 1 << 22,
        Key.MOD_RANGE: 1 << 32, Key.MAX_WEIGHT: 1000.0,
    }  # fmt: skip
    states = {site: secagg.SecAggPlusState() for site in SITES}
    public, boxes, vectors = {}, {site: ([], []) for site in SITES}, {}
    for site, state in states.items():
        state.nid = site
        reply = secagg._setup(state, dict(config))
        public[str(site)] = (reply[Key.PUBLIC_KEY_1], reply[Key.PUBLIC_KEY_2])
    for site, state in states.items():
        reply = times.take("flower: keys and shares", secagg._share_keys, state, dict(public))
        for to, box in zip(reply[Key.DESTINATION_LIST], reply[Key.CIPHERTEXT_LIST], strict=True):
            boxes[to][0].append(site)
            boxes[to][1].append(box)
    parameters = ndarrays_to_parameters([UPDATE])
    for site, state in states.items():
        shares = {Key.SOURCE_LIST: boxes[site][0], Key.CIPHERTEXT_LIST: boxes[site][1]}
        reply = times.take("flower: mask", secagg._collect_masked_vectors, state, shares, 100, parameters)
        vectors[site] = reply[Key.MASKED_PARAMETERS]
    total: list | None = None
    for content in vectors.values():
        arrays = [bytes_to_ndarray(part) for part in content]
        total = arrays if total is None else parameters_addition(total, arrays)

    def open_sum():  # what Flower's server does when all answered
        opened = parameters_mod(total, 1 << 32)
        for site in SITES:
            seed = combine_shares([states[s].rd_seed_share_dict[site] for s in SITES[:3]])
            mask = secaggplus_utils.pseudo_rand_gen(seed, 1 << 32, get_parameters_shape(opened))
            opened = parameters_subtraction(opened, mask)
        ratio, opened = factor_extract(parameters_mod(opened, 1 << 32))
        (mean,) = dequantize(opened, 8.0, 1 << 22)
        mean -= (len(SITES) - 1) * 8.0
        mean *= (1 << 22) / ratio
        return mean

    assert np.allclose(times.take("flower: open the sum", open_sum), UPDATE, atol=1e-3)
    return sum(map(len, vectors[SITES[0]]))


def ckks(times: Times) -> int:
    """Encrypt and serialise at one of five sites; read and decrypt the sum of two."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 40], n_threads=1
    )
    context.global_scale = 2**40
    vector = times.take("ckks: encrypt", tenseal.ckks_vector, context, UPDATE * np.float64(0.5))
    content = times.take("ckks: serialise", vector.serialize)
    total = vector + vector
    values = times.take("ckks: decrypt the sum", total.decrypt)
    assert np.allclose(values, UPDATE, atol=1e-4)
    return len(content)


def streams(times: Times) -> None:
    """Two mask streams of the update by ChaCha20, and by AES-128 in counter mode, in the blocks that the seal reads."""
    zeros, buffer = bytes(4 * LANE_BLOCK), bytearray(4 * LANE_BLOCK)
    for name, cipher in (
        ("ChaCha20", Cipher(algorithms.ChaCha20(bytes(32), bytes(16)), None)),
        ("AES-128-CTR", Cipher(algorithms.AES(bytes(16)), modes.CTR(bytes(16)))),
    ):
        stream = cipher.encryptor()

        def read(stream=stream) -> None:
            for _ in range(round(2 * N / LANE_BLOCK)):
                stream.update_into(zeros, buffer)

        times.take(f"two streams: {name}", read)


def main() -> None:
    warnings.simplefilter("ignore")
    times, sizes = Times(), {}
    for repeat in range(REPEATS):
        streams(times)
        sizes = {"infl": own(times, repeat), "flower": flower(times), "ckks": ckks(times)}
    json.dump({"times": times, "bytes": sizes}, sys.stdout)


if __name__ == "__main__":
    main()
