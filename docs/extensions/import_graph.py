"""A picture of what depends on what, drawn from the code when the pages are built.

A page says ``<!-- import graph -->``. Imports are counted by grimp, which import-linter uses too, and rows are the layers of the
import contract in ``pyproject.toml``. The picture is a plain SVG in the page: no network, no other program.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import grimp

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
MARK = "<!-- import graph -->"
WIDTH, ROW, BOX, HEIGHT = 760, 62, 118, 30
QUIET = ("_", "errors", "__main__")
"""Rooms that many others use and that carry no meaning of their own are left out of the picture."""


def layers() -> list[list[str]]:
    """Return the contract's layers from top to bottom."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = project["tool"]["importlinter"]["contracts"][0]
    rows = [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]
    return [kept for row in rows if (kept := [name for name in row if not name.startswith(QUIET)])]


def _room(module: str) -> str:
    """Return the package that a module is shown in.

    Examples
    --------
    >>> _room("infl.attacks.ratio"), _room("infl")
    ('attacks', '')
    """
    return module.partition(".")[2].partition(".")[0]


def imports() -> Counter[tuple[str, str]]:
    """Return how many imports lead from one package of infl to another, those for type checkers too."""
    graph = grimp.build_graph("infl", cache_dir=None)
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            above, below = _room(module), _room(imported)
            if above != below:
                found[above, below] += 1
    return found


def draw() -> str:
    """Return the picture as SVG: a row a layer, a line from each package to those that it imports."""
    rows, counted = layers(), imports()
    place = {}
    for number, row in enumerate(rows):
        for i, name in enumerate(row):
            x = WIDTH / 2 + (i - (len(row) - 1) / 2) * (BOX + 40)
            # Rows of one are set aside in turn, so that lines past them can be told apart.
            place[name] = (x + (0 if len(row) > 1 else (-200, 70, -120, 190, -40)[number % 5]), 24 + number * ROW)
    lines, boxes = [], []
    for (above, below), n in sorted(counted.items()):
        if above not in place or below not in place:
            continue
        (x1, y1), (x2, y2) = place[above], place[below]
        up = y2 < y1
        y1, y2 = (y1 - HEIGHT / 2, y2 + HEIGHT / 2) if up else (y1 + HEIGHT / 2, y2 - HEIGHT / 2)
        style = ' stroke-dasharray="5 4"' if up else ""
        lines.append(
            f'<path d="M{x1:.0f},{y1:.0f} C{x1:.0f},{(y1 + y2) / 2:.0f} {x2:.0f},{(y1 + y2) / 2:.0f} {x2:.0f},{y2:.0f}"'
            f' stroke-width="{0.8 + min(n, 40) / 14:.1f}"{style}><title>{above} → {below}: {n} imports</title></path>'
        )
    for name, (x, y) in place.items():
        boxes.append(
            f'<rect x="{x - BOX / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{BOX}" height="{HEIGHT}" rx="6"/>'
            f'<text x="{x:.0f}" y="{y + 5:.0f}">{escape(name)}</text>'
        )
    told = "; ".join(
        f"{name} imports {', '.join(below for above, below in sorted(counted) if above == name and below in place) or 'none of them'}"
        for name in place
    )
    return (
        f'<svg class="infl-imports" viewBox="0 0 {WIDTH} {24 + len(rows) * ROW - ROW // 2}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg"><title>Which package imports which</title><desc>{escape(told)}</desc>'
        f'<g class="lines">{"".join(lines)}</g><g class="boxes">{"".join(boxes)}</g></svg>'
    )


def _fill_in(app: Sphinx, docname: str, source: list[str]) -> None:
    if MARK in source[0]:
        for path in (ROOT / "src" / "infl").rglob("*.py"):
            app.env.note_dependency(str(path))
        source[0] = source[0].replace(MARK, f"```{{raw}} html\n{draw()}\n```")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register."""
    app.connect("source-read", _fill_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
