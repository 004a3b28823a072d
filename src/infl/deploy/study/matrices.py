"""The matrices of a working object, each in a file that is named after its content: one that a step left as it was is not written again.

A matrix that a step was given and left as it was is not read again for the next one. Where a step broke off, nobody knows what it did to
its matrices, and all are read from their files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata import AnnData
from anndata.io import read_elem, write_elem
from scipy import sparse

from infl._files import explained, write_atomic
from infl.data.columns import layer_names
from infl.errors import FileError

KINDS = (np.ndarray, sparse.csr_matrix, sparse.csc_matrix)
"""Types of matrices that files give back as they were; an object with others is written as a whole."""
_LENGTH = 32


def matrices_of(adata: AnnData) -> dict[str, Any]:
    """Return an object's matrices by name, ``""`` for `X`; none where one of them is of another kind."""
    found = ({} if adata.X is None else {"": adata.X}) | {name: adata.layers[name] for name in layer_names(adata)}
    plain = all(type(matrix) in KINDS and matrix.dtype.kind in "biuf" for matrix in found.values())
    return found if plain and not adata.isbacked else {}


@contextmanager
def without(adata: AnnData, names: Mapping[str, Any]) -> Iterator[None]:
    """Take matrices out of an object for a while."""
    layers = {name: adata.layers[name] for name in layer_names(adata)}
    if "" in names:
        adata.X = None
    for name in set(names) - {""}:
        del adata.layers[name]
    try:
        yield
    finally:
        put(adata, {"": names[""]} if "" in names else {})
        for name in layer_names(adata):
            del adata.layers[name]
        put(adata, layers)


def put(adata: AnnData, matrices: Mapping[str, Any]) -> None:
    """Put matrices into an object, by name."""
    for name, matrix in matrices.items():
        if name:
            adata.layers[name] = matrix
        else:
            adata.X = matrix


def content_of(matrix: Any) -> str:
    """Return a digest of a matrix: its kind, type, shape and values.

    Examples
    --------
    >>> content_of(np.eye(2)) == content_of(np.eye(2).copy()) != content_of(np.eye(2, dtype="f4"))
    True
    """
    is_sparse = sparse.issparse(matrix)
    parts = [matrix.data, matrix.indices, matrix.indptr] if is_sparse else [matrix]
    digest = hashlib.sha256(f"{matrix.format if is_sparse else 'dense'} {matrix.shape}".encode())
    for part in parts:
        digest.update(f" {part.dtype.str} {part.shape} ".encode())
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:_LENGTH]


class Matrices:
    """The files of matrices in a folder.

    Parameters
    ----------
    folder
        Where they are; files of others there are left alone.
    site
        The site's name, for messages.
    """

    def __init__(self, folder: Path, site: str) -> None:
        self.folder, self.site = folder, site
        self._given: dict[str, Any] = {}  # from files, by content
        self._left: dict[str, Any] = {}  # of these, what the last step wrote as it was given

    def path(self, content: str) -> Path:
        """Return the file of a content."""
        return self.folder / f"matrix_{content}.h5"

    def write(self, matrices: Mapping[str, Any]) -> dict[str, str]:
        """Write those that are in no file yet, and return the contents of all by name."""
        contents = {name: content_of(matrix) for name, matrix in matrices.items()}
        for name, content in contents.items():
            if not self.path(content).exists():
                _write(self.path(content), matrices[name])
        now = {id(matrix): contents[name] for name, matrix in matrices.items()}
        self._left = {content: m for content, m in self._given.items() if now.get(id(m)) == content}
        return contents

    def read(self, contents: Mapping[str, str]) -> dict[str, Any]:
        """Return matrices by name.

        Raises
        ------
        FileError
            One is not as it was written.
        """
        found: dict[str, Any] = {}
        self._given, left, self._left = {}, self._left, {}
        for name, content in contents.items():
            if content in self._given:
                found[name] = self._given[content].copy()
                continue
            held = left.get(content)
            found[name] = self._given[content] = self._from_file(content) if held is None else held
        return found

    def remove_others(self, contents: Mapping[str, str]) -> None:
        """Remove the files of all other contents."""
        kept = {self.path(content).name for content in contents.values()}
        for path in self.folder.glob("matrix_*.h5"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _from_file(self, content: str) -> Any:
        path = self.path(content)
        with explained(path, "read"), h5py.File(path, "r") as file:
            matrix = read_elem(file["matrix"])
        if content_of(matrix) != content:
            raise FileError(f"{self.site}: {path} is not as the last step left it: begin a new study")
        return matrix


def _write(path: Path, matrix: Any) -> None:
    def content(part: Path) -> None:
        with h5py.File(part, "w") as file:
            write_elem(file, "matrix", matrix)

    write_atomic(path, content, mode=0o600)
