"""The example packages work as another package would: found by the metadata that their pyproject.toml declares."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def install(package: Path, folder: Path) -> None:
    """Write what an installer would write of an editable install: the metadata, and where the sources are."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {place}" for name, place in points.items())])
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups) + "\n")


@pytest.mark.long
@pytest.mark.parametrize("package", sorted(EXAMPLES.glob("*/pyproject.toml")), ids=lambda path: path.parent.name)
def test_an_example_passes_its_own_tests(package: Path, tmp_path: Path) -> None:
    install(package.parent, tmp_path)
    sources = [str(tmp_path), str(package.parent / "src"), *sys.path]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules", "--rootdir", "."]
    done = subprocess.run(
        [*command, "tests", "src"],
        cwd=package.parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sources)), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_a_task_an_attack_rules_and_a_statistic_are_one_file_each() -> None:
    """What somebody adds is one file, of public names of infl alone; beside it stand its line of metadata and its tests."""
    package = EXAMPLES / "infl-regression" / "src" / "infl_regression"
    files = sorted(path.stem for path in package.glob("*.py"))
    assert files == ["__init__", "attack", "disclosure", "rule", "statistic", "task"]
    for path in package.glob("*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        modules = [node.module or "" for node in imports]
        assert not [m for m in modules if m.startswith("infl_regression")], f"{path.name} needs another file"
        assert not [m for m in modules if m.startswith("infl.") and "._" in m], f"{path.name} needs what is private"


def test_there_is_an_example() -> None:
    assert (EXAMPLES / "infl-regression" / "pyproject.toml").is_file()
