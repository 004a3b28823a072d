"""The data of several sites: a dict of objects, or one object with a column of each row's site."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api.types import union_categoricals
from scipy import sparse

from infl._lazy import computed, is_lazy
from infl._parameters import SITE_NAME, Kind, door, shown
from infl.data.asked import asking
from infl.data.closed import write_closed
from infl.data.columns import obs_column
from infl.data.consortium import Consortium, agreed
from infl.data.copy import own as own_object
from infl.data.described import described
from infl.data.labels import label_text
from infl.errors import DataError, SettingsError

if TYPE_CHECKING:
    from infl._types import Data

P = ParamSpec("P")
R = TypeVar("R")


def as_sites(sites: Mapping[str, Data] | Data, site_key: str | None) -> dict[str, Data]:
    """Return the sites' data by name, from a mapping or from one object and its site column."""
    if isinstance(sites, Consortium):
        raise SettingsError(
            "this function takes the data of sites of one process, no consortium: call it on a dict of sites"
        )
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
        raise _no_data("sites= takes a dict of AnnData or MuData, or one of them with site_key=", sites)
    return {name: sites[rows] for name, rows in site_rows(sites, site_key).items()}


def by_name(sites: Mapping[str, Data] | Data, alone: str) -> dict[str, Data]:
    """Return objects by name, for what reads all of one object as it reads a site: that one is called `alone`.

    Examples
    --------
    >>> import infl
    >>> list(by_name(infl.datasets.khan(), "the data"))
    ['the data']
    """
    if isinstance(sites, Mapping):
        return as_sites(sites, None)
    if not hasattr(sites, "obs_names"):
        raise _no_data("sites= takes a dict of AnnData or MuData, or one of them", sites)
    return {alone: sites}


def _no_data(wanted: str, given: object) -> DataError:
    remedy = "; read a file with anndata.read_h5ad(path)" if isinstance(given, str | Path) else ""
    return DataError(f"{wanted}, not {type(given).__name__}{remedy}")


def marked(*, between: bool, ruled: bool) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Say of a function whether it runs over a consortium, and whether rules of disclosure bind it; see :func:`over_sites`."""

    def marking(function: Callable[P, R]) -> Callable[P, R]:
        function.between, function.ruled = between, ruled  # type: ignore[attr-defined]
        return function

    return marking


def over_sites(
    *, between: bool = False, ruled: bool = False, called: str = "", **own: Kind
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function that works on a dict of sites take one object with ``site_key=``, too, and check its arguments.

    Of one object, each site's rows are handed over as a view, and what the function wrote at the sites, and nothing else, is
    put together in the object, all of it after all is computed. With ``copy=True`` that is a copy, which is returned. The docstring
    gets the parameters that all these functions describe alike, see :func:`infl.data.described.described`.

    Parameters
    ----------
    between
        The function runs over a :class:`infl.data.consortium.Consortium` as well; the others refuse one.
    ruled
        The function opens nothing but sums that say which records stand behind them; others refuse rules of disclosure.
    called
        The function that users call, where that is another one.
    **own
        Kinds of parameters, see :func:`infl._parameters.door`.
    """

    def taking(function: Callable[P, R]) -> Callable[P, R]:
        described(function)

        def run(sites: Any, *rest: Any, **kwargs: Any) -> Any:
            with asking(
                called or function.__name__, sites, rest, {k: v for k, v in kwargs.items() if k != "key"}
            ) as this:
                found = function(sites, *rest, **kwargs)
            write_closed(this, function, (sites, *rest), kwargs, found)
            return found

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            sites, *rest = args
            site_key = kwargs.get("site_key")
            if between and isinstance(sites, Consortium) and site_key is None:
                agree_on_arguments(function, sites, rest, kwargs, called=called)
                return run(*args, **kwargs)
            parts = as_sites(sites, site_key)
            if isinstance(sites, Mapping):
                return run(*args, **kwargs)
            for name in ("key_added", "score_name"):
                if kwargs.get(name) == site_key:
                    raise SettingsError(
                        f"{name}={site_key!r} is the column that names each row's site: choose another name"
                    )
            if any(getattr(table, "isbacked", False) for table in (sites, *getattr(sites, "mod", {}).values())):
                raise DataError(
                    "sites= is one object on disk, whose rows cannot be taken apart there: pass .to_memory(), or a dict of files"
                )
            copied = bool(kwargs.get("copy"))
            options = kwargs | {"site_key": None} | ({"copy": False} if copied else {})
            result = run(parts, *rest, **options)
            rows = site_rows(sites, site_key)
            written = _written(sites, [(sites[rows[s]], parts[s], rows[s]) for s in parts])
            whole = sites.copy() if copied else own_object(sites)
            for write in written:
                write(whole)
            return whole if copied else result

        return door(**own)(marked(between=between, ruled=ruled)(call))

    return taking


def agree_on_arguments(
    function: Callable[..., Any], sites: Consortium[Any], rest: list[Any], given: dict[str, Any], *, called: str = ""
) -> None:
    """Refuse to begin where sites call functions or arguments that differ; arrays by site are each site's own.

    `called` is the name of the function that users call, where that is another one.
    """
    bound = inspect.signature(function).bind(sites, *rest, **given)
    bound.apply_defaults()
    own = {"sites", "key"} | {name for name, value in bound.arguments.items() if isinstance(value, Mapping)}
    values = {
        name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in bound.arguments.items() if name not in own
    }
    digest = hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()
    agreed(sites, f"{called or function.__name__} {digest}", dict.fromkeys(sites))


def site_rows(adata: Data, site_key: str | None) -> dict[str, np.ndarray]:
    """Return the rows of each site, in the order of names."""
    if site_key is None:
        raise SettingsError(
            "sites= is one object: pass site_key=, the obs column that says which site a row belongs to"
        )
    names = label_text(obs_column(adata, site_key, where="the data", role="site_key"))
    for name in names.unique():
        SITE_NAME.read("site name", name, f"column {site_key!r}: ")
    return {name: np.flatnonzero((names == name).to_numpy()) for name in sorted(names.unique())}


Part = tuple[Any, Any, np.ndarray]
"""What was handed over of one site, what it is now, and which rows of the whole it has."""
SLOTS = ("obs", "obsm", "layers")
SHARED = ("var", "varm", "uns")


def _written(whole: Data, parts: list[Part]) -> list[Callable[[Any], None]]:
    """Return what writes into the whole what was written at its parts; prepared, so that writing is all that is left."""
    writes: list[Callable[[Any], None]] = []
    tables = getattr(whole, "mod", {})  # mudata keeps a mask a modality in obsm
    for modality, table in tables.items():
        of = [(a.mod[modality], b.mod[modality], row) for a, b, row in parts if modality in b.mod]
        rows = [table.obs_names.get_indexer(b.obs_names) for _, b, _ in of]
        inner = _written(table, [(a, b, row) for (a, b, _), row in zip(of, rows, strict=True)])
        writes += [_within(modality, write) for write in inner]
    handed, first, _ = parts[0]
    back = np.argsort(np.concatenate([row for _, _, row in parts]))
    if isinstance(whole, AnnData):
        if all(part.is_view for _, part, _ in parts):
            return writes  # an object that was written to is none any more
        if not first.var_names.equals(handed.var_names):
            positions = _positions(whole, first)
            writes.append(_panel(positions, first.var_names))
            parts = [(a[:, positions], b, row) for a, b, row in parts]
            handed = parts[0][0]
        if whole.X is not None and not all(_same(b.X, a.X) for a, b, _ in parts):
            writes.append(_put("X", None, _joined([b.X for _, b, _ in parts], back)))
    for slot in (*SLOTS, *SHARED):
        if getattr(whole, slot, None) is None:
            continue
        now, before = getattr(first, slot), getattr(handed, slot)
        for name in [name for name in now if name is not None and name not in tables]:
            pairs = [(getattr(a, slot), getattr(b, slot)) for a, b, _ in parts]
            if all(name in a and _same(b[name], a[name]) for a, b in pairs):
                continue
            value = now[name] if slot in SHARED else _joined([b[name] for _, b in pairs], back)
            writes.append(_put(slot, name, value))
        writes += [_drop(slot, name) for name in before if name not in now and name is not None]
    return writes


def _positions(whole: AnnData, part: AnnData) -> np.ndarray:
    """Which of the whole's features a part has still; the name that one had before is in a column then."""
    before = part.var.get("infl_name_before", pd.Series(part.var_names, index=part.var_names)).astype(str)
    old = [name if name in whole.var_names else was for name, was in zip(part.var_names, before, strict=True)]
    return whole.var_names.get_indexer(old)


def _panel(positions: np.ndarray, names: pd.Index) -> Callable[[Any], None]:
    def write(w: AnnData) -> None:
        if not np.array_equal(positions, np.arange(w.n_vars)):
            w._inplace_subset_var(positions)
        w.var_names = names

    return write


def _within(modality: str, write: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda w: write(w.mod[modality])


def _put(slot: str, name: str | None, value: Any) -> Callable[[Any], None]:
    if isinstance(value, pd.Series):
        value = value.array  # names of rows may be there twice

    def write(w: Any) -> None:
        if name is None:
            setattr(w, slot, value)
        else:
            getattr(w, slot)[name] = value

    return write


def _drop(slot: str, name: str) -> Callable[[Any], None]:
    def write(w: Any) -> None:
        if name in getattr(w, slot):
            del getattr(w, slot)[name]

    return write


def _joined(values: list[Any], back: np.ndarray) -> Any:
    """Rows of several arrays or columns, one below the other, then in the order `back`."""
    values = [computed(value) for value in values]
    first = values[0]
    if isinstance(first, pd.DataFrame):
        columns = {name: _joined([value[name] for value in values], back) for name in first}
        index = values[0].index.append([value.index for value in values[1:]])[back]
        return pd.DataFrame({name: column.array for name, column in columns.items()}, index=index)
    if isinstance(first, pd.Series):
        if all(isinstance(value.dtype, pd.CategoricalDtype) for value in values):
            alike = all(value.dtype == first.dtype for value in values)
            parts = values if alike else [value.cat.as_unordered() for value in values]
            return pd.Series(union_categoricals(parts)).iloc[back]
        return pd.concat(values).iloc[back]
    if sparse.issparse(first):
        return sparse.vstack(values, format=first.format)[back].asformat(first.format)
    return np.concatenate([np.asarray(value) for value in values])[back]


def _same(a: Any, b: Any) -> bool:
    if is_lazy(a) and is_lazy(b):
        return bool(a.name == b.name)  # what is computed of what
    if type(a) is not type(b) and not (isinstance(a, np.ndarray | Mapping) and isinstance(b, np.ndarray | Mapping)):
        return False
    if sparse.issparse(a):
        return a.dtype == b.dtype and a.shape == b.shape and a.format == b.format and not (a != b).nnz
    if isinstance(a, pd.Series | pd.DataFrame):  # names of features may be others
        a, b = a.reset_index(drop=True), b.reset_index(drop=True)
        if all(isinstance(getattr(value, "dtype", None), pd.CategoricalDtype) for value in (a, b)):
            a, b = a.astype(object), b.astype(object)  # a view drops categories that it does not have
        return a.equals(b)
    if isinstance(a, pd.Index | pd.Categorical):
        return a.equals(b) and getattr(a, "dtype", None) == getattr(b, "dtype", None)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return a.dtype.kind == "O" or np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    try:
        return a is b or bool(a == b)
    except (TypeError, ValueError):
        return True  # of a kind that nothing here writes
