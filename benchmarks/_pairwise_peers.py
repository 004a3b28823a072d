"""One update of 1 M weights under the pairwise seal of ten sites and under SecAgg+ with nine neighbours, for performance.py.

Runs in an environment that has Flower, on one core, and prints processor seconds at one site as JSON: keys agreed on with all
others, shares of the site's own secret, and the masked update.
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
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import Key

from infl.privacy.seal import Context, Field, GroupSeal, Packing, PairwiseSite

N, REPEATS, THRESHOLD = 1_000_000, 9, 7
SITES = tuple(range(11, 21))
UPDATE = (np.random.default_rng(0).normal(size=N) * 1e-2).astype(np.float32)
secagg = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")


def own(repeat: int) -> float:
    """Meet nine others, seal and cover."""
    packing = Packing((Field("w", (N,), -31), Field("n", (), 0, bits=64)))
    names = tuple(map(str, SITES))
    context = Context("run", repeat, 0, names, "train", packing.digest())
    sites = {name: PairwiseSite(name, bytes(32), "run") for name in names}
    keys = {name: site.advertise() for name, site in sites.items()}
    name = names[repeat % len(names)]
    begun = time.process_time()
    sites[name].meet(keys)
    arguments = (context, name, UPDATE, np.array([100.0]), packing)
    words = GroupSeal(bytes(32)).seal(*arguments, weight=0.1, share=0.1)
    sites[name].cover(context, words)
    return time.process_time() - begun


def flower() -> float:
    """Keys and shares (the mean over the sites, which need each other's), and one masked vector."""
    config = {
        Key.SAMPLE_NUMBER: len(SITES), Key.SHARE_NUMBER: len(SITES), Key.THRESHOLD: THRESHOLD, Key.CLIPPING_RANGE: 8.0,
        Key.TARGET_RANGE: 1 << 22, Key.MOD_RANGE: 1 << 32, Key.MAX_WEIGHT: 1000.0,
    }  # fmt: skip
    states = {site: secagg.SecAggPlusState() for site in SITES}
    public, boxes = {}, {site: ([], []) for site in SITES}
    for site, state in states.items():
        state.nid = site
        reply = secagg._setup(state, dict(config))
        public[str(site)] = (reply[Key.PUBLIC_KEY_1], reply[Key.PUBLIC_KEY_2])
    begun = time.process_time()
    for site, state in states.items():
        reply = secagg._share_keys(state, dict(public))
        for to, box in zip(reply[Key.DESTINATION_LIST], reply[Key.CIPHERTEXT_LIST], strict=True):
            boxes[to][0].append(site)
            boxes[to][1].append(box)
    shared = (time.process_time() - begun) / len(SITES)
    parameters, site = ndarrays_to_parameters([UPDATE]), SITES[0]
    given = {Key.SOURCE_LIST: boxes[site][0], Key.CIPHERTEXT_LIST: boxes[site][1]}
    begun = time.process_time()
    secagg._collect_masked_vectors(states[site], given, 100, parameters)
    return shared + time.process_time() - begun


def main() -> None:
    warnings.simplefilter("ignore")
    taken = [(own(repeat), flower()) for repeat in range(REPEATS)]
    json.dump({"infl": [a for a, _ in taken], "flower": [b for _, b in taken]}, sys.stdout)


if __name__ == "__main__":
    main()
