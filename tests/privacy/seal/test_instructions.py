"""How many instructions the seal takes, counted by valgrind, which stands in for the same processor everywhere."""

import os
import re
import shutil
import subprocess
import sys

import pytest

SEAL = """
import sys
import numpy as np
from infl.privacy.seal import Context, Field, GroupSeal, Packing

n = int(sys.argv[1])
packing = Packing((Field("w", (n,), -31),))
context = Context("run", 1, 0, ("a", "b", "c"), "train", packing.digest())
GroupSeal(bytes(32)).seal(context, "a", np.full(n, 1e-3, np.float32), np.empty(0), packing)
"""
MOST = 60
"""A quarter more than there were when this was written."""


def instructions(n: int) -> int:
    counter = ("--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    command = ["valgrind", *counter, sys.executable, "-c", SEAL, str(n)]
    environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(re.findall(r"I\s+refs:\s+([\d,]+)", done.stderr)[-1].replace(",", ""))


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="counting instructions needs valgrind: apt install valgrind"
)
def test_sealing_a_weight_takes_no_more_instructions_than_it_did() -> None:
    few, many = 1 << 12, 1 << 19  # one part each: with more, several threads would wait for each other
    assert 0 < (instructions(many) - instructions(few)) / (many - few) <= MOST
