"""Warnings that name the line of the user, however deep in this package they are raised."""

import os
import sys
import warnings
from pathlib import Path

from infl.errors import InflWarning

_PACKAGE = f"{Path(__file__).parent}{os.sep}"


def warn(line: str) -> None:
    """Warn the line of code, outside this package, that a user wrote.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always")
    ...     warn("sites have different kinds of values")
    >>> seen[0].category.__name__
    'InflWarning'
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(line, InflWarning, stacklevel=level)
