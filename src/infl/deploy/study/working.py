"""A site's working object in a study: a copy of its data, written after each step, and a journal of the steps that are kept.

Matrices are files of their own, so that a step writes those that it has changed and reads those that it has not read yet.

A step is kept in one stroke, when the journal names the new object. Until then the old one and the journal are what they were, so
a process that is killed at any place leaves a step that was not begun or one that is kept. Every step reads its object from the disk:
one that is run again begins with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anndata import AnnData
from pydantic import TypeAdapter

from infl._files import explained, parse_json, read_own, write_atomic
from infl.data.columns import layer_names
from infl.deploy.results import write_private
from infl.deploy.site_data import read_site, stamp
from infl.deploy.study.matrices import Matrices, matrices_of, put, without
from infl.errors import DataError, FileError

if TYPE_CHECKING:
    from infl._types import Data
    from infl.models.locked import LockedModel

JOURNAL = "journal.json"
CHUNK = 1 << 22


@dataclass(frozen=True)
class Journal:
    """What a site remembers of a study.

    Attributes
    ----------
    study
        Digest of its specification.
    stamp, data
        Size and time of the site's own file at the first step, and digest of its content.
    done
        Steps that are kept.
    object, digest
        Name and digest of the working object's file (empty: the site's own file, before the first step is kept).
    drawn
        By number of the step, in hexadecimal: what the site drew at random for it.
    said
        By number of the step: what the site said of its rules of disclosure when it began it.
    matrices
        Digests of the content of the object's matrices, by name, "" for `X`; each is a file beside the object's.
    """

    study: str
    stamp: str
    data: str
    done: int = 0
    object: str = ""
    digest: str = ""
    drawn: dict[str, str] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    matrices: dict[str, str] = field(default_factory=dict)


class Written(NamedTuple):
    """What a step has written and not kept yet: the object's file, its digest, and digests of its matrices."""

    path: Path
    digest: str
    matrices: Mapping[str, str] = {}


class WorkingObject:
    """The files of a study at a site.

    Parameters
    ----------
    folder
        Of the study, at the site.
    study
        Digest of its specification.
    source
        The site's own data file, which is only read.
    site
        The site's name, for messages.

    Raises
    ------
    FileError
        The journal is of another study.
    """

    def __init__(self, folder: Path, study: str, source: Path, site: str) -> None:
        self.folder, self.source, self.site = folder, source, site
        self._path, self._matrices = folder / JOURNAL, Matrices(folder, site)
        if not self._path.exists():
            self._save(Journal(study, stamp(source), digest_of(source)))
            return
        then = "put it back from a backup; without it the study cannot go on here"
        self._journal = read_own(self._path, TypeAdapter(Journal).validate_python, then)
        if self._journal.study != study:
            raise FileError(f"{site}: {folder} has another study")

    def check_source(self) -> None:
        """Refuse to go on where the site's own file is not what the study began with.

        Raises
        ------
        DataError
            It has changed.
        """
        if stamp(self.source) != self._journal.stamp and digest_of(self.source) != self._journal.data:
            raise DataError(
                f"{self.site}: {self.source} has changed since the study began: put the file back as it was, or begin a new study"
            )

    @property
    def done(self) -> int:
        """Number of steps that are kept."""
        return self._journal.done

    @property
    def path(self) -> Path:
        """The file that the next step begins with."""
        return self.folder / self._journal.object if self._journal.object else self.source

    def read(self) -> AnnData:
        """Return the object that the next step begins with.

        Raises
        ------
        DataError
            It is no AnnData.
        FileError
            It is not as it was written.
        """
        self._check_object()
        data: Data = read_site(self.path, self.site)
        if not isinstance(data, AnnData):
            raise DataError(
                f"{self.site}: a study works on AnnData, and {self.source} is MuData: write one modality to a file"
            )
        matrices = self._matrices.read(self._journal.matrices)
        if {*matrices} - {""}:  # in the order that they had
            matrices |= {name: data.layers.pop(name) for name in layer_names(data)}
        put(data, matrices)
        return data

    def copy_to(self, out: Path) -> None:
        """Copy the object to a new file."""
        self._check_object()

        def copy(part: Path) -> None:
            if self._journal.matrices:
                self.read().write_h5ad(part)
            else:
                shutil.copyfile(self.path, part)

        write_atomic(out, copy, mode=0o600)

    def _check_object(self) -> None:
        if (
            not self._journal.object
        ):  # sites may wait for each other for days between the study's beginning and its first step
            self.check_source()
        if self._journal.object and digest_of(self.path) != self._journal.digest:
            raise FileError(f"{self.site}: {self.path} is not as the last step left it: begin a new study")

    def drawn(self, step: int) -> bytes:
        """Return the site's random bytes for a step; they are on disk before anything is sent under them."""
        if str(step) not in self._journal.drawn:
            self._save(replace(self._journal, drawn={str(step): os.urandom(32).hex()}))
        return bytes.fromhex(self._journal.drawn[str(step)])

    def said(self, step: int, now: Callable[[], Any]) -> Any:
        """Return what the site says at the beginning of a step, which is what it said when it began it first."""
        if str(step) not in self._journal.said:
            self._save(replace(self._journal, said={str(step): now()}))
        return self._journal.said[str(step)]

    def write(self, step: int, adata: AnnData) -> Written:
        """Write what a step made, without keeping it yet."""
        path, matrices = self.folder / f"step_{step + 1:04}.h5ad", matrices_of(adata)
        contents = self._matrices.write(matrices)
        with without(adata, matrices):
            write_atomic(path, adata.write_h5ad, overwrite=True, mode=0o600)
        return Written(path, digest_of(path), contents)

    def write_model(self, step: int, model: LockedModel) -> None:
        """Write what a step fitted, locked; a step that runs again writes the same."""
        model.save(self.folder / _model_name(step), overwrite=True)

    def models(self) -> dict[int, Path]:
        """Return the files of the models that were fitted, by the number of the step, from 1."""
        found = {step + 1: self.folder / _model_name(step) for step in range(self.done)}
        return {number: path for number, path in found.items() if path.exists()}

    def write_opened(self, step: int, opened: Mapping[str, Mapping[str, int]]) -> None:
        """Write how many numbers of each sum of a step were opened, and how many each rule of disclosure closed."""
        write_private(self.folder / f"opened_{step + 1:04}.json", json.dumps(opened).encode())

    def opened(self) -> dict[int, dict[str, dict[str, int]]]:
        """Return what :meth:`write_opened` wrote of the steps that are kept, by the number of the step, from 1."""
        paths = {number: self.folder / f"opened_{number:04}.json" for number in range(1, self.done + 1)}
        return {number: parse_json(path.read_text()) for number, path in paths.items() if path.exists()}

    def clear(self) -> None:
        """Remove what steps wrote that were not kept; for the process that does the steps, since others may look on meanwhile."""
        for part in self.folder.glob(".*.part"):  # of a file that a killed process was writing
            part.unlink(missing_ok=True)
        self._remove_others()

    def keep(self, step: int, written: Written) -> None:
        """Keep a step: the next one begins with what it wrote."""
        path, digest, matrices = written
        drawn = {str(step + 1): os.urandom(32).hex()}  # for the next step, in the same stroke
        done = replace(self._journal, done=step + 1, object=path.name, digest=digest, matrices=dict(matrices))
        self._save(replace(done, drawn=drawn))
        self._remove_others()

    def _save(self, journal: Journal) -> None:
        write_private(self._path, json.dumps(asdict(journal), indent=1).encode())
        self._journal = journal

    def _remove_others(self) -> None:
        for path in self.folder.glob("step_*.h5ad"):
            if path.name != self._journal.object:
                path.unlink(missing_ok=True)
        self._matrices.remove_others(self._journal.matrices)


def _model_name(step: int) -> str:
    return f"model_{step + 1:04}.infl.safetensors"


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a zarr store with their names."""
    digest = hashlib.sha256()
    with explained(path, "read"):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{file.relative_to(path)}\n{file.stat().st_size}\n".encode() if path.is_dir() else b"")
            with file.open("rb") as content:
                while part := content.read(CHUNK):
                    digest.update(part)
    return digest.hexdigest()
