"""Columns of ``obs`` beside the features: numbers as they are, levels as columns of 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infl.data.columns import has_numbers, missing_values, near_names, no_number, numbers_of, shortlist
from infl.data.labels import label_text
from infl.errors import DataError
from infl.models.labelled import check_unmixed

if TYPE_CHECKING:
    from anndata import AnnData

MOST_LEVELS = 50
"""More different labels are names, not levels."""
Covariates = Mapping[str, Sequence[str]]
"""By column its levels in order, none for numbers."""


def agree_on_covariates(tables: Mapping[str, AnnData], columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the levels of each column at all sites, none where it has numbers.

    Raises
    ------
    DataError
        A site lacks the column, or it has numbers at one and words at another, no value at any, or as many labels as names have.

    Examples
    --------
    >>> import anndata
    >>> obs = pd.DataFrame({"age": [50.0, 61.0], "sex": ["f", "m"]}, index=["a", "b"])
    >>> agree_on_covariates({"site_1": anndata.AnnData(obs=obs)}, ["age", "sex"])
    {'age': [], 'sex': ['f', 'm']}
    """
    found: dict[str, list[str]] = {}
    for name in columns:
        levels, numbers_at, words_at = set[str](), "", ""
        for site, table in tables.items():
            values = _column(table, name, site)
            known = values[~missing_values(values)]
            if not len(known):
                continue
            check_unmixed(values, name, site, "covariate")
            if _is_numbers(known):
                numbers_at = numbers_at or site
                _numbers(table, name, site)
            else:
                words_at = words_at or site
                levels |= set(label_text(known))
        if numbers_at and words_at:
            raise DataError(
                f"covariate {name!r} has numbers at {numbers_at} and words at {words_at}: give it alike everywhere"
            )
        if not numbers_at and not words_at and len(tables) > 1:
            raise DataError(f"covariate {name!r} has no value at any site: correct the name, or leave it out")
        if len(levels) > MOST_LEVELS:
            raise DataError(
                f"covariate {name!r} has {len(levels)} different labels, where levels are at most {MOST_LEVELS}: join some, or leave it out"
            )
        found[name] = sorted(levels)
    return found


def names_of(covariates: Covariates) -> list[str]:
    """Return the names of the columns that covariates become; the first level is what the others are compared with.

    Examples
    --------
    >>> names_of({"age": [], "sex": ["f", "m"]})
    ['obs: age', 'obs: sex m']
    """
    return [
        f"obs: {name} {level}".rstrip()
        for name, levels in covariates.items()
        for level in (levels[1:] if levels else [""])
    ]


def values_of(table: AnnData, covariates: Covariates, site: str) -> np.ndarray:
    """Return the columns that covariates become (n_obs, n_columns), NaN where a value is missing.

    Raises
    ------
    DataError
        A column is missing, has words where numbers are due, infinite values, or a level that the fit did not have.
    """
    columns = []
    for name, levels in covariates.items():
        values = _column(table, name, site)
        if not levels:
            columns.append(_numbers(table, name, site))
            continue
        text = label_text(values)
        strange = text.notna() & ~text.isin(levels)
        if strange.any():
            raise DataError(
                f"{site} has {int(strange.sum())} observations with a level of {name!r} that the model was not fitted with: it knows "
                f"{shortlist(list(levels), shown=6)}; rename it, or leave those out"
            )
        known = np.where(text.isna(), np.nan, 1.0)
        columns += [known * (text == level).to_numpy() for level in levels[1:]]
    return np.stack(columns, 1) if columns else np.empty((table.n_obs, 0))


def _column(table: AnnData, name: str, site: str) -> pd.Series:
    if name not in table.obs:
        near = near_names(name, table.obs.columns)
        what_to_do = (
            f"; did you mean {shortlist(near)}?"
            if near
            else ", and the model reads it beside the features: add the column, with gaps where it is not known"
        )
        raise DataError(f"covariate {name!r} is missing in obs of {site}{what_to_do}")
    values = table.obs[name]
    if isinstance(values, pd.DataFrame):
        raise DataError(f"covariate {name!r} is the name of {values.shape[1]} columns in obs of {site}; rename one")
    return values


def _is_numbers(values: pd.Series) -> bool:
    if values.dtype == object:  # ages with gaps, or of whole numbers and fractions
        return all(isinstance(value, Number) and not isinstance(value, bool | np.bool_) for value in values)
    return has_numbers(values) or no_number(values) is not None


def _numbers(table: AnnData, name: str, site: str) -> np.ndarray:
    found = numbers_of(table, name, site, "covariate", partly=True)
    if wrong := int(np.isinf(found).sum()):
        raise DataError(
            f"covariate {name!r} is infinite for {wrong} of {len(found)} observations at {site}: correct them"
        )
    return found
