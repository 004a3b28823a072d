"""What the package says of itself agrees: one version, one repository, and workflows that ask for what they promise."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import infl

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yaml")}
FORMS = {path.stem: path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")}


def text_files() -> list[Path]:
    """Return what people read in the repository and on its host."""
    folders = [ROOT.glob("*.md"), (ROOT / "docs").rglob("*.md"), (ROOT / ".github").rglob("*"), [ROOT / "CITATION.cff"]]
    return [path for found in folders for path in found if path.is_file() and "_build" not in path.parts]


def report_commands(text: str) -> list[str]:
    return re.findall(r'python -c "(.*session_info2.*)"', text)


def test_the_version_is_written_in_one_file() -> None:
    assert "version" not in PYPROJECT["project"]
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    source = (ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    [written] = re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    assert written == infl.__version__ == str(Version(written))


def test_the_citation_names_the_same_version_and_repository() -> None:
    """A citation file has no way to read the version from another."""
    assert str(CITATION["version"]) == infl.__version__
    assert CITATION["license"] == PYPROJECT["project"]["license"]
    urls = PYPROJECT["project"]["urls"]
    assert (CITATION["repository-code"], CITATION["url"]) == (urls["Source"], urls["Documentation"])


def test_a_released_version_has_its_part_of_the_changelog() -> None:
    """A release moves the entries under the version's name; a heading of the same kind comes once in each part."""
    parts = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    assert parts[0].startswith("[Unreleased]")
    assert all(re.match(r"\[\d+\.\d+\.\d+\S*\] - \d{4}-\d\d-\d\d\n", part) for part in parts[1:])
    for part in parts:
        kinds = re.findall(r"^### (.+)$", part, re.MULTILINE)
        order = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
        assert kinds == [kind for kind in order if kind in kinds]


def test_all_links_lead_to_one_repository() -> None:
    urls = PYPROJECT["project"]["urls"]
    assert {"Documentation", "Source", "Changelog", "Issues"} <= set(urls)
    assert all(url.startswith("https://") for url in urls.values())
    assert urls["Issues"] == f"{urls['Source']}/issues"
    text = "\n".join(path.read_text() for path in text_files())
    assert set(re.findall(r"https://github\.com/[\w.-]+/infl\b", text)) == {urls["Source"]}
    assert set(re.findall(r"https://infl\.[\w.]+/", text)) == {urls["Documentation"]}


def test_classifiers_and_workflow_agree_on_pythons() -> None:
    prefix = "Programming Language :: Python :: 3."
    named = [
        c.removeprefix("Programming Language :: Python :: ")
        for c in PYPROJECT["project"]["classifiers"]
        if c.startswith(prefix)
    ]
    allowed = SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert named
    assert all(python in allowed for python in named)
    tested = re.findall(r'python(?:-version)?: "(3\.\d+)"', (ROOT / ".github" / "workflows" / "test.yaml").read_text())
    assert set(tested) <= set(named)
    assert {named[0], named[-1]} <= set(tested)


def test_an_upper_bound_has_a_reason_beside_it() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    bounds = [line for line in lines if re.search(r'"[\w.\[\]-]+[^"#]*(<|==|~=)\d[^"]*"', line)]
    assert bounds
    assert all("#" in line for line in bounds), bounds


def test_the_command_for_reports_is_one_and_works(tmp_path: Path) -> None:
    commands = {
        command
        for path in [FORMS["bug_report"], ROOT / "docs" / "guide" / "faq.md"]
        for command in report_commands(path.read_text())
    }
    [command] = commands
    shown = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    for name in ("infl", "anndata", "scanpy", "torch", "Python"):
        assert re.search(rf"^{name}\t\S+", shown, re.MULTILINE), shown
    assert f"infl\t{infl.__version__}\n" in shown


@pytest.mark.parametrize("name", sorted(set(FORMS) - {"config"}))
def test_a_form_can_be_shown(name: str) -> None:
    """GitHub shows no form at all where one of these is missing or doubled."""
    form = yaml.safe_load(FORMS[name].read_text())
    assert {"name", "description", "body"} <= set(form)
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert fields
    assert len({part["id"] for part in fields}) == len(fields)
    assert all(part["attributes"]["label"] for part in fields)


def test_the_one_required_check_waits_for_every_job_that_must_pass() -> None:
    jobs = WORKFLOWS["test"]["jobs"]
    may_fail = {name for name, job in jobs.items() if job.get("continue-on-error")}
    must_pass = set(jobs) - may_fail - {"check"}
    assert set(jobs["check"]["needs"]) == must_pass
    assert may_fail == {"prereleases"}
    [step] = jobs["check"]["steps"]
    assert step["run"] == f'test "$RESULTS" = "{" ".join(["success"] * len(must_pass))}"'


def test_what_runs_on_the_host_is_pinned_and_may_only_read() -> None:
    for workflow in WORKFLOWS.values():
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                assert re.search(r"@[0-9a-f]{40}$", step.get("uses", f"@{'0' * 40}")), step
