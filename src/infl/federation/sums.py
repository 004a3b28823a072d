"""Sums over sites outside a run: the same packing, seal and addition as a round, in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from infl.errors import SealError
from infl.federation.packings import WIDEN, join_sums, split_sums, sums_packing
from infl.privacy.seal import Context, GroupSeal, NoSeal, RangeError, add, dequantise

if TYPE_CHECKING:
    from infl.keys import Keyring
    from infl.models.task import Sums


_ATTEMPTS = 32


def sum_over_sites(
    parts: Mapping[str, Sums],
    purpose: str,
    key: Keyring | None = None,
    *,
    exponents: Mapping[str, int] | None = None,
) -> Sums:
    """Add named arrays over sites, sealed when there is a key and there are at least three sites.

    Parameters
    ----------
    parts
        Each site's arrays; alike in names and shapes.
    purpose
        What is summed; the seal is bound to it.
    key
        Key ring.
    exponents
        The step of an array's scale as a power of two, where it is not −20. It must follow from what all sites know
        already. An array that does not fit is asked for again on a scale 16 times coarser, so that a fine one is
        always safe: it costs the time of asking again.

    Returns
    -------
    dict
        The sums, to 2⁻²⁰ or the step asked for (coarser for sums beyond 2⁵⁹ steps).

    Examples
    --------
    >>> sites = {"a": {"x": [0.1]}, "b": {"x": [0.2]}}
    >>> float(abs(sum_over_sites(sites, "example", exponents={"x": -50})["x"] - 0.3)[0]) < 1e-14
    True
    """
    first = next(iter(parts.values()))
    packing = sums_packing({name: np.shape(value) for name, value in first.items()}, exponents)
    sealed = key is not None and len(parts) >= 3
    seal = GroupSeal(key.subkey("seal"), min_sites=3) if key is not None and sealed else NoSeal(min_sites=1)
    run, cohort, empty = os.urandom(16).hex(), tuple(parts), np.empty(0, dtype=np.float32)
    for attempt in range(_ATTEMPTS):
        context = Context(run, 0, attempt, cohort, purpose, packing.digest())
        total, refused = None, set()
        for site, arrays in parts.items():
            try:
                words = seal.seal(context, site, empty, join_sums(arrays, packing), packing)
            except RangeError as error:
                refused |= set(error.fields)
                continue
            total = add(total, words)
        if not refused and total is not None:
            _, sums = dequantise(seal.unseal(context, cohort, total, packing), packing)
            return split_sums(sums, packing)
        packing = packing.coarser(dict.fromkeys(refused, WIDEN))
    raise SealError(f"sums for {purpose} are beyond any scale: look for extreme values in the data")
