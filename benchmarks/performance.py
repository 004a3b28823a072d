"""Time, memory and scale: what a round costs, beside other software and as sites, weights and data grow (docs/performance.md).

``python benchmarks/performance.py [QUESTION …]``. Other federated software runs in an environment of its own, because its
dependencies exclude those of `infl`; its Python is ``INFL_BENCH_PEERS``, by default ``.venv-peers/bin/python``.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from _table import Table
from infl.privacy.seal import Context, Field, GroupSeal, Packing, add

HERE = Path(__file__).resolve().parent
PEERS = os.environ.get("INFL_BENCH_PEERS", str(HERE.parent / ".venv-peers" / "bin" / "python"))


def child(script: str, *arguments: object, python: str = sys.executable, **variables: str) -> Any:
    """Run a script of this folder in a process of its own, and return what it prints last, as JSON."""
    path = os.pathsep.join(filter(None, (str(HERE.parent / "src"), os.environ.get("PYTHONPATH"))))
    command = [python, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path} | variables, capture_output=True, text=True, check=False
    )
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
    for cipher in ("ChaCha20", "AES-128-CTR"):
        table.add(
            f"1 M weights, one core: two mask streams by {cipher} / all of infl's seal",
            "reported",
            seconds[f"two streams: {cipher}"] / own,
            seeds=repeats,
        )
    opening = seconds["infl: open the sum"]
    for name, other in (("Flower's SecAgg+", "flower"), ("TenSEAL CKKS", "ckks")):
        ratio = seconds[f"{other}: open the sum" if other == "flower" else "ckks: decrypt the sum"] / opening
        table.add(f"1 M weights, one core: {name}, opening a sum / infl", "reported", ratio, seeds=repeats)
    for name, size in result["bytes"].items():
        ok = {"ok": size <= 4.1e6} if name == "infl" else {}
        asked = "<= 4.1" if name == "infl" else "reported"
        table.add(f"1 M weights, {name}: megabytes on the wire", asked, size / 1e6, **ok)


def pairwise(table: Table) -> None:
    """An update of 1 M weights, masked for each of nine others, one core."""
    taken = child("_pairwise_peers.py", python=PEERS)
    ratio = float(np.median(np.divide(taken["flower"], taken["infl"])))
    milliseconds = {name: round(1000 * float(np.median(values)), 2) for name, values in taken.items()}
    what = "1 M weights, one core, ten sites: Flower's SecAgg+, nine neighbours, at a site / infl's pairwise seal"
    table.add(what, ">= 5", ratio, seeds=len(taken["infl"]), ok=ratio >= 5, milliseconds=milliseconds)


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


def share(table: Table) -> None:
    """What lock and seal take of a round of 5 local epochs on 10,000 samples."""
    for what, width, samples in (("1 M", 460, 10_000), ("25 M", 2450, 1_000)):
        result = child("_round_share.py", width, samples)
        spent = result["spent"]
        protection = sum(spent[name] for name in ("seal", "open", "add", "lock"))
        total = (result["total"] - protection) * 10_000 / samples + protection  # training takes as long a sample
        table.add(
            f"lock and seal, share of a round, {what} weights, all of the lock counted in one round",
            "<= 0.05",
            protection / total,
            ok=protection / total <= 0.05,
            weights=result["weights"],
            samples_trained_on=samples,
            round_seconds=round(total, 2),
            seconds={name: round(value, 4) for name, value in spent.items()},
        )


def slopes(table: Table) -> None:
    """How the time of a fit grows, with a figure."""
    from _slopes import SIZES

    curves = {}
    for what in SIZES:
        points = child("_slopes.py", what)
        x, y = (np.array([point[name] for point in points]) for name in ("size", "seconds"))
        curves[what] = x, y
        slope = float(np.polyfit(np.log(x[-3:]), np.log(y[-3:]), 1)[0])
        table.add(
            f"log-log slope of a fit's time against {what}, {x[-3]:,} to {x[-1]:,}",
            "<= 1.05",
            slope,
            ok=slope <= 1.05,
            sizes=x.tolist(),
            processor_seconds=y.round(3).tolist(),
        )
    draw(curves)


def draw(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw time against size, one panel a quantity, with lines of slope 1."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(2.6 * len(curves), 2.7), sharey=True, layout="constrained")
    for axis, (what, (x, y)) in zip(axes, curves.items(), strict=True):
        axis.loglog(x, y[-1] * x / x[-1], color="0.7", lw=1, ls="--", label="slope 1")
        axis.loglog(x, y, "o-", color="#0072b2", label="measured")
        axis.set_xlabel(what)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("processor seconds")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(HERE.parent / "docs" / "_static" / "performance_slopes.png", dpi=150)


def fit(table: Table) -> None:
    """A whole locked, sealed fit of five sites beside a loop written by hand, and beside the published method."""
    for case in ("breast protein", "breast rna", "khan", "papalexi"):
        result = child("_fit_ratios.py", case)
        taken = {name: np.array(values) for name, values in result["taken"].items()}
        for other, what, most in (("hand", "a FedAvg loop by hand", 1.0), ("published", "the published method", 0.2)):
            ratio = float(np.median(taken["infl"] / taken[other]))
            table.add(
                f"{case}, {result['samples']:,} samples at five sites: a locked, sealed fit / {what}, processor time",
                f"<= {most}",
                ratio,
                seeds=len(taken["infl"]),
                ok=ratio <= most,
                seconds={name: round(float(np.median(values)), 3) for name, values in taken.items()},
            )


def parts(table: Table) -> None:
    """Where a round's time and a fit's memory go, part by part, with a figure."""
    results = {}
    for model in ("classifier", "scvi", "histology", "adapter"):
        timed = child("_parts.py", model, "time")
        sized = child("_parts.py", model, "memory", MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536")
        a_round, once = ({part: max(v, 0.0) for part, v in timed[name].items()} for name in ("round", "once"))
        total = sum(a_round.values())
        results[model] = {part: v / total for part, v in a_round.items()}, sized["bytes"]
        for part, seconds in sorted(a_round.items(), key=lambda item: -item[1]):
            if seconds / total >= 0.01:
                table.add(
                    f"{model}: {part}, share of a round's time",
                    "reported",
                    seconds / total,
                    milliseconds_a_round=round(1000 * seconds, 2),
                    milliseconds_once=round(1000 * once[part], 2),
                    megabytes=round(sized["bytes"].get(part, 0) / 1e6, 1),
                    weights=timed["weights"],
                )
    draw_parts(results)


def draw_parts(results: dict[str, tuple[dict[str, float], dict[str, float]]]) -> None:
    """Draw shares of a round's time as bars, one a model, and memory beside them."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    from infl.pl.colours import CYCLE, GREY

    shown = list(dict.fromkeys(part for shares, _ in results.values() for part in shares))
    largest = {part: max(shares.get(part, 0.0) for shares, _ in results.values()) for part in shown}
    shown = [part for part in sorted(shown, key=largest.__getitem__, reverse=True) if largest[part] >= 0.01]
    colours = dict(zip(shown, (*CYCLE, *[GREY] * len(shown)), strict=False))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained", width_ratios=(1.1, 1))
    for y, (shares, _) in enumerate(results.values()):
        at = 0.0
        for part in shown:
            left.barh(y, shares.get(part, 0.0), left=at, color=colours[part], label=part if not y else None)
            at += shares.get(part, 0.0)
    left.set(
        yticks=range(len(results)), yticklabels=list(results), xlabel="share of a round's processor time", xlim=(0, 1)
    )
    left.invert_yaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    most = {
        part: max(size.get(part, 0) for _, size in results.values()) for _, sizes in results.values() for part in sizes
    }
    sizes = [part for part in sorted(most, key=most.__getitem__) if most[part] >= 2e6]
    for y, (model, (_, size)) in enumerate(results.items()):
        at = [sizes.index(part) + 0.18 * (y - 1.5) for part in sizes if size.get(part, 0) >= 1e5]
        right.plot(
            [size[part] / 1e6 for part in sizes if size.get(part, 0) >= 1e5],
            at,
            "os^D"[y],
            color=CYCLE[y],
            ms=5,
            label=model,
        )
    right.set(xscale="log", xlabel="memory that a part adds at most (MB)")
    right.set_yticks(range(len(sizes)), [part.partition(":")[0] for part in sizes])
    right.grid(axis="y", color="0.9")
    right.legend(fontsize=8, loc="lower right", framealpha=0.9)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE.parent / "docs" / "_static" / "performance_parts.png", dpi=150)


def preprocess(table: Table) -> None:
    """Federated PCA and highly variable genes against scanpy on the pooled cells."""
    for what, result in child("_preprocess.py").items():
        ratio = float(np.median(np.divide(result["infl"], result["scanpy"])))
        table.add(
            f"{what}: infl over four sites / scanpy on pooled cells, processor time",
            "<= 1.5",
            ratio,
            seeds=len(result["infl"]),
            ok=ratio <= 1.5,
            seconds={name: round(float(np.median(values)), 3) for name, values in result.items()},
        )


def simulate(table: Table) -> None:
    """100 sites × 20 rounds under three simulators.

    FLARE's takes seconds a site and round: it is timed on 8 sites, 1 and 2 rounds, and a site's round counted 2,000 times.
    """
    rounds, few, n_sites, all_sites = 20, (1, 2), 8, 100
    own = child("_simulate.py", "infl", rounds)
    flower = child("_simulate.py", "flower", rounds, python=PEERS)
    first, second = (child("_simulate.py", "flare", n, n_sites) for n in few)
    flare = {}
    for name in first:
        of_site = max(second[name] - first[name], 0.0) / n_sites
        flare[name] = first[name] + (all_sites * rounds - n_sites) * of_site
    compared(table, "Flower's simulation (Ray)", flower, own)
    compared(table, f"NVIDIA FLARE's simulator, from 1 and 2 rounds of {n_sites} sites", flare, own)
    short = child("_simulate.py", "infl", 1)
    begun = child("_simulate.py", "flower", 1, python=PEERS)
    theirs, ours = flower["seconds"] - begun["seconds"], own["seconds"] - short["seconds"]
    table.add(
        "100 sites, the 19 rounds after the first: Flower's simulation (Ray) / infl, time",
        "reported",
        theirs / ours,
        seconds=[round(theirs, 1), round(ours, 1)],
    )


def compared(table: Table, name: str, other: dict, own: dict) -> None:
    """Add the rows of another simulator."""
    for unit, what, asked in (("seconds", "time", ">= 20"), ("processor", "processor time", "reported")):
        ratio = other[unit] / own[unit]
        table.add(
            f"100 sites, 20 rounds: {name} / infl, {what}",
            asked,
            ratio,
            ok=ratio >= 20 if unit == "seconds" else None,
            seconds=[round(other[unit], 1), round(own[unit], 1)],
        )


def backed(table: Table) -> None:
    """Cells on disk against the same cells in memory, four sites, one round."""
    n_cells = 130_000
    with tempfile.TemporaryDirectory() as folder:
        child("_backed.py", "make", folder, n_cells)
        for model in ("classifier", "scvi"):
            memory, disk = (child("_backed.py", "fit", folder, model, where) for where in ("memory", "disk"))
            on_disk(table, model, n_cells, disk)
            ratio = memory["processor"] / disk["processor"]
            throughput(
                table,
                f"{model}, {n_cells:,} cells × 2,000 genes: throughput on disk / in memory, by processor time",
                ratio,
                memory,
                disk,
                loss={"memory": memory["loss"], "disk": disk["loss"]},
                gigabytes_in_memory=round(memory["peak"] / 1e9, 3),
            )


def million(table: Table) -> None:
    """1.3 million cells on disk; a tenth of them in memory tells how fast a cell is there."""
    n_cells, few = 1_300_000, 130_000
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as small:
        child("_backed.py", "make", folder, n_cells)
        child("_backed.py", "make", small, few)
        for model in ("classifier", "scvi"):
            disk, memory = (
                child("_backed.py", "fit", folder, model, "disk"),
                child("_backed.py", "fit", small, model, "memory"),
            )
            on_disk(table, model, n_cells, disk)
            ratio = (n_cells / disk["processor"]) / (few / memory["processor"])
            throughput(
                table,
                f"{model}, {n_cells:,} cells on disk: throughput / that of {few:,} cells in memory, by processor time",
                ratio,
                memory,
                disk,
            )


def shards(table: Table) -> None:
    """Ten million cells in zarr with shards, against 1.3 million there; named only, since it takes an hour on two cores."""
    few, many = 1_300_000, 10_000_000
    found = {}
    for n_cells in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            child("_backed.py", "zarr", folder, n_cells)
            found[n_cells] = child("_backed.py", "fit", folder, "classifier", "disk")
    on_disk(table, "classifier, zarr in shards", many, found[many])
    ratio = (many / found[many]["processor"]) / (few / found[few]["processor"])
    what = f"classifier, {many:,} cells in zarr with shards: throughput / that of {few:,} there, by processor time"
    seconds = {f"{n:,}": round(of["processor"], 1) for n, of in found.items()}
    table.add(what, ">= 0.9", ratio, ok=ratio >= 0.9, processor_seconds=seconds)


def throughput(table: Table, what: str, ratio: float, memory: dict, disk: dict, **more: object) -> None:
    """Add the row that holds a fit from disk against one in memory."""
    seconds = {"memory": round(memory["processor"], 1), "disk": round(disk["processor"], 1)}
    table.add(what, ">= 0.7", ratio, ok=ratio >= 0.7, processor_seconds=seconds, **more)


def on_disk(table: Table, model: str, n_cells: int, result: dict) -> None:
    """Add the row with a fit's peak memory."""
    own = (result["peak"] - result["model"]) / 1e9
    what = f"{model}, {n_cells:,} cells × 2,000 genes, on disk: peak resident memory beyond the model (GB)"
    table.add(what, "<= 2", own, ok=own <= 2, **{name: round(value, 3) for name, value in result.items()})


def plan(table: Table) -> None:
    """10,000 sites and 1 B weights, on paper: measured constants times what there would be."""
    n, n_sites, weights, gbit = 4_000_000, 10_000, 1_000_000_000, 10
    packing = Packing((Field("w", (n,), -31),))
    update, cohort, empty = np.full(n, 1e-3, dtype=np.float32), ("a", "b", "c"), np.empty(0)
    seal, spent = GroupSeal(bytes(32)), {"seal": [], "add": [], "open": []}
    for number in range(5):
        context = Context("run", number, 0, cohort, "train", packing.digest())
        begun = time.process_time()
        messages = [seal.seal(context, site, update, empty, packing) for site in cohort]
        sealed = time.process_time()
        total = functools.reduce(add, messages, None)
        added = time.process_time()
        seal.unseal(context, cohort, total, packing)
        for name, seconds in (
            ("seal", (sealed - begun) / 3),
            ("add", (added - sealed) / 3),
            ("open", time.process_time() - added),
        ):
            spent[name].append(seconds / n)
    a_weight = {name: float(np.median(values)) for name, values in spent.items()}
    few, many = (child("_coordinator_memory.py", 1000, size) for size in (500, 2000))
    growth = float(np.log(many["seconds"] / few["seconds"]) / np.log(4))
    message, line = 4 * weights, gbit / 8 * 1e9
    fan = round(n_sites**0.5)
    for what, value in (
        ("at a site: seal, seconds", a_weight["seal"] * weights),
        ("at a site: open the sum, seconds", a_weight["open"] * weights),
        ("one coordinator: answers of a round, terabytes", n_sites * message / 1e12),
        (f"one coordinator: answers over a line of {gbit} Gbit/s, hours", n_sites * message / line / 3600),
        ("one coordinator: adding, seconds", a_weight["add"] * weights * n_sites),
        ("one coordinator: own memory, two model sizes, gigabytes", 2 * message / 1e9),
        ("one coordinator: its bookkeeping of a round, seconds", many["seconds"] * (n_sites / 2000) ** growth),
        ("one coordinator: exponent of its bookkeeping in the number of sites, 500 to 2,000", growth),
        ("one coordinator: a plan beside its sums, kilobytes", many["plan"] * n_sites / 2000 / 1e3),
        (f"{fan} coordinators of {fan} sites each, and one over them: answers at each, seconds", fan * message / line),
    ):
        table.add(f"10,000 sites, 1 B weights; {what}", "computed", value, constants=a_weight)


def regions(table: Table) -> None:
    """Sealed answers of 1,000 sites replayed: one coordinator, regions under one, and how many answers a second one adds."""
    n, n_sites, n_regions, gbit = 40_000, 1000, 32, 10
    found = child("_regions.py", n, n_sites, n_regions)
    seconds = {name: float(np.median(values)) for name, values in found["seconds"].items()}
    what = f"{n_sites:,} sites, {n:,} weights, {n_regions} regions"
    for name, value in (("one sum", found["different"]), ("what the sites sealed", found["wrong"])):
        table.add(f"{what}: words of the sum of regions that are not those of {name}", "0", value, ok=not value)
    for name in ("busiest region", "above"):
        who = "the busiest region" if name == "busiest region" else "the coordinator above them"
        milliseconds = [round(1000 * seconds[name], 2), round(1000 * seconds["one"], 2)]
        ratio = seconds[name] / seconds["one"]
        table.add(f"{what}: {who} / one coordinator, time", "reported", ratio, seeds=7, milliseconds=milliseconds)
    for weights in (10_000, 1_000_000):
        taken = child("_regions.py", weights)
        a_second = 1 / float(np.median(taken["seconds"]))
        line = gbit / 8 * 1e9 / taken["bytes"]
        table.add(
            f"one coordinator, one core, {weights:,} weights: answers a second that it reads and adds",
            "reported",
            a_second,
            seeds=7,
            line_brings=round(line, 1),
            gigabytes_a_second=round(a_second * taken["bytes"] / 1e9, 2),
        )
        table.add(f"{weights:,} weights: answers that a line of {gbit} Gbit/s brings in a second", "computed", line)
    whole = child("_coordinator_memory.py", 1000, n_sites)
    table.add(
        f"coordinator between machines, {n_sites:,} sites, with its bookkeeping: answers a second",
        "reported",
        n_sites / whole["seconds"],
    )


def start(table: Table) -> None:
    """Start-up in a fresh interpreter, seven times: processor seconds, and seconds until it is there at the quietest time."""
    fit = "infl.tl.fit_federated(infl.datasets.khan_sites(), target='tumour_class', progress=False)"
    for what, code, most, seconds in (
        ("import infl", "import infl", 0.3, 0.1),
        ("infl --help", "import sys; from infl.cli import main; sys.argv = ['infl', '--help']; main()", 0.5, 0.4),
        ("a first fit, 20 rounds on Khan, with all imports", f"import infl; {fit}", None, 2.5),
    ):
        values, clock = [], []
        for _ in range(7):
            before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
            there = "import atexit, sys, time; atexit.register(lambda: print(time.time(), file=sys.stderr))"
            command = [sys.executable, "-c", f"{there}\n{code}"]
            done = subprocess.run(command, capture_output=True, check=True, text=True)
            clock.append(float(done.stderr.split()[-1]) - begun)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            values.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        middle, least = float(np.median(values)), min(clock)
        asked = "reported" if most is None else f"< {most}"
        table.add(f"{what}: processor seconds", asked, middle, seeds=7, ok=None if most is None else middle < most)
        table.add(
            f"{what}: seconds until it is there, least of 7", f"<= {seconds}", least, seeds=7, ok=least <= seconds
        )


QUESTIONS = {
    "seal": seal,
    "pairwise": pairwise,
    "memory": memory,
    "share": share,
    "fit": fit,
    "parts": parts,
    "preprocess": preprocess,
    "slopes": slopes,
    "simulate": simulate,
    "backed": backed,
    "million": million,
    "shards": shards,
    "plan": plan,
    "regions": regions,
    "start": start,
}

if __name__ == "__main__":
    result = Table("performance")
    for question in sys.argv[1:] or [name for name in QUESTIONS if name != "shards"]:
        result.command = f"python benchmarks/performance.py {question}"
        QUESTIONS[question](result)
        result.save()
