"""`infl fit` and `infl predict`, and data in all formats."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from typer.testing import CliRunner

import infl
from infl.cli.app import app
from infl.cli.options import METHOD_NAMES
from infl.cli.tables import print_table
from infl.deploy.site_data import stamp
from infl.errors import DataError, FileError, InflError, KeyringError, SettingsError
from infl.keys import Identity, Keyring
from infl.tl._compare import METHODS as KNOWN
from infl.tl._compare import OPTIONAL

FIT = ("--target", "tumour_class", "--site-key", "hospital", "--rounds", 2)


def typed(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def worked(*arguments: object) -> str:
    done = typed(*arguments)
    assert done.exit_code == 0, done.exception or done.output
    return done.output


def refused(*arguments: object, kind: type[InflError]) -> str:
    done = typed(*arguments)
    assert type(done.exception) is kind, done.exception or done.output
    assert "\n" not in str(done.exception)
    return str(done.exception)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, khan: AnnData, age_by_hand: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("infl.keys.age.encrypt_under", age_by_hand)
    monkeypatch.setenv("INFL_IDENTITY", str(tmp_path / "mine" / "identity.key"))
    monkeypatch.setenv("INFL_KEY_PASSPHRASE", "correct horse battery staple")
    khan.obs["hospital"] = [f"h{i % 3}" for i in range(khan.n_obs)]
    khan = khan[:, :100].copy()
    khan.write_h5ad("khan.h5ad")
    khan.write_zarr("khan.zarr")
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("data", ["khan.h5ad", "khan.zarr"])
def test_a_fit_saves_model_and_key_and_its_model_predicts(here: Path, data: str) -> None:
    suffix = data.partition(".")[2]
    told = worked("fit", data, *FIT, "--out", "m.infl.safetensors", "--results", f"fitted.{suffix}")
    assert "m.infl.safetensors: opens with m.key" in told
    model, ring = infl.load_model("m.infl.safetensors"), Keyring.load("m.key", None, "correct horse battery staple")
    assert model.header.fingerprint == ring.fingerprint() and model.header.lock == "field"
    worked("predict", data, "--model", "m.infl.safetensors", "--key", "m.key", "--out", f"new.{suffix}")
    read = anndata.read_zarr if suffix == "zarr" else anndata.read_h5ad
    fitted, new = read(f"fitted.{suffix}"), read(f"new.{suffix}")
    np.testing.assert_allclose(new.obsm["infl_probabilities"], fitted.obsm["infl_probabilities"], atol=1e-5)
    assert names(here) - {"mine"} == {
        "khan.h5ad", "khan.zarr", "m.infl.safetensors", "m.key", f"fitted.{suffix}", f"new.{suffix}"
    }  # fmt: skip


def test_a_ring_that_is_given_is_used_and_recipients_open_one_that_is_made(here: Path) -> None:
    someone = Identity.create()
    worked("fit", "khan.h5ad", *FIT, "--out", "a.safetensors", "--key", "ring.key", "--recipient", someone.public)
    ring = Keyring.load("ring.key", someone)
    someone.save("someone.key")
    options = ("--key", "ring.key", "--identity", "someone.key", "--option", "width=8")
    worked("fit", "khan.h5ad", *FIT, "--out", "b.safetensors", *options)
    for name in ("a", "b"):
        assert infl.load_model(f"{name}.safetensors").header.fingerprint == ring.fingerprint()
    assert infl.load_model("b.safetensors").header.options["width"] == 8


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (("--target", "tumor_class", "--site-key", "hospital"), DataError, "did you mean 'tumour_class'"),
        (("--target", "tumour_class", "--site-key", "nowhere"), DataError, "nowhere"),
        ((*FIT, "--model", "classifer"), SettingsError, "'classifer' is not known"),
        ((*FIT, "--option", "width"), SettingsError, "NAME=VALUE"),
        ((*FIT, "--results", "khan.h5ad"), FileError, "khan.h5ad exists"),
        ((*FIT, "--results", "out.csv"), FileError, "one that ends in .h5ad or .zarr"),
        ((*FIT, "--results", "nowhere/out.h5ad"), FileError, "there is no folder nowhere"),
        ((*FIT, "--recipient", "age1x", "--passphrase"), KeyringError, "one of the two"),
    ],
)
def test_what_cannot_work_leaves_nothing(here: Path, arguments: tuple, kind: type[InflError], text: str) -> None:
    assert text in refused("fit", "khan.h5ad", *arguments, "--out", "m.infl.safetensors", kind=kind)
    assert names(here) == {"khan.h5ad", "khan.zarr"}


def test_a_key_is_never_written_over(here: Path) -> None:
    worked("key", "new", "m.key")
    before = (here / "m.key").read_bytes()
    assert "pass it with --key" in refused("fit", "khan.h5ad", *FIT, "--out", "m.safetensors", kind=KeyringError)
    refused(
        "fit",
        "khan.h5ad",
        *FIT[:-2],
        "--option",
        "widht=8",
        "--key",
        "m.key",
        "--out",
        "m.safetensors",
        kind=SettingsError,
    )
    assert (here / "m.key").read_bytes() == before


def test_a_prediction_with_another_key_writes_nothing(here: Path) -> None:
    worked("fit", "khan.h5ad", *FIT, "--out", "m.safetensors")
    worked("key", "new", "other.key")
    options = ("--model", "m.safetensors", "--out", "new.h5ad")
    refused("predict", "khan.h5ad", *options, "--key", "other.key", kind=KeyringError)
    assert "several rings here" in refused("predict", "khan.h5ad", *options, kind=KeyringError)
    assert "cannot read nowhere.zarr" in refused("predict", "nowhere.zarr", *options, kind=FileError)
    assert "new.h5ad" not in names(here)


@pytest.mark.parametrize("name", ["pair.h5mu", "pair.zarr"])
def test_mudata_in_both_formats(here: Path, name: str) -> None:
    adata = anndata.read_h5ad("khan.h5ad")
    pair = mudata.MuData({"a": adata[:, :50].copy(), "b": adata[:, 50:].copy()})
    pair.obs["tumour_class"], pair.obs["hospital"] = adata.obs["tumour_class"], adata.obs["hospital"]
    pair.write_zarr(name) if name.endswith("zarr") else pair.write_h5mu(name)
    worked("fit", name, *FIT, "--out", "m.safetensors", "--results", f"fitted.{name.partition('.')[2]}")
    read = mudata.read_zarr if name.endswith("zarr") else mudata.read_h5mu
    assert "infl_prediction" in read(f"fitted.{name.partition('.')[2]}").obs


def test_compare_and_panel_read_zarr(here: Path) -> None:
    told = worked("compare", "khan.zarr", *FIT, "--seeds", 1, "--method", "baseline")
    assert "baseline" in told and "…" not in told and max(map(len, told.splitlines())) <= 80
    worked("run", "panel", "khan.zarr", "--target", "tumour_class")
    (here / "folder.zarr").mkdir()
    assert "cannot read folder.zarr" in refused("run", "panel", "folder.zarr", kind=FileError)
    before = stamp(here / "khan.zarr")
    (here / "khan.zarr" / "X" / "more").write_text("x")
    assert stamp(here / "khan.zarr") != before


def test_tables_fit_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    metrics = ("balanced_accuracy", "macro_f1", "calibration_error", "auroc", "log_likelihood")
    rows = [(method, metric, 0.123, 0.456, 0.1, 5, 2.0) for method in (*KNOWN, *OPTIONAL) for metric in metrics]
    print_table(pd.DataFrame(rows, columns=["method", "metric", "mean", "sd", "worst_site", "n_seeds", "seconds"]))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    assert shown.count("0.123 ± 0.456") == len(rows) and shown.count("published_wrong_key") > 1
    metrics = ("balanced_accuracy", "macro_f1", "calibration_error", "auroc")
    rows = [("baseline", metric, 0.123, float("nan"), 0.1, 1, 2.0) for metric in metrics]
    print_table(pd.DataFrame(rows, columns=["method", "metric", "mean", "sd", "worst_site", "n_seeds", "seconds"]))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    rows = [("pooled", metrics[0], 0.123, 0.456, 0.1, 5, 2.0)]
    print_table(pd.DataFrame(rows, columns=["method", "metric", "mean", "sd", "worst_site", "n_seeds", "seconds"]))
    assert capsys.readouterr().out.count("pooled") == 1


def test_methods_are_named_in_help_and_error(here: Path) -> None:
    assert re.split(", | or |; also ", METHOD_NAMES) == [*KNOWN, *OPTIONAL]
    shown = " ".join(re.sub("[│|]", " ", worked("compare", "--help")).split())
    line = refused("compare", "khan.h5ad", *FIT, "--method", "fedavrg", kind=SettingsError)
    for method in (*KNOWN, *OPTIONAL):
        assert method in line and method in shown


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: infl {command}" in worked(command, "--help").replace("`", "")
