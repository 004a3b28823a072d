"""Writing results into the user's object: all together, at the end, in forms that h5ad and zarr keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.errors import SettingsError
from infl.models.locked import LockedModel

if TYPE_CHECKING:
    import pandas as pd

    from infl.federation.run import FederatedRun


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


def model_facts(model: LockedModel, *, opened: bool) -> dict[str, Any]:
    """Return what ``uns`` says of a model: names, versions and the key's fingerprint, never the key."""
    h = model.header
    return {
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
    return {"settings": settings, "history": table_arrays(run.history)}


def table_arrays(table: pd.DataFrame) -> Mapping[str, np.ndarray]:
    """Return a table's index and columns as arrays."""
    return {str(table.index.name): table.index.to_numpy()} | {str(c): table[c].to_numpy() for c in table}
