"""Fine-tuning a federated model at a site, after the fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infl._device import computing_on, device_named
from infl._isolation import torch_seed
from infl._parameters import Whole, door
from infl._renamed import model_first
from infl._threads import threads_for
from infl.data.sites import as_sites
from infl.federation.fitted import read_as_fitted
from infl.federation.seeds import derive, generator
from infl.federation.training import batches_of, train
from infl.models.atlas import NAMES
from infl.models.locked import LockedModel, lock_model
from infl.sums.confidence import CONFIDENCE
from infl.tl._comparison import goodness
from infl.tl._results import needed_key
from infl.tl._use import check_use

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from infl._types import Data
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring


@dataclass(frozen=True)
class Personalised:
    """Result of :func:`personalise`.

    Attributes
    ----------
    models
        Each site's own model, locked under the key of the global one.
    table
        One row per site: ``site``, ``n_train``, ``n_validation``, ``epochs`` (0: the global model was best and is kept), the
        monitored and the headline metric on the site's validation data ``before`` and ``after``, and a ``note`` where a site
        could not be fine-tuned. The epoch was chosen on the same data, so ``after`` is hopeful; :func:`infl.tl.compare` with ``"infl_personal"`` measures on others.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> personal = infl.tl.personalise(run, sites, key=run.key)
    >>> sorted(personal.models) == sorted(sites), len(personal.table)
    (True, 5)
    """

    models: dict[str, LockedModel] = field(repr=False)
    table: pd.DataFrame


@model_first
@door(patience=Whole(1))
def personalise(
    model: LockedModel | FederatedRun,
    sites: Mapping[str, Data] | Data,
    *,
    site_key: str | None = None,
    key: Keyring | None = None,
    epochs: int = 30,
    patience: int = 5,
    seed: int = 0,
    device: str = "auto",
) -> Personalised:
    """Go on training the global model at each site, on its own data, as long as its validation data gain from it.

    Nothing is sent. A site whose validation data gain nothing, or that has none, keeps the global model. So does a site with
    one class: it would only learn to name that class always.

    Parameters
    ----------
    model
        ``run.model``, or the run itself: then sites with weights of their own go on from those.
    sites, site_key
        As for :func:`infl.tl.fit_federated`; a site that was in the fit splits off the same validation part. Not altered.
    key
        Key ring that opens the model (default: that of the run).
    epochs, patience
        Most passes over a site's data, and how many without a better epoch end it. Better is a higher headline metric of the
        task (balanced accuracy) on the validation data, or the same with a lower loss.
    seed
        Fixes batches and dropout.
    device
        Where models are trained: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` for ``infl.settings.device``, by default a CUDA device where
        there is one and else the processor.

    Returns
    -------
    Personalised
        ``.models`` by site, for :func:`infl.tl.predict`, and ``.table``.

    Raises
    ------
    InflError
        The key does not open the model, or the data do not fit it.

    References
    ----------
    Wang et al., Federated evaluation of on-device personalization, arXiv 1910.10252.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> own = infl.tl.personalise(run, sites, key=run.key, epochs=3)
    >>> infl.tl.predict(sites["site_1"], own.models["site_1"], key=run.key)
    >>> own.table["site"].tolist() == list(sites)
    True
    """
    import pandas as pd

    shared, key = needed_key(model, key)
    own = getattr(model, "site_models", {})
    tables = as_sites(sites, site_key)
    check_use(tables, shared.header.build_task(), shared.header.panel, training=True)
    models, rows, place = {}, [], device_named(device)
    for site, adata in tables.items():
        with threads_for(shared.n_weights):
            models[site], row = _fine_tuned(own.get(site, shared), adata, site, key, epochs, patience, seed, place)
        rows.append(row)
    return Personalised(models, pd.DataFrame(rows))


def _fine_tuned(
    model: LockedModel,
    adata: Data,
    site: str,
    key: Keyring | None,
    epochs: int,
    patience: int,
    seed: int,
    device: torch.device,
) -> tuple[LockedModel, dict[str, Any]]:
    """Return a site's model, and its row of the table."""
    h = model.header
    task, private = h.build_task(), model.private_arrays(key)
    data = read_as_fitted(model, adata, site)
    module = model.module(key).to(device)
    optimiser = task.optimise(module.parameters())

    def score() -> dict[str, float]:
        return task.summarise(task.evaluate(module.eval(), data, data.validation))

    note = "one class only: the global model is kept" if data.one_class else ""
    if not len(data.validation):
        note = "no validation data: the global model is kept"
    weights, best_epoch = _copy(module), 0
    with torch_seed(derive(seed, "personal dropout", site)), computing_on(device):
        before = best = score()
        rng = generator(seed, "personal batches", site)
        for epoch in range(1, epochs + 1) if not note else ():
            batches = batches_of(data, task.batch_size, rng)
            train(task, module.train(), data, batches, optimiser, round=epoch, rounds=epochs)
            now = score()
            if goodness(task, now) > goodness(task, best):
                best, weights, best_epoch = now, _copy(module), epoch
            elif epoch - best_epoch >= patience:
                break
    row: dict[str, Any] = {"site": site, "n_train": len(data.train), "n_validation": len(data.validation)}
    row["epochs"] = best_epoch
    for metric in dict.fromkeys((task.monitor, task.headline)):
        if metric in before:  # some headlines are measured on held-out observations only
            row |= {f"{metric}_before": before[metric], f"{metric}_after": best[metric]}
    row["note"] = note
    if best_epoch:
        private = {n: v for n, v in private.items() if n not in (CONFIDENCE, *NAMES)}  # these are of the weights before
    return lock_model(h, weights, private | task.local_arrays(data), key, salts=model.salts_of(weights, key)), row


def _copy(module: Any) -> dict[str, Any]:
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in module.named_parameters()}
