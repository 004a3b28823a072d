"""The page on the architecture says of the packages what the import contract says, and files keep to what it promises."""

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "infl"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
ENTRY_POINTS = ("infl.tasks", "infl.rules", "infl.attacks")
LONGEST_COPY = 10
LONGEST_FILE = 350


def test_the_table_has_the_layers_of_the_contract_from_top_to_bottom() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| `infl\.(\w+)` \|", page, re.M)
    layers = [re.split(r" \| ", row) for row in CONTRACTS["contracts"][0]["layers"]]
    rows = [named for row in layers if (named := {n for n in row if n[0] != "_" and n != "errors"})]
    found = [set(table[sum(map(len, rows[:i])) :][: len(row)]) for i, row in enumerate(rows)]
    assert found == rows and len(table) == sum(map(len, rows))


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_links_of_the_tour_lead_somewhere(page: str) -> None:
    """On GitHub too, where no page is built; the built pages are checked by `make docs`."""
    path = ROOT / page
    links = [link for link in re.findall(r"\]\(([^)#]+)", path.read_text()) if "://" not in link]
    assert len(links) > 20
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_names_of_the_tour_are_names_of_the_code() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    dotted = {name for name in re.findall(r"`~?(infl(?:\.\w+)+)`", page) if name not in ENTRY_POINTS}
    assert len(dotted) > 20
    assert [name for name in sorted(dotted) if not _is_there(name)] == []
    source = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    for name in {part for dots in re.findall(r"`([A-Z]\w+(?:\.\w+)?)`", page) for part in dots.split(".")}:
        assert re.search(rf"^ *(class|def) {name}\b", source, re.M), f"docs/architecture.md: there is no {name}"


def _is_there(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ImportError:
        return hasattr(importlib.import_module(module), attribute)
    return True


def test_the_picture_has_the_imports_of_the_code() -> None:
    """Counted here by hand; no line leads up, which would be dashed."""
    sys.path.append(str(ROOT / "docs" / "extensions"))
    try:
        graph = importlib.import_module("import_graph")
    finally:
        sys.path.pop()
    rooms = {name for row in graph.layers() for name in row}
    found = {
        (path.relative_to(SOURCE).parts[0].removesuffix(".py"), module.split(".")[1])
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom | ast.Import)
        for module in _imported(node)
    }
    expected = {(a, b) for a, b in found if a != b and {a, b} <= rooms}
    assert {pair for pair in graph.imports() if {*pair} <= rooms} == expected
    picture = graph.draw()
    assert len(re.findall("<path", picture)) == len(expected) > 40
    assert "stroke-dasharray" not in picture
    assert {*re.findall(r">(\w+)</text>", picture)} == rooms


def _imported(node: ast.ImportFrom | ast.Import) -> list[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif node.module == "infl":
        names = [f"infl.{alias.name}" for alias in node.names]
    else:
        names = [node.module or ""]
    return [name for name in names if name.startswith("infl.")]


def test_no_import_is_excepted() -> None:
    assert CONTRACTS["exclude_type_checking_imports"] is False
    assert {contract["type"] for contract in CONTRACTS["contracts"]} == {"layers", "acyclic_siblings"}
    assert not [key for contract in CONTRACTS["contracts"] for key in contract if key.startswith(("ignore", "skip"))]


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines of a file that say something by number: no imports, and no signatures, whose arguments users know by name."""
    tree = ast.parse(path.read_text())
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, (node.end_lineno or 0) + 1))
        elif isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            left_out.update(range(first, node.body[0].lineno))
    rows = [(number, line.strip()) for number, line in enumerate(path.read_text().splitlines(), 1)]
    return [(n, line) for n, line in rows if n not in left_out and re.search(r"\w", line) and line[0] != "#"]


def _copies(files: Iterable[Path]) -> list[str]:
    """Places whose `LONGEST_COPY` lines stand somewhere else already."""
    seen: dict[tuple[str, ...], str] = {}
    found = []
    for path in files:
        lines = _lines(path)
        for i in range(len(lines) - LONGEST_COPY + 1):
            window = tuple(line for _, line in lines[i : i + LONGEST_COPY])
            place = f"{path.name}:{lines[i][0]}"
            if (first := seen.setdefault(window, place)) != place:
                found.append(f"{place} is {first}")
    return found


def test_nothing_of_ten_lines_is_written_twice() -> None:
    assert _copies(sorted(SOURCE.rglob("*.py"))) == []


def test_what_is_written_twice_is_found(tmp_path: Path) -> None:
    body = "".join(f"    value = value * {number} + 1\n" for number in range(LONGEST_COPY))
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(
            f"import sys\n\n\ndef {name}(value, {name}_too):\n{body}    return value\n"
        )
    assert _copies(sorted(tmp_path.glob("*.py"))) == ["two.py:5 is one.py:5", "two.py:6 is one.py:6"]


def test_long_files_say_why() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        if text.count("\n") > LONGEST_FILE:
            assert "longer than other files" in text[:600].lower(), (
                f"{path.name}: divide it, or say in its first lines why not"
            )


def test_no_ladder_of_stages() -> None:
    """What a sum does is said by the sum (`FederatedSum`), not looked up by its name; what a task can do, by a protocol."""
    for path in SOURCE.rglob("*.py"):
        assert not re.search(r"\bstage ==|hasattr\((self\.)?_?task\b", path.read_text()), path.name


LIBRARIES = {"data", "history", "index", "parameters", "raw", "var", "size"}
"""Attributes of arrays, tables, functions and accountants of other libraries, which classes here have by name too."""


def _set_from_outside(files: Iterable[Path]) -> list[str]:
    """Places where an attribute of a class is set in another file than the one that declares it."""
    trees = {path: ast.parse(path.read_text()) for path in files}
    declared: dict[str, set[Path]] = {}
    for path, tree in trees.items():
        for node in (n for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for n in ast.walk(c)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                declared.setdefault(node.target.id, set()).add(path)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _owner(node) == "self":
                declared.setdefault(node.attr, set()).add(path)
    stored = (
        (path, node) for path, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    )
    return [
        f"{path.name}: {ast.unparse(node)}"
        for path, node in stored
        if isinstance(node.ctx, ast.Store | ast.Del)
        and _owner(node) not in ("self", "cls", "settings")  # settings are there to be set
        and node.attr not in LIBRARIES
        and path not in declared.get(node.attr, {path})
    ]


def _owner(node: ast.Attribute) -> str:
    return node.value.id if isinstance(node.value, ast.Name) else ""


def test_objects_change_by_their_own_methods() -> None:
    assert _set_from_outside(sorted(SOURCE.rglob("*.py"))) == []


def test_what_is_set_from_outside_is_found(tmp_path: Path) -> None:
    (tmp_path / "door.py").write_text("class Door:\n    def __init__(self):\n        self.is_open = False\n")
    (tmp_path / "hand.py").write_text("def push(door):\n    door.is_open = True\n")
    assert _set_from_outside(sorted(tmp_path.glob("*.py"))) == ["hand.py: door.is_open"]
