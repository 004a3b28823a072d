"""Random sequences of questions under rules of disclosure, and with each rule off (docs/privacy/disclosure.md).

``python benchmarks/questions.py FIRST LAST``: batches of 250 sequences, those of the seeds FIRST to LAST, some minutes for ten of them. Each
batch stands in ``results/raw/questions.json`` under the code that decided and its seed, so that it counts once however often it is
run, and so does a sequence that several batches ask. ``python benchmarks/questions.py off``: with each rule off, until one is broken.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the judge is of the tests

from tests.questions import RULES, check, without

import infl
from _origin import ROOT, digest_of
from _table import Table

BATCH, ASKED, MOST = 250, 10_000, 400
RAW = ROOT / "benchmarks" / "results" / "raw" / "questions.json"
DECIDES = (
    "src/infl/privacy/register/*.py", "src/infl/privacy/rules.py", "src/infl/sums/answers.py", "src/infl/sums/cells.py",
    "src/infl/sums/disclosure.py", "src/infl/sums/over_sites.py", "src/infl/tl/_group_sums.py", "src/infl/pp/_moments.py",
    "src/infl/pp/_largest.py", "tests/questions.py",
)  # fmt: skip
"""The code that decides what is released, and the one that asks and judges."""
OFF = ("records", "dominance", "sites", "members", "features", "differencing")


def code() -> str:
    """Return one digest of what decides; comments and docstrings do not count."""
    paths = sorted(path for pattern in DECIDES for path in ROOT.glob(pattern))
    return hashlib.sha256("".join(digest_of(path) for path in paths).encode()).hexdigest()[:12]


def batch(number: int) -> dict[str, Any]:
    """Ask the sequences of a seed, and end where a rule is broken."""
    begun, checked = time.perf_counter(), check(BATCH, number)
    if checked.broken:
        sys.exit(f"seed {number}: {', '.join(checked.broken)} broken by {checked.last}")
    asked = base64.b64encode(bytes.fromhex("".join(sorted({*checked.digests})))).decode()
    counts = {"questions": checked.questions, "given": checked.given, "withheld": checked.withheld}
    return {"sequences": asked, **counts, "seconds": round(time.perf_counter() - begun, 1)}


def known(now: str) -> dict[str, dict[str, Any]]:
    """Return the batches of this code that were written down, by seed."""
    found = json.loads(RAW.read_text()) if RAW.exists() else {}
    return found["batches"] if found.get("code") == now else {}


def noted(now: str, number: int, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Write a batch down, and return all of this code by seed."""
    RAW.touch()
    with RAW.open("r+") as file:  # two processes may be at it
        fcntl.flock(file, fcntl.LOCK_EX)
        before = json.loads(file.read() or "{}")
        batches = before.get("batches", {}) if before.get("code") == now else {}  # those of other code count no more
        batches[str(number)] = found
        file.seek(0)
        file.truncate()
        file.write(
            json.dumps({"code": now, "batches": dict(sorted(batches.items(), key=lambda b: int(b[0])))}, indent=1)
        )
        file.write("\n")
    return batches


def sequences(batches: dict[str, dict[str, Any]]) -> int:
    """Return how many different ones all batches asked."""
    digests = [base64.b64decode(found["sequences"]) for found in batches.values()]
    return len({part[i : i + 4] for part in digests for i in range(0, len(part), 4)})


def total(table: Table, batches: dict[str, dict[str, Any]]) -> None:
    counts = {what: sum(found[what] for found in batches.values()) for what in ("questions", "given", "withheld")}
    n = sequences(batches)
    table.add("different sequences of questions, none of which broke a rule", ">= 10000", n, ok=n >= ASKED, **counts)


def off(table: Table) -> None:
    """Ask with each rule off, until a sequence breaks it; one that breaks another rule first ends its seed."""
    for rule in OFF:
        rules = RULES if rule == "differencing" else without(rule)
        remembers = mock.patch("infl.privacy.register.judging._split", lambda records, chosen, atom, k: atom)
        n, number, broken = 0, 0, list[str]()
        with remembers if rule == "differencing" else nullcontext():
            while rule not in broken and n < MOST:
                found = check(MOST, number, rules)
                n, number, broken = n + len({*found.digests}), number + 1, found.broken
        table.add(f"without {rule}: sequences until one breaks it", f"<= {MOST}", n, ok=rule in broken)


def main() -> None:
    infl.settings.verbosity = "warning"
    table = Table("questions")
    if sys.argv[1:] == ["off"]:
        off(table)
    else:
        first, last = map(int, sys.argv[1:3] or [0, ASKED // BATCH])
        now = code()
        batches = known(now)
        for number in range(first, last + 1):
            batches = noted(now, number, batch(number))
            print(
                f"{time.strftime('%H:%M')} seed {number}: {len(batches)} batches, {sequences(batches)} sequences",
                flush=True,
            )
        total(table, batches)
    table.save()


if __name__ == "__main__":
    main()
