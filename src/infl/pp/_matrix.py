"""One matrix at every site, read block by block; what all federated preprocessing begins and ends with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from infl._lazy import computed
from infl.data.check import PRESENT_COLUMN, check_object, check_site_names, check_values
from infl.data.consortium import agreed, alongside
from infl.data.copy import own
from infl.data.units import units_of
from infl.data.values import blocks, in_rows
from infl.errors import DataError, SettingsError

if TYPE_CHECKING:
    import pandas as pd

    from infl.keys import Keyring


@dataclass(frozen=True)
class SiteMatrix:
    """``X`` or a layer of one site.

    Attributes
    ----------
    site, adata, layer
        Where it is.
    present
        Which features the site measured, (n_vars,); the others are filled with 0 (see :func:`infl.pp.harmonise`).
    """

    site: str
    adata: AnnData
    layer: str | None
    present: np.ndarray

    @property
    def n_obs(self) -> int:
        """Number of observations."""
        return int(self.adata.n_obs)

    @property
    def stored(self) -> Any:
        """The matrix as it is stored, which may be on disk or yet to be computed."""
        return self.adata.X if self.layer is None else self.adata.layers[self.layer]

    @property
    def raw(self) -> Any:
        """The matrix as it is stored; in memory, if it was yet to be computed."""
        return computed(self.stored)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray | sparse.csr_matrix]]:
        """Rows, and their values as :func:`infl.data.values.in_rows` gives them, in the type that they are stored in."""
        start = 0
        for block in blocks(self.adata, self.layer):
            rows = slice(start, start + block.shape[0])
            yield rows, in_rows(block)
            start = rows.stop


def matrices(
    sites: Mapping[str, AnnData], layer: str | None, key: Keyring | None, *, rewrite: bool = False, masked: bool = False
) -> Mapping[str, SiteMatrix]:
    """Check all sites and return their matrices; alters nothing.

    Parameters
    ----------
    sites
        AnnData by site name, with the same features in the same order.
    layer
        Which layer (None: ``X``).
    key
        Key ring or None.
    rewrite
        The matrix is to be replaced, which needs it in memory.
    masked
        NaN stands for a value that is missing.

    Raises
    ------
    infl.errors.DataError
        One line: what is wrong at which site.
    """
    check_site_names(sites)
    for site, adata in sites.items():
        if not isinstance(adata, AnnData):
            raise DataError(
                f"{site} is {type(adata).__name__}, and this works on AnnData: take one modality, e.g. "
                "{site: mdata['rna'] for site, mdata in sites.items()}"
            )
        check_object(adata, site, layer)
        if not adata.n_vars:
            raise DataError(f"{site} has no features: give an object with values of some")
        if adata.isbacked and (rewrite or adata.is_view):
            raise DataError(f"{site} is backed and would be rewritten: replace it in sites by its .to_memory()")
    panels = agreed(
        sites, "features", {site: [str(adata.n_vars), _digest(adata.var_names)] for site, adata in sites.items()}
    )
    first = next(iter(panels))
    for site, (n_vars, digest) in panels.items():
        if digest != panels[first][1]:
            raise DataError(
                f"features of {site} ({n_vars}) are not those of {first} ({panels[first][0]}), in that order: "
                "call infl.pp.harmonise(sites) first"
            )
        if site in sites:
            check_values(sites[site], layer, site, sites[site].var_names, masked=masked)
    return alongside(
        sites, {site: SiteMatrix(site, adata, layer, presence(adata.var)) for site, adata in sites.items()}
    )


def _digest(names: pd.Index) -> str:
    """Digest of names in their order."""
    text = "".join(f"{len(name)}:{name}" for name in map(str, names))
    return hashlib.sha256(text.encode()).hexdigest()


def kinds(at: Mapping[str, SiteMatrix]) -> dict[str, str | None]:
    """What kind of values each site has: counts, logarithms, scaled values; None where that is not clear."""
    return agreed(at, "kinds of values", {site: units_of(matrix.adata, matrix.layer) for site, matrix in at.items()})


def refuse_negative(matrix: SiteMatrix, name: str) -> None:
    """Refuse a matrix with negative values, which are no counts; `name` is the function that takes counts."""
    for _, block in matrix.blocks():
        values: Any = block.data if sparse.issparse(block) else block
        if values.size and values.min() < 0:
            raise DataError(
                f"{matrix.layer or 'X'} of {matrix.site} has negative values, and {name} is for counts: give the layer with them"
            )


def presence(var: pd.DataFrame) -> np.ndarray:
    """Which features were measured, (n_vars,)."""
    if PRESENT_COLUMN not in var.columns:
        return np.ones(len(var), dtype=bool)
    return var[PRESENT_COLUMN].fillna(False).to_numpy(dtype=bool)


def put(adata: AnnData, layer: str | None, matrix: Any) -> None:
    """Replace the matrix."""
    if layer is None:
        own(adata).X = matrix
    else:
        own(adata).layers[layer] = matrix


def copies(sites: Mapping[str, AnnData], copy: bool) -> Mapping[str, AnnData]:
    """Return the sites, or copies of them in memory."""
    if not copy or not isinstance(sites, Mapping):
        return sites
    copied = {
        site: (adata.to_memory() if adata.isbacked else adata.copy()) if isinstance(adata, AnnData) else adata
        for site, adata in sites.items()
    }
    return alongside(sites, copied)


def real_type(dtype: str) -> np.dtype:
    """Return the type of real numbers of this name.

    Examples
    --------
    >>> real_type("float32")
    dtype('float32')
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found.kind != "f":
        raise SettingsError(f"dtype={dtype!r}: give a type of real numbers, e.g. 'float32'")
    return found
