"""A folder with everything that a machine without a package index needs to install infl: wheels, and their hashes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from infl._files import explained, write_atomic
from infl.errors import FileError, SettingsError

REQUIREMENTS = "requirements.txt"
INSTALL = "pip install --no-index --find-links {folder} --require-hashes -r {folder}/" + REQUIREMENTS


def bundle(
    requirement: str,
    out: Path,
    *,
    platforms: Sequence[str] = (),
    python: str = "",
    constraint: Path | None = None,
    extra_index: str = "",
) -> list[Path]:
    """Download wheels with pip, and write their hashes; return the wheels.

    Parameters
    ----------
    requirement
        ``"infl[flare]"``, or a wheel of infl with extras, ``"dist/infl-1.0-py3-none-any.whl[flare]"``.
    out
        Folder that is made.
    platforms
        Of the machine, as wheels name it, the newest first: ``"manylinux_2_28_x86_64"``; none: one like this.
    python
        Its version of Python, ``"311"`` (empty: this one).
    constraint
        File with the versions to take.
    extra_index
        Another index, e.g. with PyTorch for processors alone.

    Raises
    ------
    FileError
        The folder exists, or something is not there as a wheel; nothing is left of it then.
    """
    if out.exists():
        raise FileError(f"{out} exists: choose another folder")
    part = out.with_name(f".{out.name}.part")
    command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--dest", str(part), requirement]
    for platform in platforms:
        command += ["--platform", platform]
    command += ["--python-version", python] if python else []
    command += ["--constraint", str(constraint)] if constraint is not None else []
    command += ["--extra-index-url", extra_index] if extra_index else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            wrong = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            raise FileError(f"{requirement} cannot be bundled: {wrong[-1].removeprefix('ERROR: ')}")
        with explained(part, "read"):
            wheels = sorted(part.glob("*.whl"))
        lines = [_line(wheel) for wheel in wheels]
        write_atomic(part / REQUIREMENTS, "".join(lines).encode())
        with explained(out, "write"):
            part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [out / wheel.name for wheel in wheels]


def check_bundle(folder: Path) -> int:
    """Return how many wheels a bundle has, each as its hash says.

    Raises
    ------
    FileError
        One is missing, altered, or not among the hashes.
    """
    path = folder / REQUIREMENTS
    with explained(path, "read"):
        expected = sorted(path.read_text().splitlines(keepends=True))
    found = {_line(wheel): wheel.name for wheel in folder.glob("*.whl")}
    if wrong := sorted(set(found) ^ set(expected)):
        name = found.get(wrong[0], wrong[0].partition(" ")[0])
        raise FileError(f"{folder} is not as it was bundled: {name} is missing, altered or added; copy it again")
    return len(found)


def _line(wheel: Path) -> str:
    try:
        name, version, *_ = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename:
        raise SettingsError(f"{wheel} is no wheel: remove it") from None
    with explained(wheel, "read"), wheel.open("rb") as file:
        return f"{name}=={version} --hash=sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}\n"
