"""Writing files so that a reader finds the old one or the new one, never half of one; reading data files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from infl.errors import FileError

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn an ``OSError`` into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot {doing} {path}: {error.strerror or error}") from error


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

    path = Path(path)
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
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path


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
    """Read an h5ad or h5mu file, or say in one line why not."""
    with explained(path, "read"), path.open("rb"):
        pass
    try:
        if path.suffix == ".h5mu":
            import mudata

            return mudata.read_h5mu(path)
        import anndata

        return anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise FileError(f"{path} cannot be read as h5ad or h5mu: {error}") from error
