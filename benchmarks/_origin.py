"""What a measured figure came from: the code that was loaded and the data, by digests. ``python benchmarks/_origin.py`` lists what changed.

A row of a result remembers the digest of every file of this repository that its script had loaded. Comments, layout and
docstrings do not count. Where one of the files has changed since, the row is of *other code*: it may still be right, but nobody looked.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHORT = 12
"""Hexadecimal digits of a digest."""

Files = dict[str, str]
"""Digest of each file, by its path from the repository's root."""


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value = ast.Constant(...)
    return tree


@cache
def digest_of(path: Path) -> str:
    """Return the digest of a file: of Python code what it does, of others their bytes; empty if there is none."""
    if not path.exists():
        return ""
    content = path.read_bytes()
    if path.suffix == ".py":
        content = ast.unparse(_without_docstrings(ast.parse(content))).encode()
    return hashlib.sha256(content).hexdigest()[:SHORT]


def loaded(root: Path = ROOT) -> Files:
    """Return what this process has loaded of the repository, so far."""
    paths = {
        Path(file).resolve() for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))
    }
    inside = sorted(path for path in paths if path.is_relative_to(root) and path.suffix == ".py" and path.exists())
    inside = [path for path in inside if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    return {str(path.relative_to(root)): digest_of(path) for path in inside}


def name_of(files: Files) -> str:
    """Return one digest of all files."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:SHORT]


def changed(files: Files, root: Path = ROOT) -> list[str]:
    """Return the files that are not as they were."""
    return [path for path, digest in files.items() if digest_of(root / path) != digest]


def of_other_code(content: Mapping[str, Any], root: Path = ROOT) -> dict[str, list[str]]:
    """Return the rows of a result that other code measured, by what they measure, each with the files that changed.

    A row that remembers no code is of a time before this was written down: its list is empty.
    """
    code: Mapping[str, Files] = content.get("code", {})
    now = {name: changed(files, root) for name, files in code.items()}
    rows = [(row["what"], row.get("code")) for row in content["rows"]]
    return {what: now.get(name, []) for what, name in rows if name not in now or now[name]}


def results(folder: Path = RESULTS) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield name and content of each result."""
    for path in sorted(folder.glob("*.json")):
        yield path.stem, json.loads(path.read_text())


def main() -> None:
    """Print which results are of other code, and what changed."""
    for name, content in results():
        old = of_other_code(content)
        files = sorted({path for paths in old.values() for path in paths})
        shown = ", ".join(files[:6]) + (f" and {len(files) - 6} more" if len(files) > 6 else "")
        print(
            f"{name:<20} {len(old):>3} of {len(content['rows']):>3} rows are of other code{': ' + shown if shown else ''}"
        )


if __name__ == "__main__":
    main()
