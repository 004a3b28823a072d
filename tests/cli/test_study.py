"""``infl study``: a newcomer's first commands."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infl.cli.app import app
from infl.errors import FileError, SettingsError


def typed(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", ["template", "check"])
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
