"""What a measured figure came from: the code that was run, by digests. ``python benchmarks/_origin.py`` lists what changed.

A row of a result remembers, of every file of this repository that its script had loaded, a digest of the functions that were called and of
all constants and classes. Comments, layout and docstrings do not count, nor does what was never called. Of what was loaded before this
module, and where a script starts other processes, whole files count. Where something has changed since, the row is of *other code*: it may
still be right, but nobody looked.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.abc
import importlib.machinery
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHORT = 12
"""Hexadecimal digits of a digest."""

Files = dict[str, str]
"""By path from the repository's root: a digest of the whole file, or a digest and the names of what it is of."""
LEFT_OUT = ("benchmarks/_origin.py", "src/infl/__init__.py")
"""They measure nothing: this file, and the list of the package's names."""
REST = "<rest>"
"""Name of a module's statements that define nothing."""


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


# -- parts of a file -----------------------------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(tree: ast.Module) -> dict[str, Function]:
    """Return functions and methods by qualified name; what is defined within one is part of it."""
    found = {node.name: node for node in tree.body if isinstance(node, Function)}
    for outer in tree.body:
        if isinstance(outer, ast.ClassDef):
            for node in outer.body:  # a property and its setter have one name
                if isinstance(node, Function):
                    name = f"{outer.name}.{node.name}"
                    found[name + "'" * (name in found)] = node
    return found


@cache
def parts(path: Path) -> dict[str, str]:
    """Return what a file of Python code defines, by name: functions, methods, classes without methods, constants, and the rest."""
    if not path.exists():
        return {}
    tree = _without_docstrings(ast.parse(path.read_bytes()))
    found = {name: ast.unparse(node) for name, node in _functions(tree).items()}
    rest = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            node.body = [inner for inner in node.body if not isinstance(inner, Function)] or [ast.Pass()]
            found[node.name] = ast.unparse(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found[",".join(ast.unparse(target).replace(" ", "") for target in targets)] = ast.unparse(node)
        elif not isinstance(node, ast.Import | ast.ImportFrom | Function):
            rest.append(ast.unparse(node))
    return found | {REST: "\n".join(rest)}


@cache
def digest_of_parts(path: Path, names: tuple[str, ...]) -> str:
    """Return the digest of some parts of a file; empty if one is no longer there."""
    found = parts(path)
    if any(name not in found for name in names):
        return ""
    return hashlib.sha256("\0".join(found[name] for name in names).encode()).hexdigest()[:SHORT]


# -- what is called ------------------------------------------------------------------------------------------------------


class Calls(importlib.abc.MetaPathFinder):
    """Notes which functions of the repository are called, in modules that are imported after it.

    Each function begins with a line that adds its name to a set.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root, self.seen, self.processes = root, defaultdict[str, set[str]](set), False

    def start(self) -> Calls:
        """Begin to note calls, in this process."""
        sys.meta_path.insert(0, self)
        sys.addaudithook(self._audit)
        return self

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        python = event in ("subprocess.Popen", "os.posix_spawn") and "python" in str(arguments[:2])
        self.processes |= python or event in ("os.fork", "os.forkpty")

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module as usual, and have those of the repository note their calls."""
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader) or not spec.origin:
            return None
        inside = _inside(Path(spec.origin), self.root)
        if inside is None:
            return None
        spec.loader = _Noting(name, spec.origin, self.seen[inside])
        return spec

    def used(self) -> Files:
        """Return what was called so far of each file that was loaded."""
        files = {inside: path for path in _loaded() if (inside := _inside(path, self.root))}
        found = {}
        for inside, path in sorted(files.items()):
            if self.processes or inside not in self.seen:
                found[inside] = digest_of(path)
                continue
            defined, functions = parts(path), _functions(ast.parse(path.read_bytes()))
            names = tuple(name for name in sorted(defined) if name not in functions or name in self.seen[inside])
            found[inside] = " ".join([digest_of_parts(path, names), *names])
        return {path: digest for path, digest in found.items() if path not in LEFT_OUT}


class _Noting(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, seen: set[str]) -> None:
        super().__init__(name, path)
        self.seen = seen

    def get_code(self, fullname: str) -> CodeType | None:
        """Compile the source anew: what is cached notes nothing, and what notes is not cached."""
        parts(Path(self.path))  # as it is now, should somebody edit it before the figures are written
        return self.source_to_code(self.get_data(self.path), self.path)

    def source_to_code(self, data: Any, path: Any, **more: Any) -> CodeType:  # type: ignore[override]
        tree = ast.parse(data)
        for name, node in _functions(tree).items():
            first = int(ast.get_docstring(node, clean=False) is not None)
            note = ast.parse(f"__called__({name!r})").body[0]
            at = node.body[min(first, len(node.body) - 1)]
            for inner in ast.walk(note):
                ast.copy_location(inner, at)
            node.body.insert(first, note)
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__called__"] = self.seen.add
        super().exec_module(module)


def _loaded() -> set[Path]:
    return {
        Path(file).resolve() for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))
    }


def _inside(path: Path, root: Path) -> str | None:
    """Return the path of Python code of the repository from its root, or none; an environment in its folder is not of it."""
    if not path.is_relative_to(root) or path.suffix != ".py" or not path.exists():
        return None
    inside = path.relative_to(root)
    return None if any(part.startswith(".") for part in inside.parts) else str(inside)


CALLS = Calls()
"""Of this process: begun where a benchmark is its main script."""
_main = getattr(sys.modules["__main__"], "__file__", None)
if _main and Path(_main).resolve().parent == Path(__file__).resolve().parent and Path(_main).name != "_origin.py":
    CALLS.start()


def name_of(files: Files) -> str:
    """Return one digest of all files."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:SHORT]


def changed(files: Files, root: Path = ROOT) -> list[str]:
    """Return the files that are not as they were."""
    return [path for path, was in files.items() if path not in LEFT_OUT and not _same(root / path, was)]


def _same(path: Path, was: str) -> bool:
    digest, *names = was.split(" ")
    return digest == (digest_of_parts(path, tuple(names)) if names else digest_of(path))


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
