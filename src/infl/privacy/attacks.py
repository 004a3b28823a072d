"""The former name of :mod:`infl.attacks`, for one version: imported by name when it is asked for, for attacks stand above."""

import importlib
from typing import Any

from infl._warn import warn

_RENAMED = {"Evidence": "AuditContext"}


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    warn("infl.privacy.attacks is infl.attacks now; the old name goes with the next version")
    return getattr(importlib.import_module("infl.attacks"), _RENAMED.get(name, name))
