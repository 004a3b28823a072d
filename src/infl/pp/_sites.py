"""The data of several sites: a dict of objects, or one object with a column that says where a row is from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api.types import union_categoricals
from scipy import sparse

from infl._parameters import SITE_NAME, Kind, door, shown
from infl.errors import DataError, SettingsError
from infl.pp._columns import obs_column
from infl.pp._copy import own as own_object
from infl.pp._labels import label_text

if TYPE_CHECKING:
    from infl._types import Data

P = ParamSpec("P")
R = TypeVar("R")


def as_sites(sites: Mapping[str, Data] | Data, site_key: str | None) -> dict[str, Data]:
    """Return the sites' data by name, from a mapping or from one object and its site column."""
    if isinstance(sites, Mapping):
        if site_key is not None:
            raise SettingsError("site_key= goes with one object; these sites are already apart: leave site_key out")
        if not sites:
            raise DataError("sites={}: give the sites' data by name")
        wrong = [name for name, adata in sites.items() if not hasattr(adata, "obs_names")]
        if wrong:
            raise DataError(f"sites[{wrong[0]!r}]={shown(sites[wrong[0]])}: give an AnnData or MuData for each site")
        return {SITE_NAME.read("site name", name): adata for name, adata in sites.items()}
    if not hasattr(sites, "obs_names"):
        remedy = "; read a file with anndata.read_h5ad(path)" if isinstance(sites, str | Path) else ""
        raise DataError(
            f"sites= takes a dict of AnnData or MuData, or one of them with site_key=, not {type(sites).__name__}{remedy}"
        )
    return {name: sites[rows] for name, rows in _rows(sites, site_key).items()}


def over_sites(**own: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function that works on a dict of sites take one object with ``site_key=``, too, and check its arguments.

    Of one object, each site's rows are handed over as a view, and what the function wrote at the sites is put together in
    the object. With ``copy=True`` that is a copy, which is returned.

    Parameters
    ----------
    **own
        Kinds of parameters, see :func:`infl._parameters.door`.
    """

    def taking(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            sites, *rest = args
            site_key = kwargs.get("site_key")
            if isinstance(sites, Mapping) and site_key is None:
                return function(*args, **kwargs)
            parts = as_sites(sites, site_key)
            if any(getattr(table, "isbacked", False) for table in (sites, *getattr(sites, "mod", {}).values())):
                raise DataError(
                    "sites= is one object on disk, and its sites' rows cannot be written there: pass .to_memory()"
                )
            copied = bool(kwargs.get("copy"))
            options = kwargs | {"site_key": None} | ({"copy": False} if copied else {})
            result = function(parts, *rest, **options)  # type: ignore[arg-type]
            whole = sites.copy() if copied else own_object(sites)
            _gather(whole, list(parts.values()), list(_rows(whole, site_key).values()))
            return whole if copied else result

        return door(**own)(call)

    return taking


def _rows(adata: Data, site_key: str | None) -> dict[str, np.ndarray]:
    """Which rows are of which site; in the order of names."""
    if site_key is None:
        raise SettingsError(
            "sites= is one object: pass site_key=, the obs column that says which site a row belongs to"
        )
    names = label_text(obs_column(adata, site_key, where="the data", role="site_key"))
    for name in names.unique():
        SITE_NAME.read("site name", name, f"column {site_key!r}: ")
    return {name: np.flatnonzero((names == name).to_numpy()) for name in sorted(names.unique())}


def _gather(whole: Data, parts: list[Data], rows: list[np.ndarray]) -> None:
    """Write into one object what was written at its parts, (n_part,) rows of it each."""
    back = np.argsort(np.concatenate(rows))
    first = parts[0]
    masks = getattr(whole, "mod", {})  # mudata keeps one a modality in obsm
    for modality, table in masks.items():
        of_modality = [part.mod[modality] for part in parts if modality in part.mod]
        _gather(table, of_modality, [table.obs_names.get_indexer(part.obs_names) for part in of_modality])
    if isinstance(whole, AnnData):
        if first.n_vars < whole.n_vars:
            whole._inplace_subset_var(whole.var_names.isin(first.var_names))
        elif not whole.var_names.equals(first.var_names):
            whole.var_names = first.var_names
        if whole.X is not None and not _same(new := _joined([part.X for part in parts], back), whole.X):
            whole.X = new
    for slot in ("obs", "obsm", "layers"):
        if (held := getattr(whole, slot, None)) is None:
            continue
        for name in [name for name in getattr(first, slot) if name is not None and name not in masks]:
            new = _joined([getattr(part, slot)[name] for part in parts], back)
            if name not in held or not _same(new, held[name]):
                held[name] = new.array if isinstance(new, pd.Series) else new  # names of rows may be there twice
    for slot in ("var", "varm", "uns"):
        _update(getattr(whole, slot), getattr(first, slot))
    for name in [name for name in whole.uns if name not in first.uns]:
        del whole.uns[name]


def _update(held: Any, new: Any) -> None:
    for name in list(new):
        if name not in held or not _same(new[name], held[name]):
            held[name] = new[name]


def _joined(values: list[Any], back: np.ndarray) -> Any:
    """Rows of several arrays or columns, one below the other, then in the order `back`."""
    first = values[0]
    if isinstance(first, pd.Series) and all(isinstance(value.dtype, pd.CategoricalDtype) for value in values):
        joined = union_categoricals(values, ignore_order=len({value.cat.ordered for value in values}) > 1)
        return pd.Series(joined, index=pd.concat(values).index).iloc[back]
    if isinstance(first, pd.Series | pd.DataFrame):
        return pd.concat(values).iloc[back]
    if sparse.issparse(first):
        return sparse.vstack(values, format=first.format)[back].asformat(first.format)
    return np.concatenate([np.asarray(value) for value in values])[back]


def _same(a: Any, b: Any) -> bool:
    if sparse.issparse(a) and sparse.issparse(b):
        return a.dtype == b.dtype and a.shape == b.shape and a.format == b.format and not (a != b).nnz
    if isinstance(a, pd.Series | pd.DataFrame):
        return type(a) is type(b) and a.equals(b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        equal_nan = a.dtype.kind in "fc" and b.dtype.kind in "fc"
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=equal_nan)
    return type(a) is type(b) and bool(a == b)
