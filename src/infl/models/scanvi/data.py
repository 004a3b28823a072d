"""Which labels scANVI reads of cells, where some have none: missing ones, a value that stands for none, and −1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from infl._warn import warn
from infl.data.labels import check_labels, label_text, label_type, warn_of_one_class
from infl.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

_MAY_BE_NONE = {
    "-1",
    "?",
    "unknown",
    "unlabelled",
    "unlabeled",
    "unassigned",
    "unannotated",
    "none",
    "na",
    "n/a",
    "null",
}


def classes_of(tables: Mapping[str, AnnData], target: str, unlabelled: str) -> dict[str, Any]:
    """Return the ``classes`` of all sites and their ``class_type``, for the panel, after checking the sites' labels.

    Raises
    ------
    DataError
        Fewer than two classes over all sites.
    """
    at: dict[str, list[str]] = {}
    columns = []
    for site, table in tables.items():
        values = label_values(table, target, unlabelled)
        if values is None:
            continue
        column = table.obs[target]
        check_labels(column, target, site, partly=True)
        _warn_of_values(label_text(column), values, site, target=target, unlabelled=unlabelled)
        columns.append(column[values.notna()])
        at[site] = sorted(set(values.dropna()))
    known = set().union(*at.values())
    if len(known) < 2 and len(tables) > 1:
        raise DataError(
            f"obs[{target!r}] has {len(known)} classes over all sites, beside {unlabelled!r} and missing "
            "values: two or more are due"
        )
    warn_of_one_class(at, target)
    return {"classes": sorted(known), "class_type": label_type(columns)}


def label_values(table: AnnData, target: str, unlabelled: str) -> pd.Series | None:
    """Return the labels as text, missing where a cell has none; None without the column."""
    if target not in table.obs:
        return None
    column = table.obs[target]
    values = label_text(column)
    none = unlabelled.strip().casefold()
    others = {label for label in values.dropna().unique() if label.strip().casefold() == none}
    return values.mask(values.isin(others | {"-1"} if _is_number(column) else others))


def _warn_of_values(text: pd.Series, values: pd.Series, site: str, *, target: str, unlabelled: str) -> None:
    """Ask about labels that may mean that there is none; say it where −1 was taken so."""
    line = ""
    if (text[values.isna()] == "-1").any() and unlabelled != "-1":
        line = f"−1 in obs[{target!r}] of {site} is taken for no label, as scikit-learn has it"
    doubtful = [label for label in values.dropna().unique() if label.strip().casefold() in _MAY_BE_NONE]
    if doubtful:
        line = (
            f"{doubtful[0]!r} in obs[{target!r}] of {site} is learned as a class: if it means that there is no "
            f"label, set unlabelled={doubtful[0]!r} or make it missing"
        )
    if line:
        warn(line)


def _is_number(column: pd.Series) -> bool:
    """Whether labels are numbers, or categories that are."""
    dtype = column.cat.categories.dtype if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
    return pd.api.types.is_numeric_dtype(dtype)
