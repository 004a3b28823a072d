"""Taking batches and covariates out of the features, over all sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from infl._parameters import COLUMN, COLUMNS, LAYER, Names
from infl.data.columns import shortlist
from infl.data.consortium import agreed, alongside
from infl.data.design import SITE, Design, agree_on_design
from infl.data.sites import over_sites
from infl.data.units import warn_of_units
from infl.errors import DataError, SettingsError
from infl.pp._batch_sums import Modelled, model_sums, residual_sum, shifts_of
from infl.pp._matrix import SiteMatrix, copies, kinds, matrices, put
from infl.sums import run_sums
from infl.sums.disclosure import refuse_groups_of

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring

_COVARIATES = Names(none=True, empty=True, says="names of obs columns, each of them once")


@over_sites(between=True, ruled=True, batch=COLUMN, covariates=_COVARIATES, layer=LAYER)
def combat(
    sites: Mapping[str, AnnData] | AnnData,
    batch: str,
    *,
    covariates: str | Sequence[str] | None = None,
    layer: str | None = None,
    copy: bool = False,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | None:
    """Take batch effects out of location and scale of every feature, as :func:`scanpy.pp.combat` does to the pooled data.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised, with logarithms; the matrix is replaced at every site.
    batch
        Column of ``obs`` with batches, or ``"site"``; a batch may lie at several sites, and a site have several.
    covariates
        Columns of ``obs`` whose effects are kept.

    Returns
    -------
    None, or the copies by site name, or that of the one object.

    Raises
    ------
    infl.errors.DataError
        There is one batch only, a batch has one record, or covariates follow from batches.

    References
    ----------
    Johnson, Li and Rabinovic (2007), Biostatistics 8:118.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.combat(sites, "site")
    """
    sites = copies(sites, copy)
    at, names, levels = _modelled(sites, batch, _names(covariates), layer, key)
    n_vars = len(next(iter(at.values())).matrix.present)
    k = len(levels)
    state = run_sums([*model_sums(names, n_vars), residual_sum(levels, n_vars, len(names))], at, key, about="combat")
    if (state["n"] < 2).any():
        few = [level for level, n in zip(levels, state["n"], strict=True) if n < 2]
        raise DataError(f"batch {batch!r} has one record only in {shortlist(few)}: join batches, or leave it out")
    opened = ~np.isnan(state["squares"]).any(axis=0)
    coefficients = state["coefficients"][:, opened]
    found = shifts_of(coefficients[:k], state["n"], state["squares"][:, opened])

    def shifted(own: Modelled) -> np.ndarray:
        kept, result = found.grand + own.x[:, k:] @ coefficients[k:], np.zeros(own.values.shape)
        z = (own.values[:, opened] - kept) / np.sqrt(found.pooled)
        z = (z - found.mean[own.batch]) / np.sqrt(found.variance[own.batch])
        result[:, opened] = z * np.sqrt(found.pooled) + kept
        return result

    return _written(sites, at, shifted, layer, copy=copy)


@over_sites(between=True, ruled=True, batch=COLUMN, covariates=_COVARIATES, layer=LAYER)
def remove_batch_effect(
    sites: Mapping[str, AnnData] | AnnData,
    batch: str,
    *,
    covariates: str | Sequence[str] | None = None,
    layer: str | None = None,
    copy: bool = False,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | None:
    """Take differences between batches out of every feature, as limma's ``removeBatchEffect`` does to the pooled data.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised, with logarithms; the matrix is replaced at every site.
    batch, covariates
        As for :func:`infl.pp.combat`; limma's ``design`` has the covariates.

    Returns
    -------
    None, or the copies by site name, or that of the one object.

    Raises
    ------
    infl.errors.DataError
        There is one batch only, or covariates follow from batches.

    References
    ----------
    Ritchie et al. (2015), Nucleic Acids Research 43:e47.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.remove_batch_effect(sites, "site", covariates="tumour_class")
    """
    sites = copies(sites, copy)
    at, names, levels = _modelled(sites, batch, _names(covariates), layer, key)
    n_vars = len(next(iter(at.values())).matrix.present)
    state = run_sums(model_sums(names, n_vars), at, key, about="remove_batch_effect")
    effects = state["coefficients"][: len(levels)]
    effects = effects - effects.mean(axis=0)
    return _written(sites, at, lambda own: _left(own.values - effects[own.batch]), layer, copy=copy)


@over_sites(between=True, ruled=True, keys=COLUMNS, layer=LAYER)
def regress_out(
    sites: Mapping[str, AnnData] | AnnData,
    keys: str | Sequence[str],
    *,
    layer: str | None = None,
    copy: bool = False,
    site_key: str | None = None,
    key: Keyring | None = None,
) -> dict[str, AnnData] | None:
    """Leave what a linear model of columns does not explain of every feature, as :func:`scanpy.pp.regress_out` does.

    Parameters
    ----------
    sites
        AnnData by site name, harmonised; the matrix is replaced at every site.
    keys
        Columns of ``obs``: numbers, or one of groups, whose means are taken off.

    Returns
    -------
    None, or the copies by site name, or that of the one object.

    Raises
    ------
    infl.errors.DataError
        A column has gaps, or follows from the others.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.regress_out(sites, "tumour_class")
    >>> abs(float(sum(adata.X[:, 0].sum() for adata in sites.values()))) < 1e-6
    True
    """
    names = _names(keys)
    if not names:
        raise SettingsError("keys= names no column: give at least one column of obs")
    sites = copies(sites, copy)
    matrix = _matrices(sites, layer, key)
    design, rows = _design(sites, "~ " + " + ".join(_quoted(names)))
    nobody = {site: np.zeros(len(x), dtype=np.int64) for site, x in rows.items()}
    at = alongside(matrix, {site: Modelled(matrix[site], rows[site], nobody[site]) for site in sites})
    n_vars = len(next(iter(matrix.values())).present)
    state = run_sums(model_sums(list(design.names), n_vars), at, key, about="regress_out")
    return _written(sites, at, lambda own: _left(own.values - own.x @ state["coefficients"]), layer, copy=copy)


def _left(values: np.ndarray) -> np.ndarray:
    """Return values with 0 in features that rules of disclosure have closed, which are NaN."""
    return np.where(np.isnan(values), 0.0, values)


def _written(
    sites: Mapping[str, AnnData],
    at: Mapping[str, Modelled],
    corrected: Callable[[Modelled], np.ndarray],
    layer: str | None,
    *,
    copy: bool,
) -> dict[str, AnnData] | None:
    """Replace the matrix at every site, after it is computed at all of them."""
    results = {site: corrected(of_site) for site, of_site in at.items()}
    agreed(at, "corrected", dict.fromkeys(at))  # no site replaces its matrix where another one cannot
    for site, adata in sites.items():
        put(adata, layer, results[site])
    return dict(sites) if copy else None


def _names(names: str | Sequence[str] | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _quoted(names: Sequence[str]) -> list[str]:
    """Return names of columns as a formula has them, which knows no column without a name."""
    if not all(map(str.strip, names)):
        raise SettingsError("a column of obs without a name cannot be taken out: rename it")
    return [f"`{name}`" for name in names]


def _matrices(sites: Mapping[str, AnnData], layer: str | None, key: Keyring | None) -> Mapping[str, SiteMatrix]:
    """Return the sites' matrices, where all measured all features."""
    at = matrices(sites, layer, key, rewrite=True)
    for site, matrix in at.items():
        if not matrix.present.all():
            raise DataError(
                f"{site} did not measure {int((~matrix.present).sum())} of the features: harmonise(sites, features='intersection')"
            )
    warn_of_units(kinds(at))
    return at


def _design(sites: Mapping[str, AnnData], formula: str) -> tuple[Design, Mapping[str, np.ndarray]]:
    """Return what sites agree on, of columns whose groups may be asked about."""
    design, rows = agree_on_design(sites, formula)
    refuse_groups_of(*(name for name, levels in design.levels.items() if levels is not None and name != SITE))
    return design, rows


def _modelled(
    sites: Mapping[str, AnnData], batch: str, covariates: list[str], layer: str | None, key: Keyring | None
) -> tuple[Mapping[str, Modelled], list[str], tuple[str, ...]]:
    """Return sites with one column for each batch and then those of covariates; names of columns, and batches."""
    matrix = _matrices(sites, layer, key)
    design, rows = _design(sites, " + ".join([f"C({name})" for name in _quoted([batch])] + _quoted(covariates)))
    levels = design.levels[batch] or ()
    if len(levels) < 2:
        raise DataError(f"batch {batch!r} has one level only at all sites together: there is nothing to take out")
    n = len(levels)
    at = {}
    for site, x in rows.items():
        others = x[:, 1:n]  # the first batch is where all others are not
        number = np.where(others.any(axis=1), others.argmax(axis=1) + 1, 0)
        at[site] = Modelled(matrix[site], np.hstack([np.eye(n)[number], x[:, n:]]), number)
    return alongside(matrix, at), [*(f"{batch}[{level}]" for level in levels), *design.names[n:]], levels
