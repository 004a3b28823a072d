"""A release writes one version everywhere, or refuses before it writes anything."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("release", ROOT / "release" / "release.py")
assert _spec is not None and _spec.loader is not None
release = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(release)

TODAY = date(2030, 1, 2)
FILES = ("src/infl/__init__.py", "deploy/helm/Chart.yaml", "CITATION.cff", "CHANGELOG.md", "pyproject.toml")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- One.\n\n## [0.0.1] - 2020-01-01\n\n- Old.\n"
    )
    return tmp_path


def texts(tree: Path) -> dict[str, str]:
    return {name: (tree / name).read_text() for name in FILES}


def test_a_version_is_written_wherever_it_stands(tree: Path) -> None:
    release.prepare(tree, "7.0.0", TODAY)
    assert release.written(tree) == Version("7.0.0")
    citation = yaml.safe_load((tree / "CITATION.cff").read_text())
    assert (citation["version"], citation["date-released"]) == ("7.0.0", TODAY)
    chart = yaml.safe_load((tree / "deploy/helm/Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == "7.0.0"
    changelog = (tree / "CHANGELOG.md").read_text()
    assert release.part_of(changelog, "7.0.0") == "### Added\n\n- One."
    assert release.part_of(changelog, "Unreleased") == ""
    assert release.part_of(changelog, "0.0.1") == "- Old."
    assert "## [7.0.0] - 2030-01-02\n" in changelog


def test_a_release_that_was_broken_off_goes_on(tree: Path) -> None:
    release.prepare(tree, "7.0.0", TODAY)
    before = texts(tree)
    release.prepare(tree, "7.0.0", TODAY)
    assert texts(tree) == before


@pytest.mark.parametrize("name", ["0.0.1", "7.0", "v7.0.0", "7.0.0 ", "seven", "07.0.0"])
def test_what_is_no_later_version_is_refused(tree: Path, name: str) -> None:
    before = texts(tree)
    with pytest.raises(release.ReleaseError, match="no version|older"):
        release.prepare(tree, name, TODAY)
    assert texts(tree) == before


@pytest.mark.parametrize(
    ("changelog", "says"),
    [
        ("## [Unreleased]\n\n## [0.0.1] - 2020-01-01\n\n- Old.\n", "no entries for 7.0.0"),
        ("## [Unreleased]\n\n- More.\n\n## [7.0.0] - 2030-01-01\n\n- One.\n", "beside those of 7.0.0"),
    ],
)
def test_a_changelog_that_does_not_fit_is_refused(tree: Path, changelog: str, says: str) -> None:
    (tree / "CHANGELOG.md").write_text(changelog)
    before = texts(tree)
    with pytest.raises(release.ReleaseError, match=says):
        release.prepare(tree, "7.0.0", TODAY)
    assert texts(tree) == before


def test_a_citation_without_a_version_is_refused(tree: Path) -> None:
    (tree / "CITATION.cff").write_text("title: infl\n")
    before = texts(tree)
    with pytest.raises(release.ReleaseError, match="CITATION.cff has 0 lines"):
        release.prepare(tree, "7.0.0", TODAY)
    assert texts(tree) == before


def test_what_is_submitted_says_what_the_package_says(tree: Path) -> None:
    version = release.prepare(tree, "7.0.0", TODAY)
    made = [tree / "dist" / name for name in ("infl-7.0.0-py3-none-any.whl", "infl-7.0.0.tar.gz")]
    (tree / "dist").mkdir()
    for path in made:
        path.write_bytes(path.name.encode())
    release.describe(tree, version, made)
    sums = dict(reversed(line.split("  ")) for line in (tree / "dist/SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: hashlib.sha256(path.name.encode()).hexdigest() for path in made}
    assert (tree / "dist/notes.md").read_text() == "### Added\n\n- One.\n"

    about = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    recipe = yaml.safe_load((tree / "dist/conda-forge/recipe.yaml").read_text())
    assert recipe["source"]["sha256"] == sums["infl-7.0.0.tar.gz"]
    assert recipe["context"] == {"version": "7.0.0", "python_min": "3.11"}
    needed = [Requirement(line) for line in recipe["requirements"]["run"][1:]]
    asked = [Requirement(line) for line in about["dependencies"]]
    assert [str(r.specifier) for r in needed] == [str(r.specifier) for r in asked]
    assert {r.name for r in needed} ^ {r.name for r in asked} == {*release.ON_CONDA, *release.ON_CONDA.values()}

    entry = yaml.safe_load((tree / "dist/scverse/meta.yaml").read_text())
    assert entry["install"]["pypi"] == about["name"] and entry["version"] == "v7.0.0"
    assert entry["license"] == about["license"] and entry["project_home"] == about["urls"]["Source"]


def test_tags_of_the_list_of_packages_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "ecosystem.md").read_text()
    assert all(
        f"`{word}`" in page
        for word in [release.LISTING["primary_category"], *release.LISTING["tags"], *release.LISTING["topics"]]
    )


def test_a_python_that_does_not_run_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    broken = tmp_path / "python9.9"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert Path(release.interpreter(sys.executable)).exists()
    for name in ("python9.9", "python9.10"):
        with pytest.raises(release.ReleaseError, match=f"no {name} here that runs"):
            release.interpreter(name)


BILL = {
    "components": [
        {"name": "one", "version": "1.0", "licenses": [{"license": {"id": "MIT"}}]},
        {"name": "two", "version": "2.0", "licenses": [{"expression": "Apache-2.0 OR MIT"}]},
        {"name": "three", "version": "3.0", "licenses": [
            {"license": {"name": "License :: OSI Approved"}}, {"license": {"name": "License :: OSI Approved :: BSD License"}},
        ]},
        {"name": "four", "version": "4.0", "licenses": [{"license": {"name": "Permission is\nhereby granted"}}]},
        {"name": "five", "version": "5.0"},
    ]
}  # fmt: skip


def test_licences_are_listed_and_those_that_declare_none_come_first() -> None:
    assert release.licences(BILL).splitlines()[2:] == [
        "| five | 5.0 | **declares none** |",
        "| four | 4.0 | its own text |",
        "| one | 1.0 | MIT |",
        "| three | 3.0 | BSD License |",
        "| two | 2.0 | Apache-2.0 OR MIT |",
    ]


def test_a_bill_of_materials_has_what_is_installed(tmp_path: Path) -> None:
    """Of an environment with two packages, by the tool that a release installs for itself."""
    if (tool := shutil.which("cyclonedx-py")) is None:
        pytest.skip("needs cyclonedx-bom, as `make release` installs it beside: pip install cyclonedx-bom")
    venv.create(tmp_path / "environment", symlinks=True)
    own = tmp_path / "environment" / "bin" / "python"
    command = [own, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    for name, licence in (("alpha", "License-Expression: MIT\n"), ("infl", "")):
        (site / f"{name}-2.0.dist-info").mkdir()
        (site / f"{name}-2.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: 2.0\n{licence}"
        )
    release.bill_of_materials(tool, own, ROOT, Version("7.0.0"), tmp_path / "infl-7.0.0")
    sbom = json.loads((tmp_path / "infl-7.0.0.cdx.json").read_text())
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    assert sbom["metadata"]["component"]["name"] == "infl" and sbom["metadata"]["component"]["version"] == "7.0.0"
    assert [(c["name"], c["version"], c["purl"]) for c in sbom["components"]] == [
        ("alpha", "2.0", "pkg:pypi/alpha@2.0")
    ]
    assert "| alpha | 2.0 | MIT |" in (tmp_path / "infl-7.0.0.licences.md").read_text()
