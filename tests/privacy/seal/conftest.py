"""Shared by the tests of this folder."""

from dataclasses import replace

import numpy as np

from infl.privacy.seal import Context, Field, GroupSeal, MaskedArrays, Packing, PairwiseSite, add

KEY = bytes(range(32))


PACKING = Packing((Field("w", (40,), -24), Field("n", (), 0, bits=64)))


def context(n: int, **changes: object) -> Context:
    return replace(Context("run", 1, 0, tuple(f"s{i}" for i in range(n)), "train", PACKING.digest()), **changes)


def met(n: int, key: bytes = KEY) -> dict[str, PairwiseSite]:
    sites = {s: PairwiseSite(s, key, "run") for s in context(n).cohort}
    keys = {s: site.advertise() for s, site in sites.items()}
    for site in sites.values():
        site.meet(keys)
    return sites


def messages(
    sites: dict[str, PairwiseSite], c: Context, seed: int = 0
) -> dict[str, tuple[MaskedArrays, MaskedArrays, dict[str, bytes]]]:
    """Group-sealed words, the same covered, and shares, by site."""
    rng, seal, out = np.random.default_rng(seed), GroupSeal(KEY), {}
    for site in c.cohort:
        words = seal.seal(c, site, rng.normal(size=40), np.array([3.0]), PACKING, weight=1 / len(c.cohort))
        covered = words.copy()
        out[site] = (words, covered, sites[site].cover(c, covered))
    return out


def total(parts: list[MaskedArrays]) -> MaskedArrays:
    result = None
    for words in parts:
        result = add(result, words)
    assert result is not None
    return result
