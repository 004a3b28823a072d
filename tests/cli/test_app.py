"""The command line as a user meets it: exit codes, one line for what can be mended, and the demonstration."""

import contextlib
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import anndata
import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl._files import explained
from infl.cli import main
from infl.errors import FileError, NoRoomError
from infl.keys import Identity, Keyring


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `infl` does, in this process."""
    command, out, err, code = ["infl", *map(str, arguments)], io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        patch.setattr(infl.settings, "progress", False)
        patch.setenv("COLUMNS", "120")
        if cwd is not None:
            patch.chdir(cwd)
        try:
            main()
        except SystemExit as left:
            code = 0 if left.code is None else int(left.code)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def run_apart(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "infl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "command", [(), ("demo",), ("compare",), ("key",), ("model",), ("model", "relock"), ("key", "new")]
)
def test_help_has_an_example(command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
    if len(command) == 2 or command in [("demo",), ("compare",)]:
        assert "Example: " in done.stdout


def test_version() -> None:
    assert run_apart("--version").stdout.strip() == infl.__version__


def test_a_process_ends_as_the_function_does(tmp_path: Path) -> None:
    done = run_apart("key", "show", tmp_path / "nowhere.key")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere.key" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("model", "show", "nowhere.safetensors"), "nowhere.safetensors"),
        (("compare", "nowhere.h5ad", "--target", "x", "--site-key", "y"), "nowhere.h5ad"),
        (("key", "show", "nowhere.key"), "nowhere.key"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_2(arguments: tuple[str, ...], text: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("SettingsError", 2),
        ("DataError", 2),
        ("FederationError", 3),
        ("SealError", 3),
        ("UnreachableError", 4),
        ("NoRoomError", 5),
    ],
)
def test_exit_codes_say_what_kind_it_is(kind: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise getattr(infl.errors, kind)("so it is")

    monkeypatch.setattr(infl.keys.Keyring, "load", fail)
    done = run("key", "show", "any.key")
    assert (done.returncode, done.stderr) == (code, "infl: so it is\n")


def test_a_full_disk_is_known_by_its_error(tmp_path: Path) -> None:
    for number, kind in ((errno.ENOSPC, NoRoomError), (errno.EDQUOT, NoRoomError), (errno.EACCES, FileError)):
        with pytest.raises(FileError, match=os.strerror(number)) as caught, explained(tmp_path, "write"):
            raise OSError(number, os.strerror(number))
        assert caught.type is kind


@pytest.mark.parametrize(("number", "code"), [(errno.EISDIR, 2), (errno.EACCES, 2), (errno.ENOSPC, 5)])
def test_what_the_system_refuses_of_a_file_is_one_line(number: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), "runs/first/stop")

    monkeypatch.setattr(infl.keys.Keyring, "load", fail)
    done = run("key", "show", "any.key")
    assert (done.returncode, done.stderr) == (code, f"infl: cannot use runs/first/stop: {os.strerror(number)}\n")


def test_what_the_system_refuses_of_no_file_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(infl.keys.Keyring, "load", fail)
    with pytest.raises(OSError, match="Bad file"):
        run("key", "show", "any.key")


def test_a_defect_of_ours_is_exit_1(tmp_path: Path) -> None:
    code = (
        "from infl.keys import Keyring; Keyring.load = None\nfrom infl.cli import main; main()"  # which loads no torch
    )
    (tmp_path / "k").write_text("x")
    done = subprocess.run(
        [sys.executable, "-c", code, "key", "show", str(tmp_path / "k")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "TypeError" in done.stderr


def test_compare_prints_and_writes_the_table(khan: AnnData, tmp_path: Path) -> None:
    khan.obs["hospital"] = [f"h{i % 3}" for i in range(khan.n_obs)]
    khan.write_h5ad(tmp_path / "khan.h5ad")
    options = (
        "--target",
        "tumour_class",
        "--site-key",
        "hospital",
        "--seeds",
        1,
        "--rounds",
        2,
        "--out",
        tmp_path / "t.csv",
    )
    done = run("compare", tmp_path / "khan.h5ad", *options, "--method", "fedavg", "--method", "baseline")
    assert done.returncode == 0, done.stderr
    assert "fedavg" in done.stdout
    table = pd.read_csv(tmp_path / "t.csv")
    assert list(table) == ["method", "metric", "mean", "sd", "worst_site", "n_seeds", "seconds"]
    assert set(table["method"]) == {"fedavg", "baseline"}
    left_out = ("--method", "baseline", "--holdout", "site")
    done = run("compare", tmp_path / "khan.h5ad", *options, *left_out)
    assert {"worst", "site"} <= {*done.stdout.split()}  # a word a line
    assert pd.read_csv(tmp_path / "t.csv")["worst_site"].iloc[0] <= pd.read_csv(tmp_path / "t.csv")["mean"].iloc[0]
    done = run("compare", tmp_path / "khan.h5ad", "--target", "tumor_class", "--site-key", "hospital")
    assert done.returncode == 2
    assert "did you mean 'tumour_class'" in done.stderr


def test_model_show_and_relock(khan_sites: dict[str, AnnData], tmp_path: Path) -> None:
    ring, identity = Keyring.create(), Identity.create()
    identity.save(tmp_path / "me.key")
    ring.save(tmp_path / "consortium.key", recipients=identity)
    fit = infl.tl.fit_federated(khan_sites, target="tumour_class", key=ring, rounds=1, progress=False)
    fit.save(tmp_path / "old.safetensors")
    shown = run("model", "show", tmp_path / "old.safetensors").stdout
    for text in ("classifier", ring.fingerprint(), "site_1", "strength 1"):
        assert text in shown
    ring.rotate()
    ring.save(tmp_path / "consortium.key", recipients=identity, overwrite=True)
    done = run(
        "model", "relock", tmp_path / "old.safetensors", "--out", tmp_path / "new.safetensors",
        "--key", tmp_path / "consortium.key", "--identity", tmp_path / "me.key",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert infl.load_model(tmp_path / "new.safetensors").header.key_version == 2
    again = run(
        "model", "relock", tmp_path / "old.safetensors", "--out", tmp_path / "new.safetensors",
        "--key", tmp_path / "consortium.key", "--identity", tmp_path / "me.key",
    )  # fmt: skip
    assert again.returncode == 2
    assert "exists" in again.stderr
    trail = Keyring.load(tmp_path / "consortium.key", identity=tmp_path / "me.key").trail.to_frame()
    assert trail["action"].tolist()[-1] == "relock"


@pytest.mark.slow
def test_demonstration_makes_all_that_it_promises(tmp_path: Path) -> None:
    done = run("demo", "--out", tmp_path / "out", "--seeds", 1)
    assert done.returncode == 0, done.stderr
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {f"site_{i}.h5ad" for i in range(1, 6)} <= names
    assert {
        "model.infl.safetensors",
        "comparison.csv",
        "report.html",
        "report.model_card.json",
        "report.data_sheet.json",
        "lock.png",
        "comparison.png",
        "tsne.png",
    } <= names
    adata = anndata.read_h5ad(tmp_path / "out" / "site_1.h5ad")
    assert adata.obsm["X_infl"].shape == (adata.n_obs, 64)
    table = (
        pd.read_csv(tmp_path / "out" / "comparison.csv")
        .query("metric == 'balanced_accuracy'")
        .set_index("method")["mean"]
    )
    assert table["infl"] == pytest.approx(table["fedavg"], abs=0.02)
    assert table["infl"] > 0.9
    assert table[["infl_wrong_key", "infl_no_key"]].max() < 0.45
    page = (tmp_path / "out" / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert page.count("<img alt=") == 3  # comparison, lock, rounds
    assert (
        "not reported" not in page
    )  # the tumours are public, so each hospital's four or so test tumours may be told of
    assert done.stdout.count("chance") == 1
