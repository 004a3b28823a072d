"""Generalised linear models of the records of all sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from infl._parameters import OTHER_COLUMN, Choice, Real, Text
from infl._warn import warn
from infl.data.columns import numbers_of
from infl.data.consortium import alongside
from infl.data.design import agree_on_design, split_formula
from infl.data.sites import over_sites
from infl.errors import DataError
from infl.pp._frame import frame_sums
from infl.sums import run_sums
from infl.sums.disclosure import refuse_groups_of
from infl.tl._glm_sums import Family, Response, family_of, steps_sum, width_sum
from infl.tl._regression import coefficient_table, written

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring
    from infl.sums import FederatedSum, State

FAMILIES = ("gaussian", "binomial", "poisson", "negative_binomial")
FORMULA = Text(says="a formula, e.g. 'response ~ condition + age'")


@dataclass(frozen=True)
class LinearModel:
    """What :func:`infl.tl.glm` found.

    Attributes
    ----------
    table
        A row for each coefficient: ``coefficient``, ``std_error``, ``z``, ``p_value``, ``lower``, ``upper``.
    covariance
        Of the coefficients.
    n_obs, deviance, scale
        Number of records; deviance of the fit; estimated variance of a Gaussian response, else 1.
    rounds
        How many sums of normal equations it took.

    Examples
    --------
    >>> table = pd.DataFrame({"coefficient": [0.5]}, index=["age"])
    >>> LinearModel(table, pd.DataFrame([[0.01]], ["age"], ["age"]), 80, 12.0, 1.0, 5).table.coefficient["age"]
    np.float64(0.5)
    """

    table: pd.DataFrame
    covariance: pd.DataFrame
    n_obs: int
    deviance: float
    scale: float
    rounds: int


@over_sites(
    between=True,
    ruled=True,
    formula=FORMULA,
    family=Choice(FAMILIES),
    alpha=Real(0, open="low"),
    offset=OTHER_COLUMN,
    level=Real(0, 1, open="both"),
)
def glm(
    sites: Mapping[str, AnnData] | AnnData,
    formula: str,
    family: Literal["gaussian", "binomial", "poisson", "negative_binomial"] = "gaussian",
    *,
    alpha: float = 1.0,
    offset: str | None = None,
    level: float = 0.95,
    inplace: bool = False,
    key_added: str = "infl_glm",
    site_key: str | None = None,
    key: Keyring | None = None,
) -> LinearModel:
    """Fit a generalised linear model to the records of all sites, as statsmodels' ``GLM`` does to the pooled ones.

    Each step adds normal equations over sites, whose size depends on the number of coefficients alone.

    Parameters
    ----------
    sites
        AnnData by site name; a site may have a single record.
    formula
        Response and terms, columns of ``obs``: ``"stage ~ age + sex + site"``. ``site`` is the site of a record unless ``obs`` has
        such a column; ``C(name)`` makes groups of numbers. Levels are those of all sites, the first is the baseline.
    family
        Distribution, with its usual link: identity, logit, and log for counts.
    alpha
        Dispersion of ``"negative_binomial"``: a count of mean m has the variance m + α m².
    offset
        Column of ``obs`` that is added to the linear predictor, such as the logarithm of the time of observation.
    level
        Of the intervals.
    inplace
        Write the result into ``uns`` at every site, as tables and numbers.
    key_added
        Name of the field there.

    Returns
    -------
    The coefficients with standard errors, z, p-values and intervals.

    Raises
    ------
    infl.errors.DataError
        A column has gaps, the response is none of the family's, terms follow from others, or outcomes are separated.

    Warns
    -----
    infl.errors.InflWarning
        The coefficients did not come to a stand.

    References
    ----------
    McCullagh and Nelder (1989), Generalized linear models. Albert and Anderson (1984), Biometrika 71:1 (separation).

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> for adata in sites.values():
    ...     adata.obs["gene"] = adata.X[:, 0]
    >>> infl.tl.glm(sites, "gene ~ tumour_class").table.index[:2].tolist()
    ['Intercept', 'tumour_class[T.class_2]']
    """
    response, terms = split_formula(formula)
    design, rows = agree_on_design(sites, terms)
    refuse_groups_of(*(column for column, levels in design.levels.items() if levels is not None))
    names = list(design.names)
    responses = {
        site: Response(rows[site], _response(adata, response, family, site), _offset(adata, offset, site))
        for site, adata in sites.items()
    }
    at = alongside(sites, responses)
    kind = family_of(family, alpha)
    state = run_sums(glm_sums(names, kind, family), at, key, state={"unit": 1.0}, about="glm")
    if not state["stands"]:
        warn(
            f"glm: the coefficients did not come to a stand in {state['n_steps']} steps; look at the columns of {formula!r}"
        )
    return written(_result(state, names, kind, level), sites if inplace else {}, key_added)


def glm_sums(names: list[str], kind: Family, family: str) -> list[FederatedSum]:
    """Return all sums of a fit."""
    unit = [width_sum()] if family == "gaussian" else []
    return [*frame_sums(names, shifted=False), *unit, steps_sum(names, kind, bounded=family == "binomial")]


def _response(adata: AnnData, name: str, family: str, site: str) -> np.ndarray:
    """Return the checked response, (n_obs,)."""
    y = numbers_of(adata, name, site, "response")
    wants = {"gaussian": "finite numbers", "binomial": "0 or 1, or truth values"}.get(family, "counts")
    wrong = ~np.isfinite(y)
    if family == "binomial":
        wrong |= ~np.isin(y, (0, 1))
    elif family != "gaussian":
        wrong |= (y < 0) | (y != np.floor(y))
    if wrong.any():
        raise DataError(
            f"response {name!r} of family {family!r} must be {wants}, and {int(wrong.sum())} of {len(y)} are not, at {site}: "
            "choose another family, or correct them"
        )
    return y


def _offset(adata: AnnData, name: str | None, site: str) -> np.ndarray:
    if name is None:
        return np.zeros(adata.n_obs)
    found = numbers_of(adata, name, site, "offset")
    if not np.isfinite(found).all():
        raise DataError(f"offset {name!r} has infinite values at {site}: correct them, or leave those observations out")
    return found


def _result(state: State, names: list[str], kind: Family, level: float) -> LinearModel:
    back, unit, n = state["frame"].back, state["unit"], state["n_obs"]
    scale = state["pearson"] / max(n - len(names), 1) if kind.free_scale else 1.0
    covariance = back @ np.linalg.inv(state["information"]) @ back.T * scale * unit**2
    table = coefficient_table(names, back @ state["found"] * unit, covariance, level)
    return LinearModel(
        table,
        pd.DataFrame(covariance, index=names, columns=names),
        n,
        state["deviance"] * unit**2,
        scale * unit**2,
        state["n_steps"],
    )
