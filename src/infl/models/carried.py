"""Weights of a fitted model for another panel: what both name alike is carried over, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from infl._warn import warn
from infl.data import units
from infl.errors import DataError, SettingsError
from infl.models.task import Task

if TYPE_CHECKING:
    from torch import Tensor

    from infl.models.locked import Header

MAY_DIFFER = frozenset(Task.parameters) | {
    "validation",
    "min_steps",
    "stratify",
    "features",
    "dropout",
    "dropout_rate",
    "kl_warmup",
    "classification_ratio",
    "unlabelled",
    "balance",
    "balance_moments",
    "calibrate",
    "atlas",
}
"""Options of a task that do not change what a weight means."""
FOLLOWS = ("class_type", "units")
"""Entries of a panel that are not compared, since they follow from others."""
MAY_BE_NEW = ("sites", "covariates")
"""Entries of which a fit may have none of the model's names."""


class AsTheOthers(tuple[str, ...]):
    """Names along an axis whose new members begin as the mean of the old, where a zero would be no start without effect."""


def check_carried(header: Header, task: Task, panel: Mapping[str, Any]) -> None:
    """Refuse a model that a fit cannot begin with, and warn of what the fit will not have of it.

    Parameters
    ----------
    header
        Of the model.
    task, panel
        Of the fit.

    Raises
    ------
    SettingsError
        The model is of another task, or of other options.
    DataError
        The two share no feature or no class, or values are of another kind.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)
    >>> check_carried(run.model.header, infl.models.Survival(time="t", event="e"), run.model.header.panel)
    Traceback (most recent call last):
    infl.errors.SettingsError: init= is a model of 'classifier', and 'survival' is fitted: ...
    """
    if header.task != task.name:
        raise SettingsError(
            f"init= is a model of {header.task!r}, and {task.name!r} is fitted: give a model of that task"
        )
    if header.lock == "published":
        raise SettingsError(
            "init= is locked as published, so its weights work with the coordinates of their own run alone: give a model with "
            "lock='field', or without a lock"
        )
    of_model, of_fit = header.build_task().options(), task.options()
    for option, value in of_fit.items():
        if option not in MAY_DIFFER and of_model[option] != value:
            raise SettingsError(
                f"init= was fitted with {option}={of_model[option]!r}, and this fit has {option}={value!r}: leave {option}= out, "
                "and the model's is taken"
            )
    known = [[u for u in one.get("units", ()) if u.rpartition(":")[2] in units.KINDS] for one in (header.panel, panel)]
    if all(known) and not set(known[0]) & set(known[1]):
        raise DataError(
            f"the sites have {known[1][0]}, and init= was fitted on {known[0][0]}: bring the sites' values to that kind"
        )
    for entry, names in panel.items():
        known_as = header.panel.get(entry)
        if names == known_as or entry in FOLLOWS:
            continue
        if entry not in task.carried_by_name or type(task).units is Task.units:
            raise SettingsError(
                f"init= was fitted with other {entry}, and a model of {task.name!r} goes on only with the same: fit it anew"
            )
        groups = names if isinstance(names, Mapping) else {entry: names}
        before = known_as if isinstance(known_as, Mapping) else {entry: known_as}
        for kind, values in groups.items():
            _check_names(kind, before.get(kind) or [], values, may_be_new=entry in MAY_BE_NEW)


def _check_names(kind: str, of_model: Sequence[str], of_fit: Sequence[str], *, may_be_new: bool) -> None:
    """Refuse names if none is shared, but for those that `may_be_new`; warn of those of the model that the fit lacks."""
    there, known = set(of_fit), set(of_model)
    lost = [name for name in of_model if name not in there]
    new = [name for name in of_fit if name not in known]
    if known and there and len(lost) == len(known) and not may_be_new:
        raise DataError(
            f"{kind} of init=, such as {of_model[0]!r}, and of the sites, such as {of_fit[0]!r}, have no name in common: "
            "spell them alike, infl.pp.harmonise"
        )
    if lost:
        who = "this fit has no" if kind == "sites" else "no site has"
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        renamed = f"; if it is the same as {new[0]!r}, which is new, rename it and fit again" if new else ""
        warn(f"{who} {lost[0]!r}{more} of the {len(known)} {kind} of init=: the new model is without{renamed}")


def carried(
    fresh: Tensor,
    old: Tensor,
    name: str,
    units_of: Mapping[int, Sequence[str]],
    old_units: Mapping[int, Sequence[str]],
) -> Tensor:
    """Return a tensor of a fresh module with the weights of an old one, matched by the names of its units.

    A new input (any axis but the first) begins with zeros, so that it has no effect before training, and a new member of
    :class:`AsTheOthers` as the mean of the old; a new output (the first axis) keeps its fresh weights.

    Parameters
    ----------
    fresh, old
        The tensor in both modules.
    name
        For the message.
    units_of, old_units
        Names along axes, of both.

    Raises
    ------
    SettingsError
        Sizes differ along an axis without names.

    Examples
    --------
    >>> import torch
    >>> old = torch.tensor([[1.0, 2.0]])
    >>> carried(torch.full((1, 3), 9.0), old, "w", {1: ["b", "c", "a"]}, {1: ["a", "b"]})
    tensor([[2., 0., 1.]])
    """
    import pandas as pd
    import torch

    result = fresh.detach().clone()
    to: list[Tensor] = []
    at: list[Tensor] = []
    averaged: list[tuple[int, Tensor, Tensor]] = []
    if fresh.ndim != old.ndim:
        raise SettingsError(
            f"init= has {name} as {tuple(old.shape)}, and this fit needs {tuple(fresh.shape)}: fit it anew"
        )
    for axis in range(fresh.ndim):
        new_names, old_names = units_of.get(axis), old_units.get(axis)
        if new_names is None or old_names is None:
            if fresh.shape[axis] != old.shape[axis]:
                raise SettingsError(
                    f"init= has {name} as {tuple(old.shape)}, and this fit needs {tuple(fresh.shape)}: fit it anew"
                )
            where = torch.arange(fresh.shape[axis])
            to, at = [*to, where], [*at, where]
            continue
        places = torch.from_numpy(
            pd.Index(old_names, dtype=object).get_indexer(pd.Index(new_names, dtype=object)).copy()
        )
        shared = torch.nonzero(places >= 0)[:, 0]
        if isinstance(new_names, AsTheOthers):
            averaged.append((axis, shared, torch.nonzero(places < 0)[:, 0]))
        elif axis:
            result.index_fill_(axis, torch.nonzero(places < 0)[:, 0], 0.0)
        to, at = [*to, shared], [*at, places[shared]]
    if not to:
        return old.detach().clone().to(fresh.dtype)
    result[torch.meshgrid(*to, indexing="ij")] = old[torch.meshgrid(*at, indexing="ij")].to(fresh.dtype)
    for axis, shared, new in averaged:
        if len(shared):
            mean = result.index_select(axis, shared).mean(axis, keepdim=True)
            result.index_copy_(axis, new, mean.expand_as(result.index_select(axis, new)).contiguous())
    return result
