"""``infl study``: a newcomer's first commands."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infl.cli.app import app
from infl.deploy.attempt import Status
from infl.deploy.study.attempt import StudyFolder
from infl.deploy.study.file import TEMPLATE
from infl.deploy.study.specification import Study
from infl.deploy.study.steps import Step
from infl.deploy.study.working import WorkingObject, Written, digest_of
from infl.errors import FileError, SettingsError


def typed(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command", ["template", "check", "start", "status", "watch", "stop", "resume", "fetch", "report"]
)
def test_help_has_an_example(command: str) -> None:
    assert f"Example: infl study {command}" in typed("study", command, "--help").stdout.replace("`", "")


def test_a_template_is_checked_once_it_names_a_key(here: Path) -> None:
    assert "study.toml: edit it" in typed("study", "template").stdout
    assert type(typed("study", "template").exception) is FileError  # it exists
    wrong = typed("study", "check", "study.toml").exception
    assert type(wrong) is SettingsError and "study.toml, line 8: key.fingerprint" in str(wrong)
    path = here / "study.toml"
    path.write_text(path.read_text().replace('fingerprint = ""', 'fingerprint = "abcd"'))
    lines = typed("study", "check", "study.toml").stdout.splitlines()
    assert lines[4].startswith("5  pp.pca(n_comps=50)  writes obsm['X_pca'], varm['PCs'], uns['pca']")
    assert lines[-1] == ("my_study: 6 steps; all 3 sites take part in every step: the study waits whenever one is away")
    path.write_text(path.read_text().replace('do = "pp.pca"\nn_comps = 50', 'do = "pp.moments"'))
    assert (
        "no step makes obsm['X_pca']: the data of every site must have it"
        in typed("study", "check", "study.toml").stdout
    )
    assert {p.name for p in here.iterdir()} == {"study.toml"}


def test_models_of_fits_are_fetched_beside_the_object(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "studies").mkdir()
    (here / "cohort.h5ad").write_bytes(b"own")
    working = WorkingObject(here / "studies", "digest", here / "cohort.h5ad", "a")
    (here / "studies" / "step_0002.h5ad").write_bytes(b"made")
    working.keep(1, Written(here / "studies" / "step_0002.h5ad", digest_of(here / "studies" / "step_0002.h5ad")))
    (here / "studies" / "model_0002.infl.safetensors").write_bytes(b"locked")
    (here / "studies" / "model_0003.infl.safetensors").write_bytes(b"of a step that is not kept")
    study = Study.new("first", ["a", "b", "c"], [Step.read("pp.log1p", {})], 1, "abcd")
    monkeypatch.setattr("infl.cli.site.find_home", lambda home: here)
    monkeypatch.setattr("infl.deploy.study.consent.SiteStudies.result", lambda self, name: (study, working))
    printed = typed("study", "fetch", "out.h5ad").stdout
    assert "out.step_2.infl.safetensors: the model, locked" in printed and "step_3" not in printed
    assert (here / "out.step_2.infl.safetensors").read_bytes() == b"locked"
    assert (here / "out.h5ad").read_bytes() == b"made"
    (here / "out.h5ad").unlink()
    wrong = typed("study", "fetch", "out.h5ad").exception
    assert type(wrong) is FileError and "out.step_2.infl.safetensors" in str(wrong) and not (here / "out.h5ad").exists()


def test_a_study_at_the_coordinator(here: Path) -> None:
    folder = StudyFolder(here / "coordinator" / "runs" / "first")
    folder.begin(Study.new("first", ["a", "b", "c"], [Step.read("pp.log1p", {})], 1, "abcd"))
    row = {"up": True, "silent": 0.1, "trouble": "", "in": 1_000_000, "out": 0}
    folder.save_status(Status(state="finished", round=1, rounds=1, sites={"a": row}))
    printed = typed("study", "status", "first").stdout
    assert printed.startswith("finished, step 1 of 1, attempt 0") and "1.00 MB in" in printed
    assert typed("study", "watch", "first").stdout == printed
    assert typed("study", "stop", "first").stdout == "first: finished already\n"
    assert folder.requested == ""
    for command in ("status", "watch", "stop", "resume"):
        wrong = typed("study", command, "second").exception
        assert type(wrong) is FileError and "no study 'second' at coordinator" in str(wrong)
    assert not (here / "coordinator" / "runs" / "second").exists()
    assert type(typed("study", "fetch", "out.h5ad").exception) is FileError  # no site's folder here
    (here / "study.toml").write_text(TEMPLATE.replace('fingerprint = ""', 'fingerprint = "abcd"'))
    wrong = typed("coordinator", "start", "study.toml").exception
    assert type(wrong) is SettingsError and "start it with `infl study start study.toml`" in str(wrong)
    (here / "study.toml").write_text((here / "study.toml").read_text().replace("my_study", "first"))
    wrong = typed("study", "start", "study.toml").exception
    assert type(wrong) is FileError and "was begun with other steps or sites" in str(wrong)
