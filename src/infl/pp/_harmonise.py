"""Giving all sites one panel: the same features in the same order."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from infl._lazy import computed, is_lazy
from infl._mudata import without_pull
from infl._parameters import FEATURES, NEW_NAMES, OTHER_COLUMN, Flag
from infl.data.check import PRESENT_COLUMN, Features, check_site_names, examine, measured, tables, units_by_modality
from infl.data.columns import layer_names
from infl.data.labels import check_renamed, relabelled
from infl.data.panel import Panel
from infl.data.sites import over_sites
from infl.data.units import check_units as refuse_mixture
from infl.errors import DataError

_BEFORE = "infl_name_before"  # column of var: what a feature was called at this site before it was spelt alike


@over_sites(ruled=True, target=OTHER_COLUMN, features=FEATURES, aliases=NEW_NAMES, labels=NEW_NAMES, check_units=Flag())
def harmonise(
    sites: Mapping[str, AnnData | MuData] | AnnData | MuData,
    *,
    target: str | None = None,
    features: Features = "intersection",
    aliases: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    check_units: bool = True,
    site_key: str | None = None,
) -> Panel:
    """Give all sites the same features in the same order, in place.

    First everything is checked (:func:`panel_of`) and prepared; only then are the objects altered, all of them. Data
    that agree already are left as they are.

    Features are one that differ only by an alias, by case or by the version of an Ensembl identifier
    (``ENSG00000141510.16``). They get the plain identifier, or the spelling that most sites use; the name that a site
    had is kept in ``var["infl_name_before"]``. Names by which sites seem to have different species are refused.

    With ``features="union"``, a feature that a site lacks is 0 in its ``X`` and layers, NaN in its ``varm``, missing in
    its ``var``, and ``var["infl_present"]`` is False (True for what it measured). This column is the contract: zeros so
    made are no measurements, and what reads a united panel takes ``var["infl_present"]``, or the same mask in
    ``Panel.present[site]``, to leave them out. All of :mod:`infl.pp` does so.

    Parameters
    ----------
    sites
        Objects by site name. Views become objects of their own; a backed object can only stay as it is.
    target
        Column of ``obs`` with class labels, checked and listed in the panel. Of labels that look like one class spelt in
        two ways, a warning suggests what to give as `labels`.
    features
        ``"intersection"`` keeps the features that every site measured, ``"union"`` all.
    aliases
        Other names of features, and what to call them: ``{"P53": "TP53", "ENSG00000136997": "MYC"}``, whatever the case.
    labels
        Labels of `target` and what to call them: ``{"ewing sarcoma": "EWS"}``. Without it, labels are left as they are.
    check_units
        Refuse raw counts, logarithms and scaled values side by side, as far as values tell.

    Returns
    -------
    The panel. At every site ``var_names`` now are its features (of each modality that the site has).

    Raises
    ------
    infl.errors.DataError
        With one line on the first thing that is wrong; no object was altered.

    Warns
    -----
    infl.errors.InflWarning
        A class is at one site only, a site has one class only, or labels of two sites look like one class.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites(2)
    >>> sites["site_1"] = sites["site_1"][:, ["clone_7", "clone_3", "clone_5"]].copy()
    >>> sites["site_2"].var_names = sites["site_2"].var_names.str.upper()
    >>> panel = infl.pp.harmonise(sites)
    >>> list(sites["site_2"].var_names)
    ['CLONE_3', 'CLONE_5', 'CLONE_7']
    """
    check_site_names(sites)
    if labels:
        check_renamed(sites, target, labels)
    panel, wanted, called = examine(
        sites, target=target, layer=None, features=features, aliases=aliases or {}, labels=labels
    )
    for units in units_by_modality(sites, None) if check_units else ():
        refuse_mixture(units, escape="check_units=False")
    prepared = {
        site: {
            modality: _prepare(
                table, called[site][modality], wanted[modality], features, f"{site} ({modality})" if modality else site
            )
            for modality, table in tables(adata).items()
        }
        for site, adata in sites.items()
    }
    for site, adata in sites.items():
        _replace(adata, prepared[site])
        for modality, table in tables(adata).items():
            _mark(table, wanted[modality].isin(prepared[site][modality][1]), features)
        if labels and target is not None:
            adata.obs[target] = relabelled(adata.obs[target], labels).astype("category")
    return panel


def _prepare(
    table: AnnData, called: pd.Index, names: pd.Index, features: Features, where: str
) -> tuple[AnnData | None, pd.Index]:
    """What replaces `table` (None: it stays), and which features it measured."""
    has = measured(table, called)
    if table.var_names.equals(names):
        return (table.copy() if table.is_view and not table.isbacked else None), has
    if table.isbacked:
        raise DataError(
            f"{where} is backed and needs its features chosen and ordered, which is done in memory: "
            "replace it in sites by its .to_memory()"
        )
    kept = called.get_indexer(names) if names.isin(called).all() else np.flatnonzero(called.isin(names))
    new = table[:, kept].copy()
    if not called.equals(table.var_names):
        if _BEFORE not in new.var:
            new.var[_BEFORE] = new.var_names.to_numpy()
        new.var_names = called[kept]
    return (new if new.n_vars == len(names) else _widened(new, names)), has


def _widened(table: AnnData, names: pd.Index) -> AnnData:
    """The object with all of `names`: 0 in matrices where it has no such feature, missing in annotations."""
    position = names.get_indexer(table.var_names)
    wide = AnnData(
        X=None if table.X is None else _spread(table.X, position, len(names)),
        obs=table.obs,
        var=_annotations(table.var, names),
        uns=table.uns,
        obsm=dict(table.obsm),
        obsp=dict(table.obsp),
        layers={name: _spread(table.layers[name], position, len(names)) for name in layer_names(table)},
    )
    for name, rows in table.varm.items():
        wide.varm[name] = _rows_of(rows, table.var_names, names)
    for name, entry in table.varp.items():
        square = computed(entry)
        wide.varp[name] = _spread(_spread(square, position, len(names)).T, position, len(names)).T
    if table.raw is not None:
        wide.raw = table.raw.to_adata()
    return wide


def _spread(matrix: Any, position: np.ndarray, n_columns: int) -> Any:
    """Put column j of (n, p) into column position[j] of (n, n_columns); the others are 0."""
    if is_lazy(matrix):
        whole = matrix.rechunk({1: -1})
        return whole.map_blocks(
            _spread, position, n_columns, chunks=(whole.chunks[0], (n_columns,)), dtype=matrix.dtype
        )
    if sparse.issparse(matrix):
        place = sparse.csr_matrix(
            (np.ones(len(position), dtype=matrix.dtype), (np.arange(len(position)), position)),
            shape=(len(position), n_columns),
        )
        return (matrix @ place).asformat(matrix.format)
    wide = np.zeros((matrix.shape[0], n_columns), dtype=matrix.dtype)
    wide[:, position] = np.asarray(matrix)
    return wide


def _rows_of(rows: Any, has: pd.Index, names: pd.Index) -> Any:
    """An entry of ``varm`` for `names`: missing where there is no such feature."""
    if isinstance(rows, pd.DataFrame):
        wide = _annotations(rows.set_axis(has), names)
        texts = [column for column in wide if wide[column].dtype == object]
        return wide.astype(dict.fromkeys(texts, "category"))  # h5ad has no texts with gaps
    rows = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
    if rows.dtype.kind not in "biufc":
        return _rows_of(pd.DataFrame(rows.reshape(len(rows), -1), index=has).rename(columns=str), has, names)
    back = has.get_indexer(names)
    taken = rows.astype(np.result_type(rows.dtype, np.float64))[back]
    taken[back < 0] = np.nan
    return taken


def _annotations(var: pd.DataFrame, names: pd.Index) -> pd.DataFrame:
    """Rows of `var` for `names`; truth values keep a type that can be written when some are missing."""
    flags = {column: "boolean" for column in var.columns if pd.api.types.is_bool_dtype(var[column].dtype)}
    return (
        var.drop(columns=PRESENT_COLUMN, errors="ignore")
        .astype({k: v for k, v in flags.items() if k != PRESENT_COLUMN})
        .reindex(names)
    )


def _replace(adata: AnnData | MuData, prepared: dict[str, tuple[AnnData | None, pd.Index]]) -> None:
    if isinstance(adata, AnnData):
        if (new := prepared[""][0]) is not None:
            adata._init_as_actual(new)  # as scanpy's filters do: the user's object itself changes
        return
    with without_pull():
        if adata.is_view and not adata.isbacked:
            adata._init_as_actual(adata.copy())
        for modality, (new, _) in prepared.items():
            if new is not None:
                adata.mod[modality]._init_as_actual(new)
        adata.update()


def _mark(table: AnnData, present: np.ndarray, features: Features) -> None:
    if features == "union":
        table.var[PRESENT_COLUMN] = present
    elif PRESENT_COLUMN in table.var.columns:
        del table.var[PRESENT_COLUMN]
