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
MOST = 60
"""A quarter more than there were when this was written."""


@pytest.mark.long
@needs_valgrind
def test_sealing_a_weight_takes_no_more_instructions_than_it_did() -> None:
    few, many = 1 << 12, 1 << 19  # one part each: with more, several threads would wait for each other
    of_few, of_many = instructions(SEAL, few, many)
    assert 0 < (of_many - of_few) / (many - few) <= MOST
