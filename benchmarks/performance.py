"""Time, memory and scale: what a round costs, beside other software and as sites, weights and data grow (docs/performance.md).

``python benchmarks/performance.py [QUESTION …]``. Other federated software runs in an environment of its own, because its
dependencies exclude those of `infl`; its Python is ``INFL_BENCH_PEERS``, by default ``.venv-peers/bin/python``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from _table import Table

HERE = Path(__file__).resolve().parent
PEERS = os.environ.get("INFL_BENCH_PEERS", str(HERE.parent / ".venv-peers" / "bin" / "python"))


def child(script: str, *arguments: object, python: str = sys.executable) -> dict:
    """Run a script of this folder in a process of its own, and return what it prints last, as JSON."""
    path = os.pathsep.join(filter(None, (str(HERE.parent / "src"), os.environ.get("PYTHONPATH"))))
    command = [python, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def seal(table: Table) -> None:
    """An update of 1 M weights under three protections, one core."""
    result = child("_seal_peers.py", python=PEERS)
    seconds = {name: float(np.median(values)) for name, values in result["times"].items()}
    own, repeats = seconds["infl: seal"], len(result["times"]["infl: open the sum"])
    flower = seconds["flower: keys and shares"] + seconds["flower: mask"]
    ckks = seconds["ckks: encrypt"] + seconds["ckks: serialise"]
    for name, other, asked in (("Flower's SecAgg+, four neighbours", flower, 20), ("TenSEAL CKKS", ckks, 200)):
        table.add(
            f"1 M weights, one core: {name}, at a site / infl's seal",
            f">= {asked}",
            other / own,
            seeds=repeats,
            ok=other / own >= asked,
            milliseconds={name: round(1000 * value, 2) for name, value in seconds.items()},
        )
    opening = seconds["infl: open the sum"]
    for name, other in (("Flower's SecAgg+", "flower"), ("TenSEAL CKKS", "ckks")):
        ratio = seconds[f"{other}: open the sum" if other == "flower" else "ckks: decrypt the sum"] / opening
        table.add(f"1 M weights, one core: {name}, opening a sum / infl", "reported", ratio, seeds=repeats)
    for name, size in result["bytes"].items():
        ok = {"ok": size <= 4.1e6} if name == "infl" else {}
        asked = "<= 4.1" if name == "infl" else "reported"
        table.add(f"1 M weights, {name}: megabytes on the wire", asked, size / 1e6, **ok)


def memory(table: Table) -> None:
    """A coordinator with 25 M weights, and a simulation with up to 1,000 sites."""
    n = 25_000_000
    for n_sites in (3, 30, 300):
        sizes = child("_coordinator_memory.py", n, n_sites)
        models = sizes["own"] / (4 * n)
        table.add(
            f"coordinator's own memory, 25 M weights, {n_sites} sites, in model sizes",
            "<= 2.2",
            models,
            ok=models <= 2.2,
            with_pages_of_files=sizes["resident"] / (4 * n),
        )
    for what, asked in (("10 asked a round", (10, 10)), ("all asked", (100, 1000))):
        few, many = (child("_many_sites_memory.py", *sizes) for sizes in zip((100, 1000), asked, strict=True))
        ratio = many["beyond"] / few["beyond"]
        table.add(
            f"peak memory beyond data, 10 rounds, {what}: 1,000 sites / 100 sites",
            "1 ± 0.1",
            ratio,
            ok=abs(ratio - 1) <= 0.1,
            megabytes={100: round(few["beyond"] / 1e6), 1000: round(many["beyond"] / 1e6)},
            data_megabytes={100: round(few["data"] / 1e6), 1000: round(many["data"] / 1e6)},
            processor_seconds={100: round(few["seconds"], 1), 1000: round(many["seconds"], 1)},
        )


QUESTIONS = {
    "seal": seal,
    "memory": memory,
}

if __name__ == "__main__":
    result = Table("performance")
    for question in sys.argv[1:] or QUESTIONS:
        result.command = f"python benchmarks/performance.py {question}"
        QUESTIONS[question](result)
        result.save()
