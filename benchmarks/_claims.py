"""What this repository claims by measurement: each judged row of the results with what it is judged by. See docs/claims.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from _origin import of_other_code, results

BASES = ("interval", "attack", "starts", "figure")
"""By an interval over units; an attack, by its limit and margin; over starts of one set of data; or a figure held against another."""
SHOWN = {True: "shown", False: "**not shown**"}
MET = {True: "met", False: "**not met**"}


@dataclass(frozen=True)
class Claim:
    """One judged row.

    Attributes
    ----------
    benchmark, what, asked
        Where it was measured, what, and the figure that was asked for.
    measured
        As text, with its interval.
    over
        What the interval is over, or the number of starts or trials.
    data, kind
        The data set, and whether settings could be chosen on it; empty where no data of patients were.
    basis
        One of :data:`BASES`.
    decision
        By an interval ``"shown"`` or not, of attacks ``"holds"``, ``"**leak**"`` or ``"inconclusive"``, otherwise ``"met"`` or not.
    old
        Whether the code that it depends on has changed since.
    """

    benchmark: str
    what: str
    asked: str
    measured: str
    over: str
    data: str
    kind: str
    basis: str
    decision: str
    old: bool


def plural(unit: str) -> str:
    """Return the plural of a unit's name."""
    return unit.removesuffix("y") + "ies" if unit.endswith("y") else f"{unit}s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _worst(status: str | list[str]) -> str:
    """Return what was found in the least favourable of several audits."""
    found = [status] if isinstance(status, str) else status
    worst = next((one for one in ("leak", "inconclusive", "not promised") if one in found), found[0])
    return f"**{worst}**" if worst == "leak" else worst


def _of(benchmark: str, row: Mapping[str, Any], old: bool) -> Claim:
    ok, over = row.get("ok"), ""
    interval = row.get("interval") or ([row["low"], row["high"]] if row.get("low") is not None else None)
    measured = _number(row["measured"])
    if interval is not None:
        measured += f" [{_number(interval[0])}, {_number(interval[1])}]"
    elif row.get("spread") is not None:
        measured += f" ± {row['spread']:.2g}"
    if "status" in row:
        basis, decision = "attack", _worst(row["status"])
        over = f"{row['trials']} trials" if row.get("trials") else ""
    else:
        basis = "interval" if row.get("interval") else "starts" if row.get("spread_of") == "starts" else "figure"
        decision = (SHOWN if basis == "interval" else MET).get(ok, "inconclusive")
        if basis == "interval" and "unit" in row:
            over = f"{row['n_units']} {plural(row['unit'])}"
        elif (row.get("seeds") or 1) > 1:
            over = f"{row['seeds']} seeds"
    return Claim(
        benchmark,
        row["what"],
        row["asked"],
        measured,
        over,
        row.get("data", ""),
        row.get("kind", ""),
        basis,
        decision,
        old,
    )


def claims(found: Iterable[tuple[str, Mapping[str, Any]]] | None = None) -> Iterator[Claim]:
    """Yield all judged rows of the results: those that were decided, and those that were to be and could not."""
    for name, content in results() if found is None else found:
        other = of_other_code(content)
        for row in content["rows"]:
            if row.get("ok") is not None or row.get("verdict") == "inconclusive" or row.get("status"):
                yield _of(name, row, row["what"] in other)


def table(chosen: Iterable[Claim]) -> str:
    """Return a table of claims; what failed comes first, then what stayed open."""
    rows = sorted(
        chosen, key=lambda c: (0 if "*" in c.decision else 1 if c.decision == "inconclusive" else 2, c.benchmark)
    )
    lines = ["| measured by | what | asked | measured | over | set | |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for c in rows:
        where = f"{c.data} ({c.kind})" if c.data else ""
        cells = [c.benchmark, c.what, c.asked, c.measured, c.over, where, c.decision + "†" * c.old]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def counted(chosen: Iterable[Claim]) -> str:
    """Return how many claims were decided in which way."""
    decisions = [c.decision.strip("*") for c in chosen]
    return ", ".join(f"{decisions.count(name)} {name}" for name in dict.fromkeys(sorted(decisions)))
