"""Sealed answers of a thousand sites, replayed as bytes: one coordinator, and regions under one; for performance.py.

``python _regions.py WEIGHTS SITES REGIONS`` prints processor seconds of adding all answers at one coordinator, and at each region and
the coordinator above them, each message read from its bytes, and whether both sums are the same and open to what the sites sent.
``python _regions.py WEIGHTS`` prints the seconds that one answer takes.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from infl.federation.gathered import Gathered
from infl.federation.messages import Answer, Plan
from infl.federation.wire import decode, encode
from infl.privacy.seal import Context, Field, GroupSeal, Packing

REPEATS = 7


def plan_of(packing: Packing, sites: tuple[str, ...]) -> Plan:
    return Plan("run", 0, "train", 1, 0, sites, packing.lanes, "", 1, "", ())


def added(plan: Plan, answers: list[bytes]) -> tuple[float, Gathered]:
    """Return the seconds that reading and adding takes, and the sum."""
    begun, gathered = time.process_time(), Gathered(plan)
    for content in answers:
        gathered.take(decode(content))
    return time.process_time() - begun, gathered


def sealed(packing: Packing, sites: tuple[str, ...]) -> tuple[Context, dict[str, bytes], np.ndarray]:
    """Return what each site sends, as bytes, and the sum of what they sealed, as integers."""
    context, seal = Context("run", 1, 0, sites, "train", packing.digest()), GroupSeal(bytes(range(32)))
    rng, sent, plain = np.random.default_rng(0), {}, np.zeros(packing.n32, np.int64)
    for site in sites:
        integers = rng.integers(-1000, 1001, packing.n32)
        plain += integers
        words = seal.seal(context, site, (integers * 2.0**-31).astype(np.float32), np.ones(1), packing)
        sent[site] = encode(Answer(site, "run", 0, 0, 1, "", words))
    return context, sent, plain


def compare(n: int, n_sites: int, n_regions: int) -> None:
    packing = Packing((Field("w", (n,), -31), Field("n", (), 0, bits=64)))
    sites = tuple(f"site_{number}" for number in range(n_sites))
    context, sent, plain = sealed(packing, sites)
    members = [sites[number::n_regions] for number in range(n_regions)]  # no neighbours in the cohort: the hardest
    taken: dict[str, list[float]] = {"one": [], "busiest region": [], "above": []}
    for _ in range(REPEATS):
        seconds, whole = added(plan_of(packing, sites), list(sent.values()))
        taken["one"].append(seconds)
        parts, of_regions = [], []
        for number, of_region in enumerate(members):
            seconds, gathered = added(plan_of(packing, of_region), [sent[site] for site in of_region])
            of_regions.append(seconds)
            parts.append(encode(gathered.subtotal(f"region_{number}")))
        taken["busiest region"].append(max(of_regions))
        seconds, top = added(plan_of(packing, sites), parts)
        taken["above"].append(seconds)
    assert whole.words is not None and top.words is not None and top.responders == sites
    different = int((whole.words.low != top.words.low).sum() + (whole.words.high != top.words.high).sum())
    opened = GroupSeal(bytes(range(32))).unseal(context, top.responders, top.words, packing)
    wrong = int((opened[0] != plain).sum()) + int(opened[1][0] != n_sites)
    print(json.dumps({"seconds": taken, "different": different, "wrong": wrong}))


def throughput(n: int) -> None:
    packing, few = Packing((Field("w", (n,), -31), Field("n", (), 0, bits=64))), 8
    sites = tuple(f"site_{number}" for number in range(few))
    _, sent, _ = sealed(packing, sites)
    plan, answers = plan_of(packing, sites), list(sent.values())
    again = max(1, 40_000_000 // n // few)
    of_one = [sum(added(plan, answers)[0] for _ in range(again)) / again / few for _ in range(REPEATS)]
    print(json.dumps({"seconds": of_one, "bytes": len(answers[0])}))


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    throughput(*numbers) if len(numbers) == 1 else compare(*numbers)
