"""What a fit checks, checked again in the same words when a fitted model is used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from anndata import AnnData
from mudata import MuData

from infl._warn import warn
from infl.data import units
from infl.data.check import check_layer, check_unique, check_values, measured, tables
from infl.data.newcomer import check_modalities
from infl.errors import DataError, SettingsError
from infl.models.protocols import ChoosesFeatures, ReadsLayer, ReadsModality

if TYPE_CHECKING:
    from infl._types import Data
    from infl.models.task import Task

MOST_MASKED = 0.5
"""Share of a model's values that data may lack, as features that were not measured or as NaN; beyond it they are refused."""


def with_layer(task: Task, layer: str | None, data: Mapping[str, Data]) -> Task:
    """Return the task reading another layer of the data; ``"X"`` is X, where no layer is called so."""
    if layer is None:
        return task
    if not isinstance(task, ReadsLayer):
        raise SettingsError(f"model {task.name!r} reads no layer: leave layer= out")
    named = layer != "X" or any(layer in table.layers for adata in data.values() for table in tables(adata).values())
    return dataclasses.replace(task, layer=layer if named else None)  # type: ignore[call-arg]


def check_modality(task: Task, data: Mapping[str, Data]) -> None:
    """Refuse a modality where there are none, before a fit."""
    modality = _modality(task)
    if modality is not None and not any(isinstance(adata, MuData) for adata in data.values()):
        raise SettingsError(f"modality={modality!r} is of a MuData, and these are AnnData: leave it out")


def takes_union(task: Task) -> bool:
    """Whether a task's panel has the features that any site measured."""
    return isinstance(task, ChoosesFeatures) and task.features == "union"


def _modality(task: Task) -> str | None:
    return task.modality if isinstance(task, ReadsModality) else None


def check_use(
    data: Mapping[str, Data],
    task: Task,
    panel: Mapping[str, Any],
    *,
    training: bool = False,
    check_units: bool = True,
) -> None:
    """Check data, by name, before a model reads them; alters nothing.

    Parameters
    ----------
    data
        Objects by name.
    task, panel
        Of the model.
    training
        The data are trained on or judged by, so that nothing may be missing, as in the fit.
    check_units
        Refuse values of another kind than those of the fit.

    Raises
    ------
    DataError
        What is wrong, where, and what to do.
    """
    masks = task.takes_missing and not training
    for name, adata in data.items():
        if not isinstance(adata, AnnData | MuData):
            raise DataError(f"{name} is {type(adata).__name__}; it must be AnnData or MuData")
        check_unique(adata.obs_names, "obs_names", name)
        if not training:
            check_modalities(adata, panel.get("features", ()), _modality(task), name)
        for modality, (table, features) in _parts(adata, name, task, panel).items():
            where, layer = (
                f"{name} ({modality})" if modality else name,
                task.layer if isinstance(task, ReadsLayer) else None,
            )
            there = features.isin(measured(table))
            if not there.any():
                continue  # reading it raises an error, unless another modality serves instead
            check_unique(table.var_names[table.var_names.isin(features)], "feature names", where)
            if not (task.predicts_from_features or training):
                continue
            check_layer(table, layer, where)
            if check_units:
                _check_kind(units.units_of(table, layer), panel.get("units", ()), modality, where)
            nan = check_values(table, layer, where, features, masked=masks)
            if masks:
                # what some sites of the fit lacked too, the model knows to be without
                usual = bool(modality) or takes_union(task)
                lacking = features[:0] if usual else features[~there]
                count_masked(lacking, nan, len(features), table.n_obs, where)


def _parts(adata: Data, name: str, task: Task, panel: Mapping[str, Any]) -> dict[str, tuple[AnnData, pd.Index]]:
    """Return the tables that a model reads, by modality, with the features that it reads of each."""
    has, modality = tables(adata, name), _modality(task)
    features = list(panel.get("features", ()))
    if isinstance(adata, MuData) and modality in has:
        has = {"": has[modality]}
    wanted = {
        m: features if not m else [f.removeprefix(f"{m}:") for f in features if f.startswith(f"{m}:")] for m in has
    }
    return {m: (has[m], pd.Index(names, dtype=object)) for m, names in wanted.items() if names}


def _check_kind(kind: str | None, of_fit: Any, modality: str, where: str) -> None:
    """Refuse values of a kind that no site of the fit had."""
    kinds = [unit.removeprefix(f"{modality}:") for unit in of_fit]
    known = [k for k in kinds if k in units.KINDS]
    if known and kind not in known:
        units.check_units({where: kind, "the fit": known[0]}, escape="check_units=False")


def count_masked(
    lacking: pd.Index, nan: int, n_features: int, n_obs: int, where: str, *, become: str = "masked"
) -> None:
    """Warn in one line of how much is masked, or what else becomes of it, and refuse too much."""
    if not len(lacking) and not nan:
        return
    problems = [f"lacks {len(lacking)} of {n_features} features, first {lacking[0]!r}"] if len(lacking) else []
    problems += [f"has {nan} NaN in the model's features"] if nan else []
    line, share = " and ".join(problems), (len(lacking) * n_obs + nan) / (n_features * n_obs)
    if share > MOST_MASKED:
        raise DataError(
            f"{where} {line}: {share:.0%} of what the model reads, and at most {MOST_MASKED:.0%} can be {become}; give data that "
            "have them, spelt as in the fit"
        )
    warn(f"{where} {line}: they are {become}")
