"""How many instructions the seal takes."""

import pytest
from tests.instructions import instructions, needs_valgrind

SEAL = """
import os
import sys
import numpy as np
from infl.privacy.seal import Context, Field, GroupSeal, Packing

for n in map(int, sys.argv[1:]):
    if os.fork() == 0:
        packing = Packing((Field("w", (n,), -31),))
        context = Context("run", 1, 0, ("a", "b", "c"), "train", packing.digest())
        GroupSeal(bytes(32)).seal(context, "a", np.full(n, 1e-3, np.float32), np.empty(0), packing)
        break
    os.wait()
"""
"""Seals once for each number, in a process that comes from one that has imported everything: imports take most of the time."""
COVER = """
import os
import sys
import numpy as np
from infl.privacy.seal import Context, MaskedArrays, PairwiseSite

cohort = ("a", "b", "c", "d")
sites = {name: PairwiseSite(name, bytes(32), "run") for name in cohort}
keys = {name: site.advertise() for name, site in sites.items()}
sites["b"].meet(keys)
for n in map(int, sys.argv[1:]):
    if os.fork() == 0:
        words = MaskedArrays(np.zeros(n, np.uint32), np.zeros(2, np.uint64))
        sites["b"].cover(Context("run", 1, 0, cohort, "train", ""), words)
        break
    os.wait()
"""
"""Lays the masks of three pairs and the site's own over a message."""
MOST, MOST_OF_MASKS = 60, 70
"""A quarter more than there were when this was written."""


@pytest.mark.long
@needs_valgrind
def test_sealing_a_weight_takes_no_more_instructions_than_it_did() -> None:
    few, many = 1 << 12, 1 << 19  # one part each: with more, several threads would wait for each other
    of_few, of_many = instructions(SEAL, few, many)
    assert 0 < (of_many - of_few) / (many - few) <= MOST


@pytest.mark.slow
@needs_valgrind
def test_laying_four_masks_over_a_weight_takes_no_more_instructions_than_it_did() -> None:
    few, many = 1 << 12, 1 << 17  # one part each
    of_few, of_many = instructions(COVER, few, many)
    assert 0 < (of_many - of_few) / (many - few) <= MOST_OF_MASKS
