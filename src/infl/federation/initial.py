"""The module of a run with its initial weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infl._device import computing_on
from infl._isolation import torch_seed
from infl.errors import SettingsError
from infl.federation.rules import rule
from infl.federation.seeds import derive
from infl.models.lock_schemes import lock_scheme
from infl.nn.flat import FlatModule

if TYPE_CHECKING:
    import torch

    from infl.federation.agreement import Agreement
    from infl.federation.start import Start
    from infl.models.task import Sums, Task


def build_flat_model(
    task: Task, agreement: Agreement, start: Start | None = None, device: torch.device | str = "cpu"
) -> FlatModule:
    """Return the module of an agreement, on a device, with its initial weights: the public seed fixes them, or a model gives them."""
    with torch_seed(derive(agreement.seed, "initial weights")):
        scheme = lock_scheme(agreement.lock, agreement.strength)
        chosen = rule(agreement.aggregation, agreement.aggregation_options)
        module = scheme.wrap(task.build(agreement.panel))
        flat_model = FlatModule(module.to(device), lambda name: task.is_local(name) or chosen.is_local(name))
    if not flat_model.shared.total:
        raise SettingsError("every parameter stays at its site, so there is nothing to average: name fewer modules")
    unknown = [part for part in chosen.local if not any(part in e.name.split(".") for e in flat_model.local.entries)]
    if unknown:
        known = dict.fromkeys(e.name.split(".")[0] for e in flat_model.shared.entries)
        raise SettingsError(f"the model has no module {unknown[0]!r} to keep at the sites: it has {', '.join(known)}")
    if start is not None:
        start.load(flat_model, task, agreement.panel)
    return flat_model


def configure(task: Task, flat_model: FlatModule, private: Sums) -> None:
    """Put private arrays where the module uses them."""
    with computing_on(flat_model.flat.device):
        task.configure(flat_model.module, private)
