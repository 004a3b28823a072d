"""Exhaust the model of attempts, reveals and epochs with spin, and see that it finds what it should; `make model-check`.

A case is a set of definitions for `seal.pml`: what holds is searched to the last state, what does not must be found.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).with_name("seal.pml")


@dataclass(frozen=True)
class Case:
    """One search: its definitions, and whether the model is safe with them."""

    what: str
    define: tuple[str, ...]
    safe: bool


CASES = (
    Case("three sites, one starts anew", ("N=3", "RESTART"), True),
    Case("three sites, one restores a backup", ("N=3", "RESTORE"), True),
    Case("four sites", ("N=4",), True),
    Case("four sites, one starts anew, one exchange", ("N=4", "RESTART", "ONE"), True),
    Case("mutant: no epoch in the context", ("N=3", "RESTORE", "NO_EPOCH"), False),
    Case("mutant: further attempts after a reveal", ("N=3", "NO_ONCE"), False),
    Case("mutant: a reveal is remembered by attempt", ("N=3", "BY_ATTEMPT"), False),
    Case("mutant: a reveal for two lists", ("N=4", "TWO_LISTS"), False),
    Case("mutant: an exchange that is over is answered", ("N=3", "REPLAYED"), False),
    Case("limit: four sites, one restores a backup", ("N=4", "RESTORE"), False),
)


def search(define: tuple[str, ...]) -> tuple[int, int]:
    """Return how many errors spin found (it ends at the first), and how many states it saw.

    Raises
    ------
    RuntimeError
        The model cannot be compiled, or the search came to no end.
    """
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            ["spin", "-a", *(f"-D{name}" for name in define), str(MODEL)],
            ["gcc", "-O1", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=4000", "-w", "-o", "pan", "pan.c"],
            ["./pan", "-m1000000"],
        ):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode and command[0] != "./pan":
                raise RuntimeError(f"{command[0]} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
        errors, states = (re.search(p, done.stdout) for p in (r"errors: (\d+)", r"(\d+) states, stored"))
        complete = "Search not completed" not in done.stdout and "max search depth too small" not in done.stdout
        if errors is None or states is None or not (complete or int(errors[1])):
            raise RuntimeError(f"the search came to no end: {done.stdout[-500:]}")
        return int(errors[1]), int(states[1])


def missing() -> str:
    """Return what is not installed, in one line; empty if all is."""
    absent = [name for name in ("spin", "gcc") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not found: apt-get install {' '.join(absent)}" if absent else ""


def main() -> int:
    """Search all cases."""
    if line := missing():
        print(f"model-check: {line}")
        return 1
    wrong = 0
    for case in CASES:
        begun = time.monotonic()
        errors, states = search(case.define)
        good = (errors == 0) == case.safe
        wrong += not good
        came = "holds" if not errors else "broken"
        print(
            f"{case.what:<48} {came:<7} {states:>8,} states {time.monotonic() - begun:5.1f} s{'' if good else '  WRONG'}",
            flush=True,
        )
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
