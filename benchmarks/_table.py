"""The shape that all benchmarks share: rows with what was asked and measured, one printed table, one JSON file."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from _evidence import DATA_SETS, Estimate, equivalence
from _origin import CALLS, Files, name_of

RESULTS = Path(__file__).parent / "results"


class Table:
    """Rows of one benchmark.

    Parameters
    ----------
    name
        Of the JSON file.
    """

    def __init__(self, name: str) -> None:
        self.name, self.rows = name, []
        self.command = f"python benchmarks/{name}.py"

    def add(
        self,
        what: str,
        asked: str,
        values: Sequence[float] | float,
        *,
        seeds: int | None = None,
        ok: bool | None = None,
        **more: object,
    ) -> None:
        """Add a row: mean and standard deviation of `values`."""
        values = np.atleast_1d(np.asarray(values, dtype=float))
        spread = float(values.std(ddof=1)) if len(values) > 1 else None
        row = {"what": what, "asked": asked, "measured": float(values.mean()), "spread": spread}
        row |= {
            "seeds": seeds if seeds is not None else len(values),
            "ok": None if ok is None else bool(ok),
            "command": self.command,
            **more,
        }
        self.rows.append(row)
        shown = f"{row['measured']:.4g}" + (f" ± {spread:.2g}" if spread is not None else "")
        print(f"{what:<78} {shown:<20} asked {asked:<24} {'' if ok is None else 'ok' if ok else 'NOT MET'}", flush=True)

    def estimate(
        self, what: str, asked: str, found: Estimate, *, data: str, ok: bool | None = None, **more: object
    ) -> None:
        """Add a row: an estimate with its interval, on a data set of :data:`_evidence.DATA_SETS`."""
        more |= {"data": data, "kind": DATA_SETS[data].kind, **found.row()}
        self.add(what, asked, found.value, ok=ok, **more)

    def save(self) -> None:
        """Write ``results/NAME.json`` with a description of the machine; rows of an earlier run that were not measured now stay."""
        machine = {"cpus": os.cpu_count(), "processor": platform.machine(), "python": sys.version.split()[0]}
        RESULTS.mkdir(exist_ok=True)
        content = {"name": self.name, "machine": machine, **self._with_code()}
        self.path.write_text(json.dumps(content, indent=1, default=str) + "\n")

    def equal(self, what: str, difference: Estimate, margin: float, *, data: str, **more: object) -> None:
        """Add a row: a difference that is asked to be within ± `margin`, by two one-sided tests."""
        found = equivalence(difference, margin)
        more |= {"verdict": found.verdict, "p": found.p}
        ok = None if found.verdict == "inconclusive" else found.verdict == "equal"
        self.estimate(what, f"within {margin:g}, shown", difference, data=data, ok=ok, **more)

    def bound(
        self,
        what: str,
        found: Estimate,
        *,
        data: str,
        least: float | None = None,
        most: float | None = None,
        **more: object,
    ) -> None:
        """Add a row: an estimate whose whole interval is asked to be above `least` or below `most`."""
        sign, limit, word = (1, least, ">=") if least is not None else (-1, most, "<=")
        assert limit is not None, "least or most"
        near, far = sorted([sign * (found.low - limit), sign * (found.high - limit)])
        verdict = "shown" if near >= 0 else "not so" if far < 0 else "inconclusive"
        ok = None if verdict == "inconclusive" else verdict == "shown"
        self.estimate(what, f"{word} {limit:g}, shown", found, data=data, ok=ok, verdict=verdict, **more)

    def starts(self, what: str, asked: str, values: Sequence[float], *, data: str, **more: object) -> None:
        """Add a row: one thing measured from several starts. What they spread over is noise of the start, and no more."""
        self.add(what, asked, values, **({"spread_of": "starts", "data": data, "kind": DATA_SETS[data].kind} | more))

    def _with_code(self) -> dict[str, Any]:
        """Return the rows, and the code that measured them."""
        code: dict[str, Files] = json.loads(self.path.read_text()).get("code", {}) if self.path.exists() else {}
        now = CALLS.used()
        for row in self.rows:
            row["code"] = name_of(now)
        rows = self.known()
        return {
            "rows": rows,
            "code": {
                name: files
                for name, files in {**code, name_of(now): now}.items()
                if any(row.get("code") == name for row in rows)
            },
        }

    @property
    def path(self) -> Path:
        """The JSON file."""
        return RESULTS / f"{self.name}.json"

    def known(self) -> list[dict]:
        """Return the rows of this run, after those of earlier ones that were not measured again."""
        measured = {row["what"] for row in self.rows}
        earlier = json.loads(self.path.read_text())["rows"] if self.path.exists() else []
        return [*(row for row in earlier if row["what"] not in measured), *self.rows]


def ratios(first: Callable[[], object], second: Callable[[], object], *, repeats: int = 7) -> list[float]:
    """Time two functions in turn and return first / second, pair by pair, after one warm-up each."""
    first(), second()
    result = []
    for _ in range(repeats):
        begun = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        result.append((middle - begun) / (time.perf_counter() - middle))
    return result
