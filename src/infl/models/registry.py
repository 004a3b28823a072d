"""Which tasks there are: ours, and third parties' by the entry point group ``infl.tasks``."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from infl import _entry_points
from infl._parameters import shown
from infl._settings import settings
from infl.errors import SettingsError
from infl.models.spellings import ALIASES, without_aliases
from infl.models.task import Task

TASKS = {
    "adapter": "infl.models.adapter:Adapter",
    "classifier": "infl.models.classifier:Classifier",
    "histology": "infl.models.histology:Histology",
    "labels": "infl.models.labels:Labels",
    "mosaic": "infl.models.mosaic:Mosaic",
    "perturbation": "infl.models.perturbation:Perturbation",
    "regressor": "infl.models.regressor:Regressor",
    "scanvi": "infl.models.scanvi:Scanvi",
    "scvi": "infl.models.scvi:Scvi",
    "survival": "infl.models.survival:Survival",
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
        Unknown name; the message lists the known ones. Or what another package registered is not a task of that name.
    """
    if name not in TASKS and name in settings.tasks:
        return settings.tasks[name]
    place = _place_of(name)
    if place is None:
        known = ", ".join(map(repr, sorted({*known_tasks(), *settings.tasks})))
        raise SettingsError(
            f"model={name!r} is not known: one of {known}; a class of your own is known by infl.settings.tasks[{name!r}]"
        )
    return _entry_points.load(name, place, Task)


def _place_of(name: str) -> str | None:
    """Return the import path of an installed task."""
    return TASKS.get(name) or known_tasks().get(name)  # reading all entry points takes as long as a round


def is_installed(task: Task) -> bool:
    """Whether the name of a task means its class wherever its package is installed.

    Raises
    ------
    SettingsError
        The name means another class, or there is none.

    Examples
    --------
    >>> from infl.models import Classifier
    >>> is_installed(Classifier(target="tumour_class"))
    True
    """
    cls = type(task)
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        raise SettingsError(
            f"{cls.__name__} has no name: models name their task, so set one in the class, name = 'mine'"
        )
    place = _place_of(name)
    if place is not None and _entry_points.load(name, place) is not cls:
        raise SettingsError(f"{cls.__name__}.name is {name!r}, which is an installed task: give the class another name")
    return place is not None


def check_installed(task: Task) -> None:
    """Refuse a task that other machines cannot know: a class that only this process has.

    Raises
    ------
    SettingsError
        It is registered by no package.
    """
    if not is_installed(task):
        raise SettingsError(
            f"model {task.name!r} is a class of this process, and no code travels: for a run between machines each site installs "
            "a package that registers it under the entry point infl.tasks"
        )


def name_by_target(model: str, options: Mapping[str, Any]) -> str:
    """Return the name of the task that is fitted: a classifier of a list of columns is of several labels.

    Examples
    --------
    >>> name_by_target("classifier", {"target": ["er", "her2"]})
    'labels'
    """
    several = isinstance(options.get("target"), list | tuple | np.ndarray)
    return "labels" if model == "classifier" and several else model


HINTS = {
    "init": "infl.tl.fit_federated alone begins with a fitted model, in this process",
    "use_rep": "models read X or layer=; to fit on a representation, make AnnData(adata.obsm['X_pca'], obs=adata.obs) of it",
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
    "split": "holdout",
}
"""What other packages call it."""


def make_task(model: str | Task, options: dict[str, Any], also: Iterable[str] = ()) -> Task:
    """Return a task from its name and options, or check one that was given.

    A task of a class that no package registered is known by its name in this process from then on
    (``infl.settings.tasks``), so that its model builds it again. `also` are names that the caller takes itself: what is
    misspelt may be one of them.

    Raises
    ------
    SettingsError
        An option that the task does not have (with the nearest that it has), or a name that means another class.
    """
    if isinstance(model, type) and issubclass(model, Task):
        raise SettingsError(f"model={model.__name__} is a class: give an object of it, {model.__name__}(…)")
    if not isinstance(model, Task | str):
        raise SettingsError(
            f"model={shown(model)}: give the name of a task, such as 'classifier', or a task, such as "
            "infl.models.Classifier(target=…); a fitted model goes to infl.tl.predict"
        )
    cls = type(model) if isinstance(model, Task) else task_class(name_by_target(model, options))
    if isinstance(model, Task) and not is_installed(model):
        settings.tasks[model.name] = cls
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    options = without_aliases(options, known)
    for option in options:
        if option not in known and option in inspect.get_annotations(cls):
            raise SettingsError(
                f"model {cls.name!r} has no option {option!r} yet: write @dataclasses.dataclass(frozen=True) above class {cls.__name__}"
            )
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
    near = near or difflib.get_close_matches(option.casefold(), all_known, 1)
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
