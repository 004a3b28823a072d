"""Warnings that name the line of the user, however deep in this package they are raised."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from infl.errors import InflWarning

_PACKAGE = f"{Path(__file__).parent}{os.sep}"
_ALSO: ContextVar[Callable[[str], None] | None] = ContextVar("also told of warnings", default=None)


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
    if (also := _ALSO.get()) is not None:
        also(line)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(line, InflWarning, stacklevel=level)


@contextmanager
def also_told(to: Callable[[str], None]) -> Iterator[None]:
    """Tell somebody of warnings as well, once of each: where nobody sees what a process writes.

    Examples
    --------
    >>> lines = []
    >>> with warnings.catch_warnings(action="ignore"), also_told(lines.append):
    ...     warn("one class only")
    ...     warn("one class only")
    >>> lines
    ['one class only']
    """
    told = set[str]()

    def once(line: str) -> None:
        if line not in told:
            told.add(line)
            to(line)

    token = _ALSO.set(once)
    try:
        yield
    finally:
        _ALSO.reset(token)
