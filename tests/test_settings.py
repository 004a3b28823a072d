"""How much is said: scanpy's levels."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from anndata import AnnData

import infl
from infl._settings import LEVELS, Settings
from infl.errors import SettingsError

OPTIONS = {"target": "tumour_class", "rounds": 2, "width": 8, "progress": False}


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = infl.settings.verbosity
    yield
    infl.settings.verbosity = before


def said(sites: dict[str, AnnData], level: int | str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    infl.settings.verbosity = level
    run = infl.tl.fit_federated({site: adata.copy() for site, adata in sites.items()}, **OPTIONS)
    infl.tl.predict(sites["site_1"].copy(), run.model, key=run.key)
    captured = capsys.readouterr()
    assert not captured.out
    return captured.err.splitlines()


def test_each_level_says_what_the_one_before_says_and_more(
    khan_sites: dict[str, AnnData], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [said(khan_sites, level, capsys) for level in range(len(LEVELS))]
    assert lines[0] == []
    assert [line.split(":")[1] for line in lines[1]] == [" a fresh key was made"]
    assert lines[2][0] == "infl: classifier on 5 sites, 2 rounds, lock field, seal group"
    assert re.match(r"infl: finished \(\d+:\d\d:\d\d\): loss \d\.\d+ accuracy", lines[2][1])
    new = (
        "added obs['infl_prediction'], obs['infl_probability'], obsm['X_infl'], obsm['infl_probabilities'], uns['infl']"
    )
    assert [line for line in lines[3] if "added" in line] == [
        *(f"infl: site_{i}: {new}" for i in range(1, 6)),
        f"infl: the data: {new}",
    ]
    assert sum(line.startswith("infl: round ") for line in lines[4]) == 2
    assert [len(some) for some in lines] == sorted(len(some) for some in lines)


def test_written_again_nothing_is_added(khan_sites: dict[str, AnnData], capsys: pytest.CaptureFixture[str]) -> None:
    run = infl.tl.fit_federated(khan_sites, **OPTIONS)
    infl.settings.verbosity = "hint"
    capsys.readouterr()
    infl.tl.embed(khan_sites["site_1"], run.model, key=run.key)
    assert capsys.readouterr().err == "infl: the data: written anew, nothing added\n"


def test_fields_of_modalities_are_named(breast_like: object, capsys: pytest.CaptureFixture[str]) -> None:
    from infl._tell import _fields

    assert "mod['rna'].obs['cells']" in _fields(breast_like)


@pytest.fixture
def breast_like(khan: AnnData) -> object:
    import mudata

    rna = khan[:, :5].copy()
    rna.obs["cells"] = 1
    return mudata.MuData({"rna": rna})


def test_names_and_numbers_and_what_is_neither() -> None:
    settings = Settings()
    for number, name in enumerate(LEVELS):
        settings.verbosity = name
        assert settings.verbosity == number
        settings.verbosity = number
        assert settings.verbosity == number
    for wrong in ("loud", 5, -1, None):
        with pytest.raises(SettingsError, match="give 0 to 4, or one of 'error', 'warning', 'info', 'hint', 'debug'"):
            settings.verbosity = wrong


def test_the_environment_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFL_VERBOSITY", "hint")
    assert Settings().verbosity == 3
    monkeypatch.setenv("INFL_VERBOSITY", "")
    assert Settings().verbosity == 1


def test_settings_bring_nothing_heavy() -> None:
    code = "import sys, infl; infl.settings.verbosity = 2; assert not {'torch', 'scanpy', 'anndata'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
