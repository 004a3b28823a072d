"""What other packages bring: tasks, attacks and aggregation rules, by entry points, under names that are not ours."""

import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from infl.errors import SettingsError


def known(group: str, own: Mapping[str, str]) -> dict[str, str]:
    """Return the import path of everything in a group by name; ours come first, and nobody can replace them.

    Parameters
    ----------
    group
        Group of entry points, e.g. ``"infl.tasks"``.
    own
        Our import paths, ``"module:attribute"``, by name.
    """
    theirs = _registered(group, tuple((folder, _changed(folder)) for folder in sys.path))
    return {**own, **{name: place for name, place in theirs.items() if name not in own}}


@lru_cache(maxsize=8)
def _registered(group: str, places: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """Return a group's import paths by name; read again when a package was installed, for that takes 30 ms."""
    return {point.name: point.value for point in entry_points(group=group)}


def _changed(folder: str) -> int:
    """Return when something was put into a folder or taken away."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def load(name: str, place: str, base: type | None = None) -> Any:
    """Import what an entry point names.

    Parameters
    ----------
    name, place
        As registered.
    base
        Class that it must follow; it has the same ``name`` then.

    Raises
    ------
    SettingsError
        It cannot be imported, or does not follow `base`; the line says which package is to blame.
    """
    module, _, attribute = place.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if module.partition(".")[0] == "infl":
            raise
        raise SettingsError(f"{name!r} is registered as {place!r}, which cannot be imported: {error}") from error
    if base is None:
        return found
    if not (isinstance(found, type) and issubclass(found, base)):
        raise SettingsError(f"{name!r} is registered as {place!r}, which is not a subclass of {base.__name__}")
    if getattr(found, "name", None) != name:
        raise SettingsError(f"{name!r} is registered as {place!r}: give that class the same name, name = {name!r}")
    return found
