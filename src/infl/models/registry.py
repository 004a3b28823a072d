"""Which tasks there are: ours, and third parties' by the entry point group ``infl.tasks``."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from infl import _entry_points
from infl._parameters import shown
from infl.errors import SettingsError
from infl.models.spellings import ALIASES, without_aliases
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


HINTS = {
    "init": "every fit begins from fresh weights; go on with a run by checkpoint= and resume=True, or with its model by "
    "infl.tl.personalise",
}
"""What to do instead, where there is no option to name."""
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
    if not isinstance(model, Task | str):
        raise SettingsError(
            f"model={shown(model)}: give the name of a task, such as 'classifier', or a task, such as "
            "infl.models.Classifier(target=…); a fitted model goes to infl.tl.predict"
        )
    cls = type(model) if isinstance(model, Task) else task_class(model)
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    options = without_aliases(options, known)
    for option in options:
        if option not in known:
            raise SettingsError(_unknown(cls.name, option, known, [*also]))
    return dataclasses.replace(model, **options) if isinstance(model, Task) else cls(**options)


def _unknown(model: str, option: str, known: Sequence[str], also: Sequence[str]) -> str:
    """Return the line for an option that a task does not have."""
    if option in also:
        return f"model {model!r} takes no {option}=: leave it out"
    if option in HINTS:
        return f"model {model!r} has no option {option!r}: {HINTS[option]}"
    all_known = [*known, *also]
    near = [n for n in (SYNONYMS.get(option), ALIASES.get(option)) if n in all_known]
    near = near or difflib.get_close_matches(option, all_known, 1)
    if near and near[0] == "target" and "target" not in known:
        near = []
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
    return f"model {model!r} has no option {option!r}: {hint}"


def task_from_json(name: str, options: dict[str, Any]) -> Task:
    """Return the task of a model file or an offer, which name nothing that is not known here.

    Raises
    ------
    SettingsError
        As :func:`make_task`; a name is not known on this machine.
    """
    task_class(name).check_names(options)
    return make_task(name, options)
