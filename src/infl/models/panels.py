"""Panels, what sites agree on before a run: joined over sites, and the columns that a task looks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from infl.errors import DataError
from infl.models.registry import task_class


def join_panels(panels: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the panel of several sites: features that all have, classes and other names that any has.

    The order of names is kept where it is the same everywhere; else it is sorted. What is no list of names must be the
    same everywhere. A modality's features are those that all sites with the modality have.
    :meth:`infl.models.Task.settled` makes what else follows from the joined names.

    Raises
    ------
    DataError
        There is no feature that all have, or the panels are of different kinds or differ in a setting.

    Examples
    --------
    >>> join_panels(
    ...     {"a": {"features": ["g2", "g1"], "classes": ["x"]}, "b": {"features": ["g2", "g3"], "classes": ["w"]}}
    ... )
    {'features': ['g2'], 'classes': ['w', 'x']}
    """
    first, joined = next(iter(panels.values())), dict[str, Any]()
    for site, panel in panels.items():
        if set(panel) != set(first):
            raise DataError(f"the panel of {site} has {', '.join(panel)}, others have {', '.join(first)}")
    for kind in first:
        if kind != "features" or "modalities" not in first:
            joined[kind] = _joined(kind, {site: panel[kind] for site, panel in panels.items()})
    if "modalities" in first:
        own = [f"{m}:{name}" if m else name for m, names in joined["modalities"].items() for name in names]
        joined = {"features": own} | joined
    return joined


def _joined(kind: str, found: Mapping[str, Any], *, shared: bool | None = None) -> Any:
    """Return one part of a panel: the same everywhere, names that all sites have, or names that any has."""
    first, *others = found.values()
    shared = kind in ("features", "modalities") if shared is None else shared
    if all(isinstance(value, dict) for value in found.values()):
        keys = list(first) if all(list(o) == list(first) for o in others) else sorted(set().union(*found.values()))
        return {k: _joined(f"{kind} {k}", {s: v[k] for s, v in found.items() if k in v}, shared=shared) for k in keys}
    if all(other == first for other in others):
        joined = first
    elif all(isinstance(value, list) and all(isinstance(name, str) for name in value) for value in found.values()):
        joined = sorted(set(first).intersection(*others) if shared else set(first).union(*others))
    else:
        site = next(site for site, value in found.items() if value != first)
        raise DataError(f"{kind} is {first} in the panel of {next(iter(found))}, {found[site]} in that of {site}")
    if shared and not joined:
        raise DataError(f"no {kind} that all of {', '.join(found)} have: compare the names at the sites")
    return joined


def columns_of_task(model: str, options: Mapping[str, Any], panel: Mapping[str, Any]) -> set[str]:
    """Return the names of all obs columns that a task looks for.

    Text in an option that :attr:`infl.models.Task.parameters` does not describe counts as such a name, unless its type is a Literal:
    a policy that lists columns is to see each of them, whoever wrote the task.

    Examples
    --------
    >>> sorted(columns_of_task("classifier", {"target": "cell_type"}, {}))
    ['cell_type']
    """
    task = task_class(model)
    fields = {field.name: field for field in dataclasses.fields(task) if field.init}
    found: set[str] = set()
    for option in {*fields, *task.parameters}:
        kind, field = task.parameters.get(option), fields.get(option)
        if ("obs column" in kind.says) if kind is not None else "Literal[" not in str(field and field.type):
            value = options.get(option, field.default if field is not None else None)
            names = [value] if isinstance(value, str) else value if isinstance(value, Iterable) else ()
            found |= {name for name in names if isinstance(name, str)}
    found |= {name for entry in task.columns_in_panel if isinstance(name := panel.get(entry), str)}
    return found - {""}
