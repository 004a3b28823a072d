"""A curve through points, as R's ``loess`` draws it."""

from __future__ import annotations

import numpy as np

from infl.errors import MissingExtraError


def local_regression(x: np.ndarray, y: np.ndarray, span: float, *, needed_by: str) -> np.ndarray:
    """Return the curve at each of the points, (n,): local parabolas, each over a share of the points.

    Parameters
    ----------
    x, y
        The points, (n,) each.
    span
        The share.
    needed_by
        What calls this, for the message where scikit-misc is missing.

    Raises
    ------
    MissingExtraError
        It is not installed.
    ValueError
        Why there is no curve.
    """
    try:
        from skmisc.loess import loess
    except ImportError as error:
        raise MissingExtraError(f"{needed_by} needs scikit-misc: pip install 'infl[hvg]'") from error
    if int(span * len(x)) < 3:  # of a parabola; fewer crash the library
        raise ValueError("each point sees fewer than three")
    try:
        model = loess(x, y, span=span, degree=2)
        model.fit()
    except ValueError as error:
        raise ValueError(error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)) from error
    return np.asarray(model.outputs.fitted_values)
