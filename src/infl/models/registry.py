"""Which tasks there are: ours, and third parties' by the entry point group ``infl.tasks``."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from infl import _entry_points
from infl.errors import SettingsError
from infl.models.task import Task

TASKS = {
    "adapter": "infl.models.adapter:Adapter",
    "classifier": "infl.models.classifier:Classifier",
    "histology": "infl.models.histology:Histology",
    "mosaic": "infl.models.mosaic:Mosaic",
    "perturbation": "infl.models.perturbation:Perturbation",
    "scanvi": "infl.models.scanvi:Scanvi",
    "scvi": "infl.models.scvi:Scvi",
    "spatial": "infl.models.spatial:Spatial",
}


def known_tasks() -> dict[str, str]:
    """Return the import path of every task by name.

    Examples
    --------
    >>> known_tasks()["classifier"]
    'infl.models.classifier:Classifier'
    """
    return _entry_points.known("infl.tasks", TASKS)


def task_class(name: str) -> type[Task]:
    """Return the class of a task.

    Raises
    ------
    SettingsError
        Unknown name; the message lists the known ones. Or what another package registered cannot be imported.
    """
    place = TASKS.get(name) or known_tasks().get(name)  # reading all entry points takes as long as a round
    if place is None:
        raise SettingsError(f"model={name!r} is not known: one of {', '.join(map(repr, sorted(known_tasks())))}")
    return _entry_points.load(name, place)


SYNONYMS = {
    "batch_key": "site_key",
    "epochs": "local_epochs",
    "groupby": "target",
    "label_key": "target",
    "labels_key": "target",
    "max_epochs": "rounds",
    "n_epochs": "local_epochs",
}
"""What other packages call it."""


def make_task(model: str | Task, options: dict[str, Any], also: Iterable[str] = ()) -> Task:
    """Return a task from its name and options, or check one that was given.

    `also` are names that the caller takes itself: what is misspelt may be one of them.

    Raises
    ------
    SettingsError
        An option that the task does not have (with the nearest that it has).
    """
    if isinstance(model, Task):
        return dataclasses.replace(model, **options) if options else model
    cls = task_class(model)
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for option in options:
        if option not in known:
            all_known = [*known, *also]
            near = [n for n in (SYNONYMS.get(option),) if n in all_known]
            near = near or difflib.get_close_matches(option, all_known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise SettingsError(f"model {model!r} has no option {option!r}: {hint}")
    return cls(**options)


def task_from_json(name: str, options: dict[str, Any]) -> Task:
    """Return the task of a model file."""
    return make_task(name, options)
