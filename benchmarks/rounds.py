"""What a round costs since a site trusts nobody: beside the revision before that, and the pairwise seal's share (docs/performance.md).

``python benchmarks/rounds.py [before] [pairwise]``. The earlier revision is taken out of the repository's history.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from _pairwise_share import AT_COORDINATOR, AT_SITES
from _table import Table
from performance import HERE, child

EARLIER = "af542c5"
"""The last revision whose sites did what a message said."""
PAIRS = 10
CASES = {
    "khan": "20 rounds of five sites on Khan",
    "large": "2 rounds of three sites, 1 M weights, 5 epochs of 1,000 samples",
}


def earlier_source(folder: Path) -> Path:
    """Write the package of the earlier revision into a folder, and return where it is."""
    archive = subprocess.run(
        ["git", "archive", EARLIER, "src"], cwd=HERE.parent, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder / "src"


def fitter(source: Path, case: str) -> subprocess.Popen[str]:
    """Start a process that fits with the package of a source tree whenever it is asked to."""
    path = os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, str(HERE / "_fits_on_demand.py"), case], env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def one_fit(process: subprocess.Popen[str]) -> float:
    """Return the processor seconds of one fit."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def before(table: Table) -> None:
    """Fits by today's package and by the earlier one in turn, each first in every second pair."""
    with tempfile.TemporaryDirectory() as folder:
        sources = {"now": HERE.parent / "src", "earlier": earlier_source(Path(folder))}
        for case, what in CASES.items():
            seconds: dict[str, list[float]] = {name: [] for name in sources}
            with ExitStack() as stack:
                fitters = {name: stack.enter_context(fitter(source, case)) for name, source in sources.items()}
                for number in range(PAIRS + 1):
                    for name in sorted(sources, reverse=number % 2 == 1):
                        seconds[name].append(one_fit(fitters[name]))
            ratio = np.divide(*(values[1:] for values in seconds.values()))  # the first fit loads what is loaded late
            low, high = np.sort(ratio)[[1, PAIRS - 2]]  # of ten: an interval of the median at 97.9 %
            table.add(
                f"{what}: processor time / that at {EARLIER}, median of {PAIRS} pairs ({low:.3f} to {high:.3f})", "<= 1.05",
                float(np.median(ratio)), seeds=PAIRS, ok=bool(np.median(ratio) <= 1.05), ratios=ratio.round(4).tolist(),
                seconds={name: round(float(np.median(values[1:])), 4) for name, values in seconds.items()},
            )  # fmt: skip


def pairwise(table: Table, n_sites: int = 10, trained_on: int = 1_000) -> None:
    """The pairwise seal's masks at sites and coordinator, as a share of a round with five epochs."""
    result = child("_pairwise_share.py", n_sites, trained_on)
    a_round = result["round"]
    at_sites, at_coordinator = sum(a_round[name] for name in AT_SITES), a_round[AT_COORDINATOR]
    masks = at_sites + at_coordinator
    way = at_sites / n_sites + at_coordinator
    for n_obs in (trained_on, 10 * trained_on):
        rest = (a_round["all"] - masks) * n_obs / trained_on  # training takes as long a sample
        what = f"1 M weights, {n_sites} sites, 5 epochs of {n_obs:,} samples: pairwise masks"
        facts = {"weights": result["weights"], "samples_trained_on": trained_on}
        facts |= {"processor_seconds_of_all": {name: round(value, 4) for name, value in a_round.items()}}
        share, longest = masks / (masks + rest), way / (way + rest / n_sites)
        table.add(f"{what}, share of all processor time", "<= 0.05", share, ok=share <= 0.05, **facts)
        table.add(
            f"{what} at one site, then at the coordinator, share of the way of a round", "<= 0.05", longest,
            ok=longest <= 0.05, **facts,
        )  # fmt: skip


QUESTIONS = {"before": before, "pairwise": pairwise}

if __name__ == "__main__":
    result = Table("rounds")
    for question in sys.argv[1:] or QUESTIONS:
        result.command = f"python benchmarks/rounds.py {question}"
        QUESTIONS[question](result)
        result.save()
