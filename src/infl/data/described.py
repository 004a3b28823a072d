"""Parameters that mean the same in every function over sites: described once, and inserted into the docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

DESCRIBED = {
    "layer": "Layer to use instead of ``X``.",
    "copy": "Return altered copies and leave `sites` as they are.",
    "site_key": "Column of ``obs`` with each row's site, where `sites` is one object instead of a dict.",
    "key": "Key ring: with it, and three sites or more, what leaves a site is sealed.",
}
_SECTION = re.compile(r"Parameters\n-{10}\n(?P<entries>.*?)(?=\n\n\S|\Z)", re.S)


def described(function: F) -> F:
    r"""Add to a docstring's parameters those of :data:`DESCRIBED` that the function takes and does not describe itself.

    They are put where the signature has them.

    Examples
    --------
    >>> def example(sites, layer=None, key=None): ...
    >>> example.__doc__ = "Do nothing.\n\nParameters\n----------\nsites\n    By name.\nkey\n    Not needed."
    >>> described(example).__doc__.splitlines()[4:]
    ['sites', '    By name.', 'layer', '    Layer to use instead of ``X``.', 'key', '    Not needed.']
    """
    doc = inspect.getdoc(function) or ""
    found = _SECTION.search(doc)
    if found is None:
        return function
    order = list(inspect.signature(function).parameters)
    entries = re.split(r"\n(?=\S)", found["entries"])
    for name in (name for name in order if name in DESCRIBED):
        names = [entry.partition("\n")[0].split(", ") for entry in entries]
        if not any(name in of_entry for of_entry in names):
            at = sum(of_entry[0] not in order[order.index(name) :] for of_entry in names)
            entries.insert(at, f"{name}\n    {DESCRIBED[name]}")
    function.__doc__ = doc[: found.start("entries")] + "\n".join(entries) + doc[found.end() :] + "\n"
    return function
