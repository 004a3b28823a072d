"""What attacks do with a task that has :class:`infl.models.ClassProbabilities`, whoever wrote it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from infl.errors import SettingsError
from infl.models.protocols import ClassProbabilities

if TYPE_CHECKING:
    from infl.federation.replica import Replica
    from infl.models.task import SiteData, Task

Changed = TypeVar("Changed", bound="Task")


def with_options(task: Changed, **options: Any) -> Changed:
    """Return the task with other options, those of them that it has.

    Examples
    --------
    >>> from infl.models import Classifier
    >>> with_options(Classifier(target="kind"), dropout=0.0, depth=3).dropout
    0.0
    """
    known = {field.name for field in dataclasses.fields(task) if field.init}
    return dataclasses.replace(task, **{name: value for name, value in options.items() if name in known})


def rows_seen(replica: Replica, data: SiteData) -> np.ndarray:
    """Return what the first layer really saw of a site's training rows. ``(n_train, n_features)``"""
    assert isinstance(replica.task, ClassProbabilities)
    return replica.task.scaled(data.batch(data.train)[0].numpy(), replica.private)


def last_bias(task: Task, panel: Mapping[str, Any]) -> str:
    """Return the name of the parameter whose one axis is the classes.

    Raises
    ------
    SettingsError
        The task names no such.

    Examples
    --------
    >>> from infl.models import Classifier
    >>> last_bias(Classifier(target="kind"), {"features": ["g"], "classes": ["a", "b"]})
    'head.bias'
    """
    classes = list(panel["classes"])
    found = [name for name, axes in task.units(panel).items() if {k: list(v) for k, v in axes.items()} == {0: classes}]
    biases = [name for name in found if name.endswith("bias")]
    if not biases:
        raise SettingsError(f"model {task.name!r}: units() must name the classes along the last layer's bias")
    return biases[0]
