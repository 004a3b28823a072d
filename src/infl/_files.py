"""Writing files so that a reader finds the old one or the new one, never half of one; reading data files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from unicodedata import normalize
from urllib.parse import quote

from infl.errors import FileError

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

T = TypeVar("T")
UNSAFE = '%/\\:*?"<>|'
"""Characters that a file's name cannot have everywhere, and the one that stands for them."""
LONGEST = 200
"""Bytes of a file's name, which may get an ending."""


def file_name(name: str) -> str:
    """Return a site's name as the name of a file: one folder deep, different for different names.

    Raises
    ------
    FileError
        It is too long.

    Examples
    --------
    >>> file_name("site_1"), file_name("ward/1"), file_name("../../up")
    ('site_1', 'ward%2F1', '%2E.%2F..%2Fup')
    """
    safe = "".join(c if c.isprintable() and c not in UNSAFE else quote(c, safe="") for c in name)
    for place in (0, -1):  # a first dot hides a file, and some systems drop the last dot or blank
        if safe[place : place + 1 or None] in (".", " "):
            safe = f"%{ord(safe[place]):02X}{safe[1:]}" if place == 0 else f"{safe[:-1]}%{ord(safe[place]):02X}"
    if len(safe.encode()) > LONGEST:
        raise FileError(f"the name {name[:40]!r}… is too long for a file: give the site a shorter one")
    return safe


def check_file_names(names: Iterable[str]) -> None:
    """Refuse names that would be one file on disks that ignore capitals or how an accent is spelled.

    Raises
    ------
    FileError
        Which two they are.
    """
    seen: dict[str, str] = {}
    for name in names:
        folded = normalize("NFC", file_name(name)).casefold()
        if folded in seen:
            raise FileError(
                f"{seen[folded]!r} and {name!r} would have one file on some disks: give one of the sites another name"
            )
        seen[folded] = name


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn an ``OSError`` into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise FileError.of(f"cannot {doing} {path}", error) from error


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says; one whose lists lie too deep in one another is a ``ValueError``, as all other damage is.

    Examples
    --------
    >>> parse_json('{"rounds": 3}')
    {'rounds': 3}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists too deep in one another") from None


def read_own(path: Path, build: Callable[[Any], T], then: str) -> T:
    """Return what `build` makes of a JSON file that infl wrote itself.

    Parameters
    ----------
    path
        The file.
    build
        Called with what is in it; may raise what Python raises for values of other kinds.
    then
        What a person does where the file is damaged.

    Raises
    ------
    FileError
        It cannot be read, or is damaged.
    """
    with explained(path, "read"):
        content = path.read_bytes()
    try:
        return build(parse_json(content))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError):
        raise FileError(f"{path} is damaged: {then}") from None


@contextmanager
def locked(folder: Path, name: str = "lock") -> Iterator[None]:
    """Keep other processes away from a folder for a moment, those that lock it by the same file, too."""
    with explained(folder, "lock"):
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        except ImportError:  # Windows
            pass
        yield
    finally:
        os.close(handle)


def write_atomic(
    path: str | Path, content: bytes | Callable[[Path], None], *, overwrite: bool = False, mode: int = 0o644
) -> Path:
    """Write a file beside `path`, flush it to disk and put it in place in one step.

    Parameters
    ----------
    path
        Where; its folder must exist.
    content
        The bytes, or a function that writes them to the path that it is given.
    overwrite
        Replace a file that exists.
    mode
        Permissions of the new file.

    Raises
    ------
    FileError
        The file exists, or cannot be written (full disk, no permission); nothing is left behind.
    """
    import tempfile  # what it needs takes milliseconds to import

    path = Path(path).expanduser()
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists: choose another name or pass overwrite=True")
    with explained(path, "write"):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        part = Path(name)
        try:
            os.fchmod(handle, mode)
            if callable(content):
                content(part)
            else:
                view = memoryview(content)
                while view:
                    view = view[os.write(handle, view) :]
            os.fsync(handle)
            _place(part, path, overwrite=overwrite)
        finally:
            os.close(handle)
            with suppress(FileNotFoundError):
                part.unlink()
        sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files survive a power cut."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _place(part: Path, path: Path, *, overwrite: bool) -> None:
    if not overwrite:
        # a link does not replace a file that another process has put there meanwhile; some file systems have none
        with suppress(OSError):
            os.link(part, path)
            return
        if path.exists():
            raise FileError(f"{path} exists: choose another name or pass overwrite=True")
    os.replace(part, path)


def read_data(path: Path) -> AnnData | MuData:
    """Read an h5ad or h5mu file or a zarr store of either, or say in one line why not."""
    with explained(path, "read"):
        stored = path.is_dir() and any((path / name).exists() for name in (".zgroup", "zarr.json"))
        if not stored:
            with path.open("rb"):
                pass
    try:
        if stored or path.suffix == ".h5mu":
            import mudata

            if not stored:
                return mudata.read_h5mu(path)
            return mudata.read_zarr(path) if (path / "mod").is_dir() else _anndata().read_zarr(path)
        return _anndata().read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise FileError(f"{path} cannot be read as h5ad, h5mu or zarr: {reason}") from error


def write_data(path: Path, data: AnnData | MuData) -> Path:
    """Write data in the format that the name of a new file says: ``.h5ad``, ``.h5mu`` or ``.zarr``."""
    check_data_name(path, data)
    if path.suffix != ".zarr":
        return write_atomic(path, data.write_h5mu if hasattr(data, "mod") else data.write_h5ad)
    import tempfile

    with explained(path, "write"), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        data.write_zarr(Path(folder) / path.name)
        (Path(folder) / path.name).rename(path)
    return path


def check_data_name(path: Path, data: AnnData | MuData) -> None:
    """Refuse a name that data cannot be written to, before any work."""
    known = (".h5mu" if hasattr(data, "mod") else ".h5ad", ".zarr")
    if path.suffix not in known:
        raise FileError(f"{path} is no name for these data: give it one that ends in {' or '.join(known)}")
    check_new(path)


def check_new(path: Path) -> None:
    """Refuse a file that exists, has no name, or whose folder does not exist, before any work."""
    if not path.name:
        raise FileError(f"{str(path)!r} is no name for a file: choose one")
    if path.exists():
        raise FileError(f"{path} exists: choose another name")
    if not path.absolute().parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {path.parent}")


def _anndata() -> ModuleType:
    import anndata

    return anndata
