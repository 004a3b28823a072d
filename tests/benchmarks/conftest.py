"""Tests of what the benchmarks share: it lies beside the package, not in it."""

import sys
from pathlib import Path

sys.path.append(
    str(Path(__file__).parents[2] / "benchmarks")
)  # last: one of the scripts has the name of a library, scvi
