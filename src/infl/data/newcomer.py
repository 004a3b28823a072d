"""Data that a model was not fitted on, with the model's names for their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from infl.data.check import PRESENT_COLUMN, check_unique, measured, tables
from infl.data.columns import layer_names
from infl.data.spelling import different_kinds, spelt_as
from infl.data.values import in_rows
from infl.errors import DataError

if TYPE_CHECKING:
    from infl._types import Data


def named_as(
    adata: Data, features: Sequence[str], *, modality: str | None = None, aliases: Mapping[str, str], where: str
) -> tuple[Data, dict[str, str]]:
    """Return data with a model's names for their features, and what the data call each of the model's that was measured.

    Matrices are not copied, wherever they lie; `adata` is not altered.

    Parameters
    ----------
    adata
        The data.
    features
        Of the model; of a model of several modalities ``"rna:TP53"``.
    modality
        Which one of a MuData the model reads; None: all together.
    aliases
        Other names of features, and what to call them.
    where
        For messages.

    Raises
    ------
    infl.errors.DataError
        No feature is the model's, or two are one of the model's.

    Examples
    --------
    >>> import infl
    >>> adata = infl.datasets.khan()
    >>> adata.var_names = adata.var_names.str.upper()
    >>> named, called = named_as(adata, ["clone_1", "clone_2"], aliases={}, where="site_4")
    >>> named.var_names[:3].tolist(), called["clone_2"]
    (['CLONE_0', 'clone_1', 'clone_2'], 'CLONE_2')
    """
    known = pd.Index(list(features), dtype=object)
    parts: dict[str, AnnData] = {}
    called: dict[str, str] = {}
    for name, table in tables(adata, where).items():
        prefix = f"{name}:" if name and modality is None else ""
        wanted = known if not prefix else known[known.str.startswith(prefix)].str.removeprefix(prefix)
        if name and modality not in (None, name):
            wanted = known[:0]
        here = f"{where} ({name})" if name else where
        check_unique(table.var_names, "feature names", here)
        names = spelt_as(wanted, table.var_names, aliases, where=here)
        parts[name] = _renamed(table, names)
        own = dict(zip(names, table.var_names.astype(str), strict=True))
        called |= {prefix + feature: prefix + own[feature] for feature in measured(parts[name]).intersection(wanted)}
    if not called:
        check_modalities(adata, features, modality, where)
        names = pd.Index([str(name) for table in tables(adata, where).values() for name in table.var_names])
        first = f"{names[0]!r}, the model {known[0]!r}" if len(names) else "no features at all"
        raise DataError(
            f"{where} has none of the model's {len(known)} features (it has {first}); {different_kinds(known, names, 'aliases={identifier: symbol, …}')}"
        )
    if isinstance(adata, AnnData):
        return parts[""], called
    from mudata import MuData

    from infl._mudata import without_pull

    with without_pull():
        return MuData(parts), called


def filled(table: AnnData, features: Sequence[str]) -> AnnData:
    """Return a table with a model's features in its order, all of them; 0 where it lacks one.

    Examples
    --------
    >>> import infl
    >>> adata = infl.datasets.khan()[:2, ["clone_1"]]
    >>> float(filled(adata, ["clone_7", "clone_1"]).X[:, 0].sum())
    0.0
    """
    wanted, has = pd.Index(list(features), dtype=object), measured(table)
    position = np.where(wanted.isin(has), table.var_names.get_indexer(wanted), -1)

    def spread(matrix: Any) -> Any:
        there = np.flatnonzero(position >= 0)
        if len(there) == len(wanted):
            return in_rows(matrix[:])[:, position]
        taken = sparse.csr_matrix(in_rows(matrix[:]))[:, position[there]]
        place = sparse.csr_matrix(
            (np.ones(len(there), taken.dtype), (np.arange(len(there)), there)), (len(there), len(wanted))
        )
        return (taken @ place).tocsr()

    return AnnData(
        None if table.X is None else spread(table.X),
        obs=table.obs,
        var=pd.DataFrame(index=pd.Index(wanted.to_numpy(dtype=str), dtype=object)),
        layers={name: spread(table.layers[name]) for name in layer_names(table)},
        uns=dict(table.uns),
    )


def check_modalities(adata: Data, features: Sequence[str], modality: str | None, where: str) -> None:
    """Refuse several tables where a model's features are of one, one table where they are of several, and another name of the one.

    Parameters
    ----------
    adata, modality, where
        As for :func:`named_as`.
    features
        Of the model.

    Raises
    ------
    infl.errors.DataError
        The names of features say that it is so; otherwise nothing is said here.
    """
    known = pd.Index(list(features), dtype=object)
    if isinstance(adata, AnnData):
        kinds = known[known.str.contains(":", na=False)].str.split(":", n=1)
        if not adata.var_names.isin(known).any() and adata.var_names.isin(kinds.str[1]).any():
            of = ", ".join(map(repr, dict.fromkeys(kinds.str[0])))
            raise DataError(
                f"{where} is one table, and the model reads {of} of a MuData: give MuData({{{of.split(', ')[0]}: adata}})"
            )
        return
    shared = {name: int(table.var_names.isin(known).sum()) for name, table in adata.mod.items()}
    if modality in shared or not any(shared.values()):
        return
    best = max(shared, key=lambda name: shared[name])
    if modality is not None:
        raise DataError(
            f"{where} has no modality {modality!r}, which the model reads: rename {best!r}, if it is the one"
        )
    raise DataError(f"{where} is a MuData, and the model reads one table of features: give its .mod[{best!r}]")


def _renamed(table: AnnData, names: pd.Index) -> AnnData:
    """The same matrices beside other names of features."""
    var = pd.DataFrame(index=pd.Index(names.to_numpy(dtype=str), dtype=object))
    if PRESENT_COLUMN in table.var:
        var[PRESENT_COLUMN] = table.var[PRESENT_COLUMN].to_numpy()
    layers = {name: table.layers[name] for name in layer_names(table)}
    return AnnData(table.X, obs=table.obs, var=var, layers=layers, uns=dict(table.uns))
