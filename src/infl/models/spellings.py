"""Other spellings of a task's options, such as ``learning_rate`` for ``lr``."""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Collection, Mapping
from typing import Any

from infl.errors import SettingsError

ALIASES = {"learning_rate": "lr", "optimizer": "optimiser", "standardize": "standardise"}
"""Other spellings of options that are taken."""


def without_aliases(options: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return options under the names that a task knows.

    Raises
    ------
    SettingsError
        One is given under both.
    """
    renamed: dict[str, Any] = {}
    for option, value in options.items():
        name = ALIASES.get(option, option) if option not in known else option
        if name in renamed:
            raise SettingsError(f"{name}= and its other spelling are both given: leave one of them out")
        renamed[name if name in known else option] = value
    return renamed


class Spellings(ABCMeta):
    """Takes options of a task under their other spellings."""

    @property
    def __signature__(cls) -> inspect.Signature:
        own = inspect.signature(cls.__init__)  # type: ignore[misc]
        return own.replace(parameters=[p for name, p in own.parameters.items() if name != "self"])

    def __call__(cls, *args: Any, **options: Any) -> Any:
        """Make a task from options under any of their spellings."""
        return super().__call__(*args, **without_aliases(options, getattr(cls, "__dataclass_fields__", ())))
