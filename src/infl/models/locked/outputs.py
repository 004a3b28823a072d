"""What a stored model says of data, with its key or without: the numbers, before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from infl._device import computing_on
from infl._threads import threads_for
from infl.errors import SettingsError

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from mudata import MuData
    from torch import nn

    from infl.keys import Keyring
    from infl.models.locked.model import LockedModel
    from infl.models.task import Sums, Task


def open_model(model: LockedModel, key: Keyring | None, *, verify: bool = True) -> tuple[nn.Module, Sums]:
    """Return the module and the private arrays that a key opens; without `verify` the arrays stay closed."""
    return model.module(key, verify=verify), model.private_arrays(key if verify else None)


def left_to_sites(model: LockedModel, module: nn.Module, task: Task) -> bool:
    """Whether a model has parameters that each site learns for itself, which a new one can.

    Raises
    ------
    SettingsError
        A new site cannot: they are learned from labels.
    """
    own = [p for p, _ in module.named_parameters() if p not in model.stored]
    unknown = [p for p in own if not task.is_local(p) and "norm" not in p.split(".")]
    if unknown:
        raise SettingsError(
            f"this model leaves {unknown[0]} to each site: predict with the site's own, run.site_models[…]; "
            "there is none for a new site"
        )
    return bool(own)


def infer(
    adata: AnnData | MuData,
    model: LockedModel,
    key: Keyring | None,
    *,
    name: str = "the data",
    verify: bool = True,
    for_scoring: bool = False,
    opened: tuple[nn.Module, Sums] | None = None,
    task: Task | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """Return a model's outputs for every observation, or those that it is scored by; checks and writes nothing.

    Without `verify` any key is taken, as an attacker would: the private arrays stay closed then. `opened`, from
    :func:`open_model`, spares opening a model again that leaves nothing to the sites. `task` reads the data in place of
    the model's own, from another layer. An opened module is moved to `device`, and stays there.
    """
    import torch

    task = task or model.header.build_task()
    with threads_for(model.n_weights):
        return _infer(adata, model, key, name, verify, for_scoring, opened, task, torch.device(device))


def _infer(
    adata: AnnData | MuData,
    model: LockedModel,
    key: Keyring | None,
    name: str,
    verify: bool,
    for_scoring: bool,
    opened: tuple[nn.Module, Sums] | None,
    task: Task,
    device: torch.device,
) -> dict[str, np.ndarray]:
    panel = model.header.panel
    module, private = opened or open_model(model, key, verify=verify)
    data = task.read(adata, panel, site=name, keyless=not private)
    module.to(device)
    with computing_on(device):
        if left_to_sites(model, module, task):
            task.adapt(module, data, private)
        return task.scoring_outputs(module, data, private) if for_scoring else task.infer(module, data, private)
