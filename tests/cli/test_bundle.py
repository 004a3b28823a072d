"""What a machine without a package index needs, made and installed without one."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infl.cli.app import app
from infl.deploy.bundle import INSTALL, bundle, check_bundle
from infl.errors import FileError


def wheel(folder: Path, name: str, *requires: str, tag: str = "py3-none-any") -> Path:
    """Make a wheel with one module."""
    info, path = f"{name}-1.0.dist-info", folder / f"{name}-1.0-{tag}.whl"
    files = {
        f"{name}.py": f"NAME = {name!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        + "".join(f"Requires-Dist: {requirement}\n" for requirement in requires),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    rows = [
        f"{file},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for file, text in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that there is: pip looks nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "first", "second", "compiled")
    wheel(folder, "second")
    wheel(folder, "compiled", tag="cp311-cp311-manylinux_2_28_x86_64")
    wheel(folder, "unneeded")
    wheel(folder, "lonely", "nowhere")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


PLATFORM = ["--platform", "manylinux_2_28_x86_64", "--python", "3.11"]


def test_a_bundle_for_another_machine_is_whole_and_installs(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(app, ["bundle", "there", "--requirement", "first", *PLATFORM])
    assert done.exception is None, done.exception
    assert done.stdout == f"there: 3 wheels, 0 MB; there: `{INSTALL.format(folder='there')}`\n"
    assert {path.name.partition("-")[0] for path in Path("there").glob("*.whl")} == {"first", "second", "compiled"}
    assert CliRunner().invoke(app, ["bundle", "there", "--check"]).stdout == "there: 3 wheels, all whole\n"
    monkeypatch.delenv("PIP_FIND_LINKS")
    target = ["--target", "installed", "--platform", PLATFORM[1], "--python-version", "3.11", "--only-binary=:all:"]
    words = [sys.executable, "-m", *INSTALL.format(folder="there").split(), "--no-deps", *target]
    subprocess.run(words, check=True, capture_output=True)
    assert (Path("installed") / "second.py").read_text() == "NAME = 'second'\n"
    with pytest.raises(FileError, match="there exists: choose another folder"):
        bundle("first", Path("there"))


def test_what_is_not_there_is_named_and_nothing_is_left(index: Path) -> None:
    with pytest.raises(FileError, match="lonely cannot be bundled: No matching distribution found for nowhere"):
        bundle("lonely", Path("there"))
    assert sorted(path.name for path in Path().iterdir()) == ["index"]


def test_a_bundle_that_was_altered(tmp_path: Path) -> None:
    one, text = wheel(tmp_path, "one"), ""
    with pytest.raises(FileError, match=r"requirements\.txt"):
        check_bundle(tmp_path)
    text = f"one==1.0 --hash=sha256:{hashlib.sha256(one.read_bytes()).hexdigest()}\n"
    (tmp_path / "requirements.txt").write_text(text)
    assert check_bundle(tmp_path) == 1
    two = wheel(tmp_path, "two")
    with pytest.raises(FileError, match="two-1.0-py3-none-any.whl is missing, altered or added; copy it again"):
        check_bundle(tmp_path)
    two.unlink()
    one.write_bytes(one.read_bytes() + b"x")
    with pytest.raises(FileError, match="one.* is missing, altered or added"):
        check_bundle(tmp_path)
    one.unlink()
    with pytest.raises(FileError, match="one==1.0 is missing"):
        check_bundle(tmp_path)
