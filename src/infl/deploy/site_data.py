"""A site's data file, and the settings that name it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infl._files import explained
from infl.errors import FileError

if TYPE_CHECKING:
    from infl._types import Data


@dataclass(frozen=True)
class SiteSettings:
    """What ``infl site start`` was given.

    Attributes
    ----------
    name
        As enrolled.
    data
        h5ad or h5mu file.
    key
        The site's key ring, empty for runs without one.
    identity
        The site's identity file: opens the ring, and shows in runs who it is (empty: the user's own).
    expects
        Digest of the specification in the site's own copy of ``run.toml`` (empty: the policy alone decides).
    stamp
        Size and time of the data file when it was named (empty: any).
    curves
        Folder for TensorBoard (empty: no curves are written).
    """

    name: str
    data: str
    key: str = ""
    identity: str = ""
    expects: str = ""
    stamp: str = ""
    curves: str = ""

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> SiteSettings:
        """Return settings from plain values; all of them are texts."""
        if not all(isinstance(value, str) for value in raw.values()):
            raise TypeError
        return cls(**raw)


def stamp(path: Path) -> str:
    """Return size and time of a file, or of all files of a zarr store: they show whether it changed."""
    with explained(path, "read"):
        facts = [p.stat() for p in ((path, *path.rglob("*")) if path.is_dir() else (path,))]
    return f"{sum(f.st_size for f in facts)}:{max(f.st_mtime_ns for f in facts)}"


def read_site(path: Path, name: str) -> Data:
    """Read a site's data."""
    from infl._files import read_data

    try:
        return read_data(path)
    except FileError as error:
        raise FileError(f"{name}: {error}") from None
