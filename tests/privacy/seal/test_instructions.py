"""How many instructions the seal takes, counted by valgrind, which stands in for the same processor everywhere."""

import os
import re
import shutil
import subprocess
import sys

import pytest

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


def instructions(*numbers: int) -> list[int]:
    """Return how many instructions there are up to the end of sealing so many weights; what came before is in each."""
    counter = ("--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    command = ["valgrind", *counter, sys.executable, "-c", SEAL, *map(str, numbers)]
    environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    counts = [int(count.replace(",", "")) for count in re.findall(r"I\s+refs:\s+([\d,]+)", done.stderr)]
    assert len(counts) == len(numbers) + 1  # the last is of the process that the others come from
    return counts[:-1]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="counting instructions needs valgrind: apt install valgrind"
)
def test_sealing_a_weight_takes_no_more_instructions_than_it_did() -> None:
    few, many = 1 << 12, 1 << 19  # one part each: with more, several threads would wait for each other
    of_few, of_many = instructions(few, many)
    assert 0 < (of_many - of_few) / (many - few) <= MOST
