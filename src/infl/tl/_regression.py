"""What regressions over sites share: a check that coefficients have an estimate, their table, and how a site keeps what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
import pandas as pd
from scipy import stats

from infl.data.copy import own
from infl.errors import DataError
from infl.pp._frame import Frame

if TYPE_CHECKING:
    from anndata import AnnData

Result = TypeVar("Result")

SEPARATED = 1e-7
"""Share of the information of an average record, below which a direction of the coefficients has none."""


def check_information(information: np.ndarray, frame: Frame, names: Sequence[str], why: str) -> None:
    """Refuse coefficients without an estimate, and name one; `information` is in the frame, of an average record."""
    values, vectors = np.linalg.eigh(information)
    if values[0] > SEPARATED:
        return
    refuse_direction(vectors[:, 0], frame, names, why)


def refuse_direction(vector: np.ndarray, frame: Frame, names: Sequence[str], why: str) -> NoReturn:
    """Refuse coefficients for want of an estimate of a direction in the frame, (p,), and name the one that it is most about."""
    weight = np.abs(frame.mix @ vector) / np.linalg.norm(frame.mix, axis=1)
    if frame.intercept is not None and len(weight) > 1:
        weight[frame.intercept] = -1
    raise DataError(f"{why}: {names[int(np.argmax(weight))]!r} has no estimate; leave it out, or join levels")


def coefficient_table(names: Sequence[str], found: np.ndarray, covariance: np.ndarray, level: float) -> pd.DataFrame:
    """Return a row for each coefficient: ``coefficient``, ``std_error``, ``z``, ``p_value``, ``lower``, ``upper``.

    Examples
    --------
    >>> table = coefficient_table(["age"], np.array([2.0]), np.array([[1.0]]), 0.95)
    >>> table.loc["age", ["z", "upper"]].round(2).tolist()
    [2.0, 3.96]
    """
    error = np.sqrt(np.diag(covariance))
    z = found / error
    wide = stats.norm.ppf((1 + level) / 2) * error
    columns = {"coefficient": found, "std_error": error, "z": z, "p_value": 2 * stats.norm.sf(np.abs(z))}
    return pd.DataFrame(columns | {"lower": found - wide, "upper": found + wide}, index=pd.Index(names, name="term"))


def written(result: Result, sites: Mapping[str, AnnData], key_added: str) -> Result:
    """Return a result, a dataclass of tables and numbers, after its fields were written into ``uns`` of sites, in types of files.

    Examples
    --------
    >>> from anndata import AnnData
    >>> from infl.tl import Survival
    >>> sites = {"a": AnnData(shape=(1, 0))}
    >>> found = written(Survival(pd.DataFrame(), ("all",), 0.0, 0, 1.0, 0.95), sites, "mine")
    >>> sites["a"].uns["mine"]["groups"]
    ['all']
    """
    values = {field.name: getattr(result, field.name) for field in fields(result)}  # type: ignore[arg-type]
    for adata in sites.values():
        own(adata).uns[key_added] = {name: _kept(value) for name, value in values.items() if value is not None}
    return result


def _kept(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return value.copy()
    return list(value) if isinstance(value, tuple) else value
