"""Kinds of options, by which a task says what each of its options may be (:attr:`infl.models.Task.parameters`).

``Whole(1)`` is a whole number of at least 1, ``Real(0, 1)`` a number from 0 to 1 (``open="high"``: below 1), ``Flag()`` is True or
False, ``Choice(("a", "b"))`` one of some names, ``Text()`` a name, ``Names()`` several. With ``none=True`` None is allowed too, and
`says` is what an error asks for. ``COLUMN``, ``OPTIONAL_COLUMN`` and ``COLUMNS`` are names of obs columns: a site's policy decides
which of these a run may read.

Examples
--------
>>> from dataclasses import dataclass
>>> from typing import ClassVar
>>> from infl.models import Classifier
>>> from infl.models.options import COLUMN, Kind, Whole
>>> @dataclass(frozen=True)
... class Staged(Classifier):
...     stage: str = ""
...     depth: int = 2
...     parameters: ClassVar[dict[str, Kind]] = Classifier.parameters | {"stage": COLUMN, "depth": Whole(1)}
>>> Staged(target="grade", depth=0)
Traceback (most recent call last):
infl.errors.SettingsError: depth=0: give a whole number of at least 1
"""

from infl._parameters import COLUMN, COLUMNS, LAYER, MODALITY, Choice, Flag, Kind, Names, Real, Text, Whole
from infl._parameters import OTHER_COLUMN as OPTIONAL_COLUMN

__all__ = [
    "COLUMN",
    "COLUMNS",
    "LAYER",
    "MODALITY",
    "OPTIONAL_COLUMN",
    "Choice",
    "Flag",
    "Kind",
    "Names",
    "Real",
    "Text",
    "Whole",
]
