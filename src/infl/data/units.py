"""Telling raw counts, logarithms and scaled values apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from infl._warn import warn
from infl.data.values import in_rows
from infl.errors import DataError

KINDS = ("raw counts", "logarithms", "normalised counts", "scaled values")
"""Kinds of values that are distinguished."""

_LOOKED_AT = 1 << 20  # values
_LARGEST_LOG = 50.0  # log2 of 10¹⁵; intensities of mass spectrometers end at 10¹³
_OFTEN_NEGATIVE = 0.05


def units_of(adata: AnnData, layer: str | None = None) -> str | None:
    """Say what kind of values a matrix has, from a million of them at most.

    The values decide, and no ``uns["log1p"]``, which may be left over from another matrix.

    Returns
    -------
    str or None
        ``"raw counts"``: whole numbers, none negative. ``"scaled values"``: of those that are not 0, one in
        twenty or more is negative.
        ``"logarithms"``: broken numbers, none negative, up to 50. ``"normalised counts"``: broken numbers, none
        negative, larger. None where that is not clear: all 0, or a few negative values only.
    """
    values = _some_values(adata, layer)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    if (negative := np.count_nonzero(values < 0)) > 0:
        return "scaled values" if negative >= _OFTEN_NEGATIVE * len(values) else None
    if np.array_equal(values, np.rint(values)):
        return "raw counts"
    return "logarithms" if values.max() <= _LARGEST_LOG else "normalised counts"


def log_base(bases: Mapping[str, float | None]) -> float | None:
    """Return the one base of the sites' logarithms, None for e, from what ``uns["log1p"]`` says at each.

    Raises
    ------
    infl.errors.DataError
        Two sites have different ones.
    """
    first = next(iter(bases))
    for site, base in bases.items():
        if base != bases[first]:
            raise DataError(
                f"uns['log1p']['base'] is {bases[first]} at {first} and {base} at {site}: take logarithms to one base"
            )
    return bases[first]


def has_negative(adata: AnnData, layer: str | None = None) -> bool:
    """Return whether one of a million values at most is negative, as none of a count is."""
    return bool((_some_values(adata, layer) < 0).any())


def check_units(units: Mapping[str, str | None], *, escape: str | None = None) -> None:
    """Refuse a mixture.

    Parameters
    ----------
    units
        By site (and modality).
    escape
        The argument that switches this check off, if there is one.

    Raises
    ------
    infl.errors.DataError
        Names one site of each kind.
    """
    if mixture := _mixture(units):
        raise DataError(mixture + (f", or set {escape} if they agree after all" if escape else ""))


def warn_of_units(units: Mapping[str, str | None]) -> None:
    """Warn of a mixture, where no argument allows one."""
    if mixture := _mixture(units):
        warn(mixture)


def _mixture(units: Mapping[str, str | None]) -> str | None:
    by_kind: dict[str, list[str]] = {}
    for where, kind in units.items():
        if kind is not None:
            by_kind.setdefault(kind, []).append(where)
    if len(by_kind) < 2:
        return None
    (rare, at), *_, (common, others) = sorted(by_kind.items(), key=lambda item: len(item[1]))
    more = f" (and {len(at) - 1} more)" if len(at) > 1 else ""
    return (
        f"values differ in kind: {at[0]}{more} has {rare}, {others[0]} has {common}; bring all sites to one (infl.pp.log1p, "
        "infl.pp.scale, or a layer with the raw counts)"
    )


def _some_values(adata: AnnData, layer: str | None) -> np.ndarray:
    """Values other than 0 of evenly spaced rows, however they are stored."""
    n_rows = max(1, min(adata.n_obs, _LOOKED_AT // max(1, adata.n_vars)))
    matrix: Any = adata.X if layer is None else adata.layers[layer]
    if matrix is None or 0 in adata.shape:
        return np.empty(0)
    rows = np.unique(np.linspace(0, adata.n_obs - 1, n_rows).astype(int))
    part = in_rows(matrix[rows] if n_rows < adata.n_obs else matrix[:])
    values = part.data if sparse.issparse(part) else part.ravel()
    return values[values != 0] if values.dtype.kind in "fiub" else np.empty(0)
