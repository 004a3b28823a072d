"""Make a release, up to the upload: ``python release/release.py 0.2.0``, or ``make release VERSION=0.2.0``.

Writes the version into the package, the chart, the citation and the changelog; builds wheel and source distribution; installs each in new
environments of the oldest and the newest Python and runs what a newcomer runs (tests/wheel.py); and leaves in ``dist/`` what is uploaded or
submitted: both distributions, their checksums, the release's notes, a bill of materials (CycloneDX) with the licences of all packages that come
along, a recipe for conda-forge and an entry for scverse's list of packages.
Nothing is committed, tagged or sent. Run again, it goes on with the version that it has written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("python3.11", "python3.13")
ON_CONDA = {"lazy-loader": "lazy_loader", "matplotlib": "matplotlib-base", "torch": "pytorch"}
"""Packages that conda-forge names otherwise."""
BILL_TOOL = "cyclonedx-bom>=7,<8"
LISTING: dict[str, Any] = {
    "primary_category": "Multimodal",
    "tags": [
        "scRNA-seq",
        "bulk RNA-seq",
        "spatial transcriptomics",
        "proteomics",
        "multimodal",
        "preprocessing",
        "data integration",
        "cell-type annotation",
        "clustering",
        "perturbation",
        "deep learning",
    ],
    "topics": ["integration", "annotation", "multi-omics", "spatial", "perturbation"],
}


class ReleaseError(SystemExit):
    """What is in the way of a release, in one line."""


# -- what a release is called -----------------------------------------------------------------------------------------


def written(root: Path) -> Version:
    """Return the version that the package has."""
    [version] = re.findall(r'^__version__ = "(.+)"$', (root / "src/infl/__init__.py").read_text(), re.MULTILINE)
    return Version(version)


def part_of(changelog: str, name: str) -> str:
    """Return what stands in the changelog under a version's heading; empty if there is none."""
    found = re.search(rf"^## \[{re.escape(name)}\].*?\n(.*?)(?=^## \[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def prepare(root: Path, name: str, today: date) -> Version:
    """Write a version's name wherever it stands, or refuse before anything is written."""
    try:
        version = Version(name)
    except InvalidVersion:
        raise ReleaseError(f"{name!r} is no version: three numbers, as in 0.2.0") from None
    if str(version) != name or len(version.release) != 3:
        raise ReleaseError(f"{name!r} is no version: three numbers, as in 0.2.0")
    before, changelog = written(root), (root / "CHANGELOG.md").read_text()
    if version < before:
        raise ReleaseError(f"{name} is older than what the package says it is, {before}")
    if part_of(changelog, name):
        if part_of(changelog, "Unreleased"):
            raise ReleaseError(
                f"CHANGELOG.md has entries under [Unreleased] beside those of {name}: move them, or take a higher version"
            )
    elif part_of(changelog, "Unreleased"):
        changelog = changelog.replace("## [Unreleased]\n", f"## [Unreleased]\n\n## [{name}] - {today}\n", 1)
    else:
        raise ReleaseError(f"CHANGELOG.md has no entries for {name} under [Unreleased]")
    new = {"CHANGELOG.md": changelog}
    for path, pattern, line in (
        ("src/infl/__init__.py", r'^__version__ = ".+"$', f'__version__ = "{name}"'),
        ("deploy/helm/Chart.yaml", r"^version: .+\nappVersion: .+$", f"version: {name}\nappVersion: {name}"),
        ("CITATION.cff", r"^version: .+(?:\ndate-released: .+)?$", f"version: {name}\ndate-released: {today}"),
    ):
        new[path], n = re.subn(pattern, line, (root / path).read_text(), flags=re.MULTILINE)
        if n != 1:
            raise ReleaseError(f"{path} has {n} lines with a version, not one")
    for path, text in new.items():
        (root / path).write_text(text)
    return version


# -- what is submitted elsewhere --------------------------------------------------------------------------------------


def project(root: Path) -> dict[str, Any]:
    """Return what ``pyproject.toml`` says of the package."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def recipe(about: dict[str, Any], version: Version, checksum: str) -> str:
    """Return a recipe for conda-forge, in its first format of YAML alone."""
    [oldest] = re.findall(r">=([\d.]+)", about["requires-python"])
    needed = [Requirement(line) for line in about["dependencies"]]
    run = [f"{ON_CONDA.get(r.name, r.name)} {r.specifier}".strip() for r in needed if r.marker is None]
    script = [f"infl = {about['scripts']['infl']}"]
    content = {
        "schema_version": 1,
        "context": {"version": str(version), "python_min": oldest},
        "package": {"name": "infl", "version": "${{ version }}"},
        "source": {"url": "https://pypi.org/packages/source/i/infl/infl-${{ version }}.tar.gz", "sha256": checksum},
        "build": {
            "noarch": "python",
            "number": 0,
            "script": "${{ PYTHON }} -m pip install . -vv --no-deps --no-build-isolation",
            "python": {"entry_points": script},
        },
        "requirements": {
            "host": ["python ${{ python_min }}.*", "pip", "hatchling"],
            "run": ["python >=${{ python_min }}", *run],
        },
        "tests": [
            {"python": {"imports": ["infl"], "python_version": ["${{ python_min }}.*", "*"], "pip_check": True}},
            {"script": ["infl --version"]},
        ],
        "about": {
            "homepage": about["urls"]["Documentation"],
            "repository": about["urls"]["Source"],
            "license": about["license"],
            "license_file": "LICENSE",
            "summary": about["description"],
        },
        "extra": {"recipe-maintainers": []},
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=130)


def listing(about: dict[str, Any], version: Version) -> str:
    """Return an entry for scverse's list of packages."""
    home = about["urls"]["Documentation"]
    content = {
        "name": "infl",
        "description": f"{about['description']}. Hospitals fit and analyse together, and no record leaves the house.\n",
        "project_home": about["urls"]["Source"],
        "documentation_home": home,
        "tutorials_home": f"{home}en/latest/tutorials.html",
        "install": {"pypi": "infl"},
        "license": about["license"],
        "version": f"v{version}",
        **LISTING,
        "contact": [],
        "test_command": "make test",
        "category": "ecosystem",
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=130)


# -- building and trying ----------------------------------------------------------------------------------------------


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command, and stop with it. No environment has packages of another one."""
    print("$", *command, flush=True)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if subprocess.run([str(part) for part in command], cwd=cwd, env=env).returncode:
        raise ReleaseError(f"failed: {' '.join(map(str, command))}")


def build(root: Path, version: Version, dist: Path) -> list[Path]:
    """Return wheel and source distribution, built anew; the wheel is built from the latter."""
    shutil.rmtree(dist, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", dist, root)
    made = [dist / f"infl-{version}-py3-none-any.whl", dist / f"infl-{version}.tar.gz"]
    if missing := [path.name for path in made if not path.exists()]:
        raise ReleaseError(f"{dist} lacks {', '.join(missing)} after the build")
    return made


def describe(root: Path, version: Version, made: Sequence[Path]) -> None:
    """Write beside the distributions: checksums, notes, and what is submitted elsewhere."""
    dist, about = made[0].parent, project(root)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made}
    files = {
        "SHA256SUMS": "".join(f"{digest}  {name}\n" for name, digest in sums.items()),
        "notes.md": part_of((root / "CHANGELOG.md").read_text(), str(version)) + "\n",
        "conda-forge/recipe.yaml": recipe(about, version, sums[f"infl-{version}.tar.gz"]),
        "scverse/meta.yaml": listing(about, version),
    }
    for name, text in files.items():
        path = dist / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def try_out(root: Path, version: Version, made: Sequence[Path], pythons: Sequence[str]) -> None:
    """Install each distribution in a new environment of each Python, without pins, and run what a newcomer runs.

    In the last environment what hospitals need is added, and its bill of materials is written.
    """
    for python in pythons:
        with tempfile.TemporaryDirectory() as folder:
            run(python, "-m", "venv", folder)
            own = Path(folder) / "bin" / "python"
            for number, path in enumerate(made):  # what they need is the same, and large
                again = ["--force-reinstall", "--no-deps"] if number else []
                run(own, "-m", "pip", "install", "--quiet", *again, path)
                run(own, root / "tests" / "wheel.py")
            run(own, "-m", "pip", "check")
            if python == pythons[-1]:
                run(own, "-m", "pip", "install", "--quiet", f"{made[0]}[flare]")
                run(python, "-m", "venv", f"{folder}/tool")  # apart: it would list what it needs itself
                run(f"{folder}/tool/bin/python", "-m", "pip", "install", "--quiet", BILL_TOOL)
                tool = f"{folder}/tool/bin/cyclonedx-py"
                bill_of_materials(tool, own, root, version, made[0].parent / f"infl-{version}")


def bill_of_materials(tool: str | Path, python: str | Path, root: Path, version: Version, target: Path) -> None:
    """Write what is installed beside a Python as ``NAME.cdx.json``, and the licences as ``NAME.licences.md``; `tool` is cyclonedx-py."""
    sbom = target.with_name(f"{target.name}.cdx.json")
    options = ("--output-format", "JSON", "--spec-version", "1.6", "--output-reproducible", "--output-file", sbom)
    run(tool, "environment", "--pyproject", root / "pyproject.toml", *options, python)
    content = json.loads(sbom.read_text())
    content["metadata"]["component"]["version"] = str(version)  # pyproject.toml has none of its own
    content["components"] = [c for c in content["components"] if c["name"] not in ("infl", "pip", "setuptools")]
    sbom.write_text(json.dumps(content, indent=1) + "\n")
    target.with_name(f"{target.name}.licences.md").write_text(licences(content))


def licences(sbom: dict[str, Any]) -> str:
    """Return a table of packages, versions and licences; those that declare none, first."""
    rows = []
    for component in sbom["components"]:
        found = [
            of.get("expression") or of["license"].get("id") or of["license"]["name"]
            for of in component.get("licenses", ())
        ]
        names = sorted({name.rpartition(" :: ")[2] for name in found} - {"OSI Approved"})
        short = ["its own text" if "\n" in name or len(name) > 80 else name for name in names]
        rows.append((bool(short), component["name"], component["version"], ", ".join(short) or "**declares none**"))
    lines = [f"| {name} | {version} | {licence} |" for _, name, version, licence in sorted(rows)]
    return "\n".join(["| package | version | licence |", "| --- | --- | --- |", *lines]) + "\n"


def interpreter(name: str) -> str:
    """Return the path of a Python that runs; pyenv puts some on the path that it runs only when they are chosen."""
    command = [name, "-c", "import sys; print(sys.executable)"]
    versions = (
        subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout
        if shutil.which("pyenv")
        else ""
    )
    chosen = [line for line in versions.split() if line.startswith(name.removeprefix("python") + ".")]
    for env in [{}, *({"PYENV_VERSION": version} for version in reversed(chosen))]:
        with suppress(OSError):
            found = subprocess.run(command, capture_output=True, text=True, env=os.environ | env)
            if not found.returncode:
                return found.stdout.strip()
    raise ReleaseError(f"no {name} here that runs; --pythons names others")


def changed_files(root: Path) -> list[str]:
    """Return what git knows to be changed or does not know, but for what a release writes."""
    lines = subprocess.run(
        ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    ours = {"src/infl/__init__.py", "deploy/helm/Chart.yaml", "CITATION.cff", "CHANGELOG.md"}
    return [line[3:] for line in lines.splitlines() if line[3:] not in ours]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a release."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("version", help="three numbers, as in 0.2.0")
    parser.add_argument(
        "--pythons", nargs="*", default=PYTHONS, help="to try the distributions with (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    if others := changed_files(ROOT):
        raise ReleaseError(f"commit or put aside first: {', '.join(others[:5])}")
    pythons = [interpreter(name) for name in chosen.pythons]
    version = prepare(ROOT, chosen.version, date.today())
    made = build(ROOT, version, ROOT / "dist")
    describe(ROOT, version, made)
    try_out(ROOT, version, made, pythons)
    print(f"dist/ has infl {version}. Look at dist/notes.md; then:")
    print(f"  git commit -am 'Version {version}' && git tag v{version} && git push origin main v{version}")
    print("  publish a release of that tag on GitHub with these notes: the workflow builds, signs and uploads")


if __name__ == "__main__":
    main()
