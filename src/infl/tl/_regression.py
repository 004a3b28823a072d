"""What regressions over sites share: a check that coefficients have an estimate, and their table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from infl.errors import DataError
from infl.pp._frame import Frame

SEPARATED = 1e-7
"""Share of the information of an average record, below which a direction of the coefficients has none."""


def check_information(information: np.ndarray, frame: Frame, names: Sequence[str], why: str) -> None:
    """Refuse coefficients without an estimate, and name one; `information` is in the frame, of an average record."""
    values, vectors = np.linalg.eigh(information)
    if values[0] > SEPARATED:
        return
    weight = np.abs(frame.mix @ vectors[:, 0]) / np.linalg.norm(frame.mix, axis=1)
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
