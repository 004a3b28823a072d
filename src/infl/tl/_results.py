"""Writing results into the user's object: all together, at the end, in forms that h5ad and zarr keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.errors import KeyringError, SettingsError
from infl.models.locked import LockedModel, load_model
from infl.pp._matrix import check_key

if TYPE_CHECKING:
    import pandas as pd

    from infl.federation.run import FederatedRun
    from infl.keys import Keyring


def checked_model(model: object) -> LockedModel:
    """Return the model, or say in one line what was given instead."""
    if isinstance(model, LockedModel):
        return model
    inner = getattr(model, "model", None)
    if isinstance(inner, LockedModel):
        return inner
    raise SettingsError(
        f"model= takes run.model or what infl.load_model returns, not {type(model).__name__}; "
        "read a file with infl.load_model(path)"
    )


def model_and_key(model: object, key: Keyring | None) -> tuple[LockedModel, Keyring | None]:
    """Return the model of what a user gives, and the key that opens it: a run brings its own, a path is read.

    Raises
    ------
    SettingsError
        It is no model, or the key is none.
    FileError
        The path cannot be read.
    """
    check_key(key)
    if isinstance(model, str | Path):
        return load_model(model), key
    locked = checked_model(model)
    if key is None and locked.header.fingerprint:
        key = getattr(model, "key", None)
    return locked, key


def needed_key(model: object, key: Keyring | None) -> tuple[LockedModel, Keyring | None]:
    """As :func:`model_and_key`, of what cannot be done without the key.

    Raises
    ------
    KeyringError
        The model is locked, and there is no key.
    """
    locked, key = model_and_key(model, key)
    if key is None and locked.header.fingerprint:
        raise KeyringError(
            f"this model is locked with key {locked.header.fingerprint}, and its weights are nothing to go on from: pass key="
        )
    return locked, key


def use_facts(before: object, model: LockedModel, *, opened: bool, run: FederatedRun | None) -> dict[str, Any]:
    """Return what ``uns`` says after a model was used: with settings and history, given or left there by the model's fit."""
    facts = model_facts(model, opened=opened)
    if run is not None:
        return facts | run_facts(run)
    if not isinstance(before, Mapping) or str(before.get("model", "")) != facts["model"]:
        return facts
    return facts | {name: before[name] for name in ("settings", "history", "privacy") if name in before}


def model_facts(model: LockedModel, *, opened: bool) -> dict[str, Any]:
    """Return what ``uns`` says of a model: names, versions and the key's fingerprint, never the key."""
    h = model.header
    return {
        "model": h.digest[:16],
        "task": h.task,
        "infl_version": h.infl_version,
        "lock": h.lock,
        "strength": h.strength,
        "key_fingerprint": h.fingerprint or "none",
        "key_version": h.key_version,
        "opened_with_key": opened,
        "sites": np.asarray(h.sites, dtype=str),
        "classes": np.asarray(h.panel.get("classes", ()), dtype=str),
    }


def run_facts(run: FederatedRun) -> dict[str, Any]:
    """Return what ``uns`` says of a run: settings and the rounds' history as arrays."""
    skip = ("options", "aggregation_options", "sites", "task", "lock", "strength", "fingerprint", "key_version", "salt")
    settings = {k: v for k, v in run.settings.items() if k not in skip and isinstance(v, str | int | float | bool)}
    settings |= {
        f"option_{k}": v for k, v in run.settings["options"].items() if isinstance(v, str | int | float | bool)
    }
    privacy = {} if run.privacy is None else {"privacy": run.privacy}
    return {"settings": settings, "history": table_arrays(run.history), **privacy}


def table_arrays(table: pd.DataFrame) -> Mapping[str, np.ndarray]:
    """Return a table's index and columns as arrays."""
    return {str(table.index.name): table.index.to_numpy()} | {str(c): table[c].to_numpy() for c in table}
