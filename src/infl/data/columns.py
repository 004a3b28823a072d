"""Finding a column of ``obs`` by name, with a useful answer when it is not there."""

import re
from difflib import get_close_matches

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from infl._parameters import NO_VALUE
from infl.errors import DataError

_SHOWN = 3
LARGEST = 1e15
"""Size of numbers in a column; beyond it they have no more digits after the point, and their squares spoil sums."""


def obs_column(adata: AnnData | MuData, name: str, *, where: str, role: str) -> pd.Series:
    """Return the column `name` of ``obs``, free of missing values.

    Parameters
    ----------
    adata
        The object.
    name
        Name of the column.
    where
        The object's name in messages, e.g. ``"site_2"``.
    role
        The argument that names the column, e.g. ``"target"``.

    Returns
    -------
    Series
        The column.

    Raises
    ------
    DataError
        There is no such column (with the nearest name), or it has missing values.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.obs_column(sites["site_1"], "tumour_class", where="site_1", role="target").name
    'tumour_class'
    """
    values = _column(adata, name, where, role)
    missing = missing_values(values)
    if missing.any():
        raise DataError(
            f"{role} {name!r} has no value for {int(missing.sum())} of {len(values)} observations at {where}; "
            "fill them in or drop those observations"
        )
    return values


def _column(adata: AnnData | MuData, name: str, where: str, role: str) -> pd.Series:
    if name not in adata.obs.columns:
        raise DataError(f"{role} {name!r} is missing in obs of {where}; {_alternatives(name, adata.obs.columns)}")
    values = adata.obs[name]
    if isinstance(values, pd.DataFrame):
        raise DataError(f"{role} {name!r} is the name of {values.shape[1]} columns in obs of {where}; rename one")
    return values


def missing_values(values: pd.Series) -> np.ndarray:
    """Return where a column has no value (n,): None, NaN, empty text, and the text that ``.astype(str)`` makes of NaN.

    Examples
    --------
    >>> missing_values(pd.Series(["a", None, " ", "nan", "None"])).tolist()
    [False, True, True, True, False]
    """
    missing = np.array(values.isna(), dtype=bool)  # a copy: pandas lends its own read-only
    if isinstance(values.dtype, pd.CategoricalDtype):
        empty = [str(category).strip() in NO_VALUE for category in values.cat.categories]
        return missing | np.append(np.asarray(empty, dtype=bool), True)[values.cat.codes.to_numpy()]
    if pd.api.types.is_numeric_dtype(values.dtype):
        return missing
    known = values[~missing].astype(str).str.strip()
    missing[~missing] = np.asarray(known.isin(NO_VALUE), dtype=bool)
    return missing


def numbers_of(adata: AnnData | MuData, name: str, site: str, role: str, *, partly: bool = False) -> np.ndarray:
    """Return a column of numbers, (n_obs,); what is missing is counted, and no patient named. With `partly` it is NaN.

    Raises
    ------
    DataError
        There is no such column, it has gaps, or words, dates or durations.
    """
    values = _column(adata, name, site, role)
    if kind := no_number(values):
        raise DataError(f"{role} {name!r} has {kind} where numbers are due, at {site}: {_AS_NUMBERS[kind]}")
    gaps = missing_values(values)
    if (missing := int(gaps.sum())) and not partly:
        raise DataError(
            f"{role} {name!r} has no value for {missing} of {len(values)} observations at {site}: fill them in, or leave those out"
        )
    plain = values.astype(object) if isinstance(values.dtype, pd.CategoricalDtype) else values
    try:
        found = plain.mask(gaps, np.nan).to_numpy(dtype=np.float64) if missing else plain.to_numpy(dtype=np.float64)
    except OverflowError:
        raise DataError(f"{role} {name!r} has numbers beyond 10³⁰⁸ at {site}: give it in larger units") from None
    except (TypeError, ValueError):
        words = int((pd.to_numeric(plain.astype(object), errors="coerce").isna().to_numpy() & ~gaps).sum())
        raise DataError(
            f"{role} {name!r} has words where numbers are due, at {site}, for {words} of {len(values)} observations: make them numbers"
        ) from None
    if large := int((np.isfinite(found) & (np.abs(found) > LARGEST)).sum()):
        raise DataError(
            f"{role} {name!r} is beyond {LARGEST:g} for {large} of {len(values)} observations at {site}: correct them, or give it in "
            "larger units"
        )
    return found


def has_numbers(values: pd.Series) -> bool:
    """Whether a column has numbers, which are no names of groups.

    Examples
    --------
    >>> has_numbers(pd.Series([1, 2])), has_numbers(pd.Series([True, False])), has_numbers(pd.Series(["1", "2"]))
    (True, False, False)
    """
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def no_number(values: pd.Series) -> str | None:
    """Return what a column has that converts to a number without being one: what it is then depends on how it is stored.

    Examples
    --------
    >>> no_number(pd.Series(pd.to_timedelta([1, 2], "D"))), no_number(pd.Series([1, 2]))
    ('durations', None)
    """
    kinds = pd.api.types
    if kinds.is_datetime64_any_dtype(values.dtype) or isinstance(values.dtype, pd.PeriodDtype):
        return "dates"
    if kinds.is_timedelta64_dtype(values.dtype):
        return "durations"
    return "complex numbers" if kinds.is_complex_dtype(values.dtype) else None


_AS_NUMBERS = {
    "dates": "give days or years since a date",
    "durations": "give days or years, e.g. by .dt.total_seconds() / 86400",
    "complex numbers": "give real ones",
}


def known_truths(values: object) -> tuple[np.ndarray, np.ndarray] | None:
    """Return truth values, False where one is missing, and where one is known; None if they are no truth values.

    A column of ``var`` misses values where :func:`infl.pp.harmonise` gave a site features that it did not measure.

    Examples
    --------
    >>> known_truths(pd.array([True, None], dtype="boolean"))
    (array([ True, False]), array([ True, False]))
    >>> known_truths(np.array([0, 1])) is None
    True
    """
    column = pd.Series(np.asarray(values) if not hasattr(values, "dtype") else values)
    known = column.notna().to_numpy()
    if column.dtype == object and known.any() and all(isinstance(v, bool | np.bool_) for v in column[known]):
        column = column.astype("boolean")
    if not pd.api.types.is_bool_dtype(column.dtype) or isinstance(column.dtype, pd.CategoricalDtype):
        return None
    return column.fillna(False).to_numpy(dtype=bool), known


def layer_names(adata: AnnData) -> list[str]:
    """Return the names of the layers; anndata 0.13 lists ``X`` among them, under None."""
    return [name for name in adata.layers if name is not None]


def shortlist(names: list[str], shown: int = _SHOWN) -> str:
    """The first few names, quoted, and how many there are when that is not all."""
    text = ", ".join(repr(str(name)) for name in names[:shown])
    return text if len(names) <= shown else f"{text}, … ({len(names)} in all)"


def near_names(name: str, columns: pd.Index) -> list[str]:
    """Return the columns that a user may have meant, the nearest first, whatever the case and what joins words.

    Examples
    --------
    >>> near_names("Tumour class", pd.Index(["age", "tumour_class"]))
    ['tumour_class']
    """
    plain = {re.sub(r"[\W_]+", "", str(column).casefold()): str(column) for column in columns}
    wanted = re.sub(r"[\W_]+", "", name.casefold())
    near = [plain[key] for key in get_close_matches(wanted, plain, n=_SHOWN, cutoff=0.6)]
    return near + [
        column
        for key, column in plain.items()
        if column not in near and wanted and key and (wanted in key or key in wanted)
    ]


def _alternatives(name: str, columns: pd.Index) -> str:
    """What the user may have meant: near names, else what there is."""
    if near := near_names(name, columns):
        return f"did you mean {shortlist(near)}?"
    return f"it has {shortlist([str(column) for column in columns], shown=6)}" if len(columns) else "obs has no columns"
