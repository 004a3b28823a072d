"""Instructions counted by valgrind, which stands in for the same processor everywhere."""

import os
import re
import shutil
import subprocess
import sys

import pytest

needs_valgrind = pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="counting instructions needs valgrind: apt install valgrind"
)


def instructions(script: str, *numbers: int) -> list[int]:
    """Return how many instructions there are up to the end of a script's work on so many; what came before is in each."""
    counter = ("--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    command = ["valgrind", *counter, sys.executable, "-c", script, *map(str, numbers)]
    environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    counts = [int(count.replace(",", "")) for count in re.findall(r"I\s+refs:\s+([\d,]+)", done.stderr)]
    assert len(counts) == len(numbers) + 1  # the last is of the process that the others come from
    return counts[:-1]
