"""Tables of measured figures, straight from ``benchmarks/results/*.json``.

A page says ``<!-- benchmark NAME -->`` where the table of ``benchmarks/NAME.py`` belongs, ``<!-- benchmark NAME QUESTION -->``
for the rows of one of its questions, ``<!-- all benchmarks -->``, or ``<!-- claims BASIS -->`` for judged rows of all of them.
No figure is typed into a page by hand; where nothing was measured there is no table.
"""

import ast
import json
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
from _claims import claims, counted, plural, table  # noqa: E402
from _origin import of_other_code  # noqa: E402

ONE = re.compile(r"<!-- benchmark (\w+)(?: (\w+))? -->")
ALL = "<!-- all benchmarks -->"
CLAIMS = re.compile(r"<!-- claims (\w+) -->")


def _figure(row: dict) -> str:
    if row.get("interval") is not None:
        low, high = row["interval"]
        over = f", {row['n_units']} {plural(row['unit'])}" if "unit" in row else ""
        spread = f" [{low:.3g}, {high:.3g}{over}]"
    else:
        spread = "" if row.get("spread") is None else f" ± {row['spread']:.2g}"
        spread += " (starts)" if spread and row.get("spread_of") == "starts" else ""
    measured = row["measured"]
    return (f"{measured:,.0f}" if abs(measured) >= 1000 else f"{measured:.3g}") + spread


def _table(path: Path, question: str | None = None) -> str:
    content = json.loads(path.read_text())
    lines = ["| what | asked | measured | seeds | |", "| --- | --- | --- | --- | --- |"]
    rows = [row for row in content["rows"] if question is None or row["command"].split()[-1] == question]
    if not rows:
        return ""
    other = of_other_code(content)
    for row in rows:
        verdict = {True: "met", False: "**not met**"}.get(row.get("ok"), row.get("verdict", ""))
        verdict += "†" if row["what"] in other else ""
        cells = [row["what"], row["asked"], _figure(row), str(row.get("seeds") or ""), verdict]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    machine, command = (
        content.get("machine", {}),
        " ".join(rows[0].get("command", "").split()[: None if question else 2]),
    )
    where = f"{machine['cpus']} cores, Python {machine['python']}" if machine else ""
    mark = (
        " † measured before the code that it depends on was last changed."
        if any(r["what"] in other for r in rows)
        else ""
    )
    return "\n".join(lines) + f"\n\nMeasured by `{command}`{f' on {where}' if where else ''}.{mark}\n"


def _section(path: Path) -> str:
    script = BENCHMARKS / f"{path.stem}.py"
    purpose = (ast.get_docstring(ast.parse(script.read_text())) or "").strip() if script.exists() else ""
    return f"## {path.stem.capitalize()}\n\n{purpose}\n\n{_table(path)}"


def _claims(match: re.Match) -> str:
    chosen = [claim for claim in claims() if claim.basis == match[1]]
    return f"{len(chosen)}: {counted(chosen)}.\n\n{table(chosen)}"


def _fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    if ALL not in source[0] and not ONE.search(source[0]) and not CLAIMS.search(source[0]):
        return
    results = {path.stem: path for path in sorted((BENCHMARKS / "results").glob("*.json"))}
    for path in results.values():
        app.env.note_dependency(str(path))

    def one(match: re.Match) -> str:
        table = _table(results[match[1]], match[2]) if match[1] in results else ""
        if table:
            return table
        logging.getLogger(__name__).warning("no results of benchmark %s: run it first", match[1], location=docname)
        return ""

    source[0] = CLAIMS.sub(_claims, source[0])
    source[0] = ONE.sub(one, source[0].replace(ALL, "\n".join(map(_section, results.values()))))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register."""
    app.connect("source-read", _fill_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
