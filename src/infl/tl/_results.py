"""Writing results into the user's object: all together, at the end, in forms that h5ad and zarr keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.errors import DataError, KeyringError, SettingsError
from infl.models.locked import LockedModel, load_model

if TYPE_CHECKING:
    import pandas as pd

    from infl._types import Data
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring


def checked_model(model: object, role: str = "model") -> LockedModel:
    """Return the model; where something else was given, the error names it."""
    if isinstance(model, LockedModel):
        return model
    inner = getattr(model, "model", None)
    if isinstance(inner, LockedModel):
        return inner
    raise SettingsError(
        f"{role}= takes run.model or what infl.load_model returns, not {type(model).__name__}; "
        "read a file with infl.load_model(path)"
    )


def model_and_key(model: object, key: Keyring | None, role: str = "model") -> tuple[LockedModel, Keyring | None]:
    """Return the model of what a user gives, and the key that opens it: a run brings its own, a path is read.

    Raises
    ------
    SettingsError
        It is no model, or the key is none.
    FileError
        The path cannot be read.
    """
    if isinstance(model, str | Path):
        return load_model(model), key
    locked = checked_model(model, role)
    if key is None and locked.header.fingerprint:
        key = getattr(model, "key", None)
    return locked, key


def needed_key(model: object, key: Keyring | None, role: str = "model") -> tuple[LockedModel, Keyring | None]:
    """As :func:`model_and_key`, of what cannot be done without the key.

    Raises
    ------
    KeyringError
        The model is locked, and there is no key.
    """
    locked, key = model_and_key(model, key, role)
    if key is None and locked.header.fingerprint:
        raise KeyringError(
            f"{role}= is locked with key {locked.header.fingerprint}, and says nothing without it: pass key="
        )
    return locked, key


def use_facts(before: object, model: LockedModel, *, opened: bool, run: FederatedRun | None) -> dict[str, Any]:
    """Return what ``uns`` records after a model was used: with settings and history, given or left there by the model's fit."""
    facts = model_facts(model, opened=opened)
    if run is not None:
        return facts | run_facts(run)
    if not isinstance(before, Mapping) or str(before.get("model", "")) != facts["model"]:
        return facts
    return facts | {name: before[name] for name in ("settings", "history", "privacy") if name in before}


def check_writable(objects: Mapping[str, Data]) -> None:
    """Refuse objects that results cannot be written to, before any work.

    Raises
    ------
    infl.errors.DataError
        One is a view of a file on disk; which.
    """
    for name, adata in objects.items():
        parts = [adata, *getattr(adata, "mod", {}).values()]
        if any(getattr(part, "is_view", False) and getattr(part, "isbacked", False) for part in parts):
            raise DataError(
                f"{name} is a view of a file on disk, to which results cannot be written: replace it in sites by its "
                ".to_memory(), or by a copy of its own on disk"
            )


@contextmanager
def all_or_none(objects: Mapping[str, Data]) -> Iterator[None]:
    """Undo what was written to any of the objects when writing to one of them fails."""
    parts = [part for adata in objects.values() for part in (adata, *getattr(adata, "mod", {}).values())]
    before = [_fields(part) for part in parts]
    try:
        yield
    except Exception:
        for part, fields in zip(parts, before, strict=True):
            _put_back(part, fields)
        raise


def _fields(part: Data) -> dict[str, Any]:
    """What may be written to, one level deep: entries are replaced by results, not altered in place."""
    kept: dict[str, Any] = {name: getattr(part, name).copy(deep=False) for name in ("obs", "var")}
    for name in ("obsm", "varm", "obsp", "layers", "uns"):
        if (held := getattr(part, name, None)) is not None:
            kept[name] = {key: dict(v) if isinstance(v, Mapping) else v for key, v in held.items()}
    return kept


def _put_back(part: Data, kept: Mapping[str, Any]) -> None:
    for name in ("obs", "var"):
        now = getattr(part, name)
        if not now.equals(kept[name]):
            with suppress(Exception):  # what cannot be written to was not
                setattr(part, name, kept[name])
    for name, entries in kept.items():
        if name in ("obs", "var"):
            continue
        held = getattr(part, name)
        for key in [key for key in held if key not in entries]:
            del held[key]
        for key, value in entries.items():
            if key is not None and key in held and held[key] is not value:
                with suppress(Exception):
                    held[key] = value


def model_facts(model: LockedModel, *, opened: bool) -> dict[str, Any]:
    """Return what ``uns`` records of a model: names, versions and the key's fingerprint, never the key."""
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
    """Return what ``uns`` records of a run: settings and the rounds' history as arrays."""
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
