"""The seal: what it costs, and whether what travels is noise (docs/concepts/seal.md)."""

from __future__ import annotations

import time

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from sklearn.linear_model import RidgeCV

import infl
from _table import Table
from infl.privacy.seal import Context, Field, GroupSeal, Ledger, Packing, PairwiseSite, add, uncover
from panels import PANELS, panel_sites

N = 25_000_000
REPEATS = 7


def chacha() -> object:
    return Cipher(algorithms.ChaCha20(bytes(32), bytes(16)), mode=None).encryptor()


def seconds(function, *arguments) -> float:
    begun = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begun


def cost(table: Table) -> None:
    """25 million weights, 100 MB."""
    packing = Packing((Field("w", (N,), -31), Field("n", (), 0, bits=64)))
    update = (np.random.default_rng(0).normal(size=N) * 1e-2).astype(np.float32)
    zeros, buffer, seal = bytes(4 * N), bytearray(4 * N), GroupSeal(bytes(32))

    def two_passes() -> None:
        for _ in range(2):
            chacha().update(zeros)

    def two_passes_in_place() -> None:
        for _ in range(2):
            chacha().update_into(zeros, buffer)

    def seal_among(n: int, r: int, ledger: Ledger | None = None):
        cohort = tuple(f"site_{i}" for i in range(n))
        context = Context("run", r, 0, cohort, "train", packing.digest())
        return seal.seal(context, "site_1", update, np.array([3.0]), packing, weight=0.2, share=0.2, ledger=ledger)

    ledger = Ledger(None, bytes(32))
    ratios, in_place, recorded, sizes, adding = [], [], [], [], []
    words = seal_among(3, 0)
    for r in range(1, REPEATS + 1):
        few = seconds(seal_among, 3, r)
        passes = seconds(two_passes)
        ratios.append(few / passes)
        recorded.append(seconds(seal_among, 3, r, ledger) / passes)
        in_place.append(few / seconds(two_passes_in_place))
        sizes.append(seconds(seal_among, 300, r) / few)
        other = words.low.copy()
        adding.append(seconds(add, words, words) / seconds(lambda other=other: np.add(other, other, out=other)))
    middle = float(np.median(ratios))
    table.add(
        "time to seal 25 M weights / two ChaCha20 passes over as many bytes",
        "<= 1.5",
        middle,
        seeds=REPEATS,
        ok=middle <= 1.5,
    )
    table.add("the same / two passes into a buffer that is kept", "reported", float(np.median(in_place)), seeds=REPEATS)
    table.add(
        "time to seal and write into the ledger (SHA-256 of all words) / two ChaCha20 passes",
        "reported",
        float(np.median(recorded)),
        seeds=REPEATS,
    )
    middle = float(np.median(sizes))
    table.add("time to seal among 300 sites / among 3", "1", middle, seeds=REPEATS, ok=middle <= 1.2)
    middle = float(np.median(adding))
    table.add("time to add at the coordinator / np.add", "<= 2", middle, seeds=REPEATS, ok=middle <= 2)
    table.add("bytes a weight on the wire", "4", words.nbytes / N, seeds=1, ok=words.nbytes / N < 4.001)


def noise(table: Table) -> None:
    """1,000 rounds of the very same update, and the control that reuses one round's masks."""
    rng = np.random.default_rng(0)
    packing = Packing((Field("w", (64,), -28),))
    update, other = (rng.normal(size=64).astype(np.float32) for _ in range(2))
    seal = GroupSeal(rng.bytes(32))
    cohort = ("a", "b", "c")

    def message(r: int, values: np.ndarray) -> np.ndarray:
        return seal.seal(Context("run", r, 0, cohort, "train", packing.digest()), "a", values, np.empty(0), packing).low

    which = rng.integers(0, 2, 1000)
    fresh = np.stack([message(r, (update, other)[k]) for r, k in enumerate(which)])
    fixed = np.stack([message(0, (update, other)[k]) for k in which])
    same = np.stack([message(r, update) for r in range(1000)])

    def chi2(words: np.ndarray) -> float:
        counts = np.bincount(words.view(np.uint8).ravel(), minlength=256)
        return float(((counts - counts.mean()) ** 2 / counts.mean()).sum() / 255)

    def correlation(words: np.ndarray) -> float:
        signed = words.view(np.int32).astype(float)
        return float(np.mean([abs(np.corrcoef(row, update)[0, 1]) for row in signed]))

    def probe(words: np.ndarray) -> float:
        bits = np.unpackbits(words.view(np.uint8), axis=1).astype(float) - 0.5
        fitted = RidgeCV(np.logspace(-1, 5, 13)).fit(bits[:500], which[:500])
        return float(((fitted.predict(bits[500:]) > 0.5) == which[500:]).mean())

    expected = np.sqrt(2 / np.pi / 63)  # of |r| between independent vectors of 64
    table.add(
        "byte chi-square per degree of freedom, 1,000 rounds of one update",
        "1 ± 0.2",
        chi2(same),
        seeds=1000,
        ok=abs(chi2(same) - 1) < 0.2,
    )
    table.add(
        "|correlation| of sealed words with the plain update",
        f"{expected:.3f} (chance)",
        correlation(same),
        seeds=1000,
        ok=correlation(same) < expected * 1.2,
    )
    table.add(
        "linear probe on all bits: which of two updates was sealed",
        "0.5 ± 0.05",
        probe(fresh),
        seeds=1000,
        ok=abs(probe(fresh) - 0.5) < 0.05,
    )
    table.add("control, masks reused: linear probe", "1", probe(fixed), seeds=1000, ok=probe(fixed) > 0.99)
    table.add(
        "control, masks reused: byte chi-square per degree of freedom",
        "far from 1",
        chi2(fixed),
        seeds=1000,
        ok=chi2(fixed) > 10,
    )


def pairwise(table: Table) -> None:
    """The second layer against the first, a million weights, five sites: what a site does, and what the coordinator does."""
    n, cohort = 1_000_000, tuple("abcde")
    packing = Packing((Field("w", (n,), -31),))
    update = (np.random.default_rng(0).normal(size=n) * 1e-2).astype(np.float32)
    seal = GroupSeal(bytes(32))
    sites = {s: PairwiseSite(s, bytes(32), "run") for s in cohort}
    keys = {s: site.advertise() for s, site in sites.items()}
    for site in sites.values():
        site.meet(keys)
    at_site, at_coordinator = [], []
    for r in range(REPEATS):
        context = Context("run", r, 0, cohort, "train", packing.digest())
        begun = time.perf_counter()
        words = {s: seal.seal(context, s, update, np.empty(0), packing) for s in cohort}
        group = time.perf_counter() - begun
        begun = time.perf_counter()
        shares = {s: sites[s].cover(context, words[s]) for s in cohort}
        at_site.append((group + time.perf_counter() - begun) / group)
        total = None
        for w in words.values():
            total = add(total, w)
        begun = time.perf_counter()
        revealed = [sites[s].reveal(context, cohort, {p: shares[p][s] for p in cohort}) for s in cohort]
        uncover(context, total, revealed, cohort)
        at_coordinator.append((time.perf_counter() - begun) / group)
    table.add("pairwise seal among 5 sites, time at a site / group seal", "reported", at_site)
    table.add(
        "pairwise seal among 5 sites, taking masks off a sum / group seal of all five", "reported", at_coordinator
    )


def weights(run) -> torch.Tensor:
    key = run.key if run.model.header.fingerprint else None
    return torch.cat([t.ravel() for t in run.model.effective(key).values()])


def fits(table: Table) -> None:
    """Whole fits with and without the seal, same seed."""
    for name in PANELS:
        difference, same = [], []
        for seed in range(5):
            sites, target = panel_sites(name, seed=seed)
            runs = [
                infl.tl.fit_federated(sites, target=target, lock=None, seal=s, seed=seed, progress=False, key_added=s)
                for s in ("group", "none")
            ]
            sealed, plain = map(weights, runs)
            difference.append(float((sealed - plain).norm() / plain.norm()))
            same.append(
                np.mean([(a.obs["group_prediction"] == a.obs["none_prediction"]).mean() for a in sites.values()])
            )
        table.add(
            f"{name}: weights, sealed against unsealed, relative difference",
            "<= 1e-5",
            difference,
            ok=max(difference) <= 1e-5,
        )
        table.add(f"{name}: same predictions, share", "1", same, ok=min(same) == 1)


if __name__ == "__main__":
    result = Table("seal")
    cost(result)
    noise(result)
    pairwise(result)
    fits(result)
    result.save()
