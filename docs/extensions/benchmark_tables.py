"""Tables of measured figures, straight from ``benchmarks/results/*.json``.

A page says ``<!-- benchmark NAME -->`` where the table of ``benchmarks/NAME.py`` belongs, ``<!-- benchmark NAME QUESTION -->``
for the rows of one of its questions, ``<!-- section of benchmark NAME -->`` for the table with its purpose, which one page under
``docs/evidence`` does for each result, ``<!-- all benchmarks -->`` for a list of these pages, or ``<!-- claims BASIS -->`` for judged
rows of all of them. No figure is typed into a page by hand; where nothing was measured there is no table.
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
SECTION = re.compile(r"<!-- section of benchmark (\w+) -->")
ALL = "<!-- all benchmarks -->"
CLAIMS = re.compile(r"<!-- claims (\w+) -->")
EVIDENCE = Path(__file__).parents[1] / "evidence"
LONG = 25
"""A table of more rows is folded."""


def pages_of() -> dict[str, list[str]]:
    """Return the pages under ``docs/evidence`` that have the section of each benchmark."""
    found: dict[str, list[str]] = {}
    for page in sorted(EVIDENCE.glob("*.md")):
        for name in SECTION.findall(page.read_text(encoding="utf-8")):
            found.setdefault(name, []).append(page.name)
    return found


def folded(table: str, rows: int, called: str = "rows") -> str:
    """Return a table, folded under its number of rows if it is long."""
    return table if rows <= LONG else f"<details>\n<summary>{rows} {called}</summary>\n\n{table}\n</details>\n"


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


def _purpose(name: str) -> str:
    """Return what a script says of itself, without the page that it names: that is where this stands, or one click away."""
    script = BENCHMARKS / f"{name}.py"
    text = (ast.get_docstring(ast.parse(script.read_text())) or "").strip() if script.exists() else ""
    return re.sub(r"\s*\(docs/[^()]*\)", "", text)


def _section(path: Path) -> str:
    table = folded(_table(path), len(json.loads(path.read_text())["rows"]))
    return f"## {_title(path.stem)}\n\n{_purpose(path.stem)}\n\n{table}"


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _all(results: dict[str, Path]) -> str:
    """Return a list of all benchmarks: what each asks, how many rows it has, and where they are."""
    lines = ["| measured | question | rows |", "| --- | --- | --- |"]
    for page, name in sorted((pages[0], name) for name, pages in pages_of().items() if name in results):
        question = (
            re.sub(r":\s*``python[^`]*``", "", _purpose(name).split("\n\n")[0]).replace("\n", " ").replace("|", "\\|")
        )
        rows = len(json.loads(results[name].read_text())["rows"])
        anchor = _title(name).lower().replace(" ", "-")
        lines.append(f"| [{_title(name)}](evidence/{page}#{anchor}) | {question} | {rows} |")
    return "\n".join(lines) + "\n"


def _claims(match: re.Match) -> str:
    """Return what was not shown, or is open, and below it what was; long tables are folded."""
    chosen = [claim for claim in claims() if claim.basis == match[1]]
    kept = [claim for claim in chosen if claim.decision in ("shown", "met", "holds")]
    rest = [claim for claim in chosen if claim not in kept]
    parts = [
        folded(table(rest), len(rest), "that failed or are open") if rest else "",
        folded(table(kept), len(kept), "that hold") if kept else "",
    ]
    return f"{len(chosen)}: {counted(chosen)}.\n\n" + "\n".join(parts)


def _fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    text = source[0]
    if ALL not in text and not any(mark.search(text) for mark in (ONE, SECTION, CLAIMS)):
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

    text = SECTION.sub(lambda match: _section(results[match[1]]) if match[1] in results else one(match), text)
    text = text.replace(ALL, _all(results)) if ALL in text else text
    source[0] = CLAIMS.sub(_claims, ONE.sub(one, text))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register."""
    app.connect("source-read", _fill_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
