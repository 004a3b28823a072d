"""A week in small: thousands of rounds on tiny data, everybody restarted every 50 rounds, one certificate renewed on the way.

``python tests/deploy/flare/week.py FOLDER [--rounds 3000] [--every 50] [--hours 2]`` goes on where it was, if the folder has a week already.
After each restart one line of ``FOLDER/week.jsonl`` has the memory of each participant's processes, the bytes of its folder, and
what was left of its processes when it had ended. ``python … FOLDER --keep`` writes the summary into ``week.json`` beside this file.
Memory is compared between restarts, each time in the second half of the rounds since: the median of each participant's processes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from conftest import POLICY, SITES, make_sites
from infl.deploy.flare.consortium import consortium_of
from infl.deploy.flare.kits import approve, enrol, install
from infl.deploy.flare.local_consortium import LocalConsortium
from infl.deploy.remote import Patience
from infl.deploy.run_attempt import RunFolder
from infl.federation.agreement import Agreement
from infl.keys import Keyring
from infl.models import Classifier

TASK = Classifier(target="label", width=8, n_blocks=1)
EVERYBODY = ("coordinator", *SITES)
RENEWED = "site_2"
KEPT = Path(__file__).with_suffix(".json")
PATIENCE = Patience(silence=60, repeat=5, consent=300)
SITE = """
import sys, threading
from pathlib import Path
from infl.cli.signals import asked_to_end
from infl.deploy.flare.daemon import CLIENT_PROCESS, Daemon
home, over = Path(sys.argv[1]), threading.Event()
with asked_to_end(over.set):
    Daemon(home / "kit", CLIENT_PROCESS, home / "client.log").keep_up(over)
"""
COORDINATOR = """
import sys
from pathlib import Path
from infl.cli.signals import asked_to_end
from infl.deploy.flare.engine import Supervisor
supervisor = Supervisor(Path(sys.argv[1]), "week")
with asked_to_end(supervisor.stop):
    supervisor.go(poll=0.5)
"""


def begin(root: Path, rounds: int) -> None:
    """Make participants, and a run that has not begun."""
    network = LocalConsortium(root, make_sites(), Keyring.create())
    for site in SITES:
        (root / site / "policy.toml").write_text(f"max_rounds = {rounds}\n" + POLICY)
    agreement = Agreement.new(TASK, TASK.agree(network.data), network.data, network.key, rounds=rounds, seal="pairwise")
    network.begin("week", agreement).save_patience(PATIENCE)
    (root / "fingerprint").write_text(network.fingerprint)


def renew(root: Path) -> None:
    """Give one site a new key and certificate, as people do."""
    home, coordinator = root / RENEWED, root / "coordinator"
    request, _ = enrol(home, RENEWED, consortium_of(coordinator), renew=True)
    install(home, approve(coordinator, request, renew=True)[0], (root / "fingerprint").read_text())


def processes(home: Path) -> list[psutil.Process]:
    """Return a participant's processes."""
    inside = f"{home}{os.sep}"
    return [
        p for p in psutil.process_iter(["cmdline"])
        if any(part == str(home) or part.startswith(inside) for part in p.info["cmdline"] or [])
    ]  # fmt: skip


def memory(home: Path) -> float:
    """Return the resident megabytes of all processes of a participant."""
    total = 0
    for process in processes(home):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total / 1e6


def size(home: Path) -> int:
    """Return the bytes of all files in a folder."""
    total = 0
    for path in home.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def session(root: Path, until: int) -> dict[str, Any]:
    """Start everybody, wait until a round is done, end everybody; return what was seen."""
    run, begun = RunFolder(root / "coordinator" / "runs" / "week"), time.monotonic()
    first, seen = run.status.round, defaultdict[str, list[float]](list)
    with (root / "out.log").open("ab") as out:
        started = {
            who: subprocess.Popen(
                [sys.executable, "-c", COORDINATOR if who == "coordinator" else SITE, str(root / who)], stdout=out, stderr=out
            )
            for who in EVERYBODY
        }  # fmt: skip
    try:
        while (status := run.status).round < until and status.state != "finished":
            if status.round >= (first + until) / 2:
                for who in EVERYBODY:
                    seen[who].append(memory(root / who))
            if any(process.poll() is not None for process in started.values()):
                break
            time.sleep(1.0)
        if status.state == "finished":
            started["coordinator"].wait(300)  # it ends by itself
    finally:
        for who in EVERYBODY:
            started[who].send_signal(signal.SIGTERM)
            started[who].wait(300)
    orphans = {who: [" ".join(p.cmdline())[:120] for p in processes(root / who)] for who in EVERYBODY}
    return {
        "from": first, "round": run.status.round, "state": run.status.state, "attempts": run.status.attempts,
        "seconds": round(time.monotonic() - begun, 1), "codes": {who: p.returncode for who, p in started.items()},
        "megabytes": {who: round(statistics.median(values), 1) for who, values in seen.items()},
        "bytes": {who: size(root / who) for who in EVERYBODY}, "orphans": {w: left for w, left in orphans.items() if left},
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the largest changes between restarts, and how folders grow."""
    whole = [row for row in rows if len(row["megabytes"]) == len(EVERYBODY)]
    change, growth = dict[str, float](), dict[str, float]()
    for who in EVERYBODY:
        values = [row["megabytes"][who] for row in whole]
        usual = statistics.median(values)
        change[who] = round(max(abs(value / usual - 1) for value in values), 4)
        n_rounds = rows[-1]["round"] - rows[0]["round"]
        growth[who] = round((rows[-1]["bytes"][who] - rows[0]["bytes"][who]) / n_rounds) if n_rounds else 0.0
    return {
        "date": date.today().isoformat(), "rounds": rows[-1]["round"], "restarts": len(rows) - 1,
        "renewed": any(row.get("renewed") for row in rows), "largest change of memory": change,
        "bytes per round": growth, "megabytes": {who: whole[-1]["megabytes"][who] for who in EVERYBODY},
        "bytes": rows[-1]["bytes"], "orphans": sum(bool(row["orphans"]) for row in rows),
        "other exit codes": sum(any(row["codes"].values()) for row in rows), "finished": rows[-1]["state"] == "finished",
        "attempts": rows[-1]["attempts"],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--keep", action="store_true", help="write the summary, and do no more")
    chosen = parser.parse_args()
    root, end = chosen.folder.resolve(), time.monotonic() + 3600 * chosen.hours
    log = root / "week.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if not chosen.keep:
        os.environ["OMP_NUM_THREADS"] = "1"
        if not (root / "fingerprint").exists():
            root.mkdir(parents=True)
            begin(root, chosen.rounds)
        while time.monotonic() < end and not (rows and rows[-1]["state"] == "finished"):
            done = rows[-1]["round"] if rows else 0
            due = len(rows) >= 2 and not any(row.get("renewed") for row in rows)
            if due:
                renew(root)
            rows.append(session(root, done + chosen.every) | {"renewed": due})
            with log.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print({name: rows[-1][name] for name in ("round", "seconds", "megabytes", "bytes", "orphans")}, flush=True)
    told = json.dumps(summary(rows), indent=1)
    print(told)
    if chosen.keep:
        KEPT.write_text(told + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
