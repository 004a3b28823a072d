"""Using a trained model on data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from infl import _tell
from infl._device import device_named
from infl._parameters import SEVERAL_DATA, Real, door
from infl._warn import warn
from infl.data.check import check_site_names
from infl.data.copy import in_memory
from infl.data.sites import as_sites, site_rows
from infl.errors import SettingsError
from infl.federation.run import FederatedRun
from infl.models.locked.outputs import infer
from infl.models.protocols import Embeds
from infl.tl._reject import Rejection
from infl.tl._results import all_or_none, check_writable, model_and_key, use_facts
from infl.tl._use import check_use, with_layer

if TYPE_CHECKING:
    from infl._types import Data
    from infl.keys import Keyring
    from infl.models.locked import LockedModel


def warn_unopened(model: LockedModel, key: Keyring | None) -> bool:
    """Log whether a model is used with its key, and warn where it is not."""
    locked = model.header.lock != "none"
    if locked and key is None:
        warn("no key: the stored weights are used as they are, which is not the model that was trained; pass key=")
    return not locked or key is not None


@door(adata=SEVERAL_DATA, reject=Real(0, 1, open="both", none=True))
def predict(
    adata: Data | Mapping[str, Data],
    model: LockedModel | FederatedRun | str | Path,
    *,
    key: Keyring | None = None,
    site_key: str | None = None,
    layer: str | None = None,
    key_added: str = "infl",
    copy: bool = False,
    check_units: bool = True,
    reject: float | None = None,
    device: str = "auto",
) -> Data | dict[str, Data] | None:
    """Predict with a trained model.

    Parameters
    ----------
    adata
        Observations to predict, or several objects by name; features are found by name, in any order. Labels are not needed.
        What a classifier's features lack, or have as NaN, is masked with a warning that counts it; beyond half of the values
        the data are refused.
    model
        A run, ``run.model``, what :func:`infl.load_model` returns, or the path of a model file. With a run, sites of the fit
        are predicted with their own weights, where these stay at the sites.
    key
        Key ring that opens the model (default: that of the run). Without it the stored weights are used as they are, with a
        warning.
    site_key
        Column of ``obs`` with each observation's site: each site is then predicted by itself, as with
        several objects.
    layer
        Layer to read instead of the one that the model was fitted on; ``"X"`` for X.
    key_added
        Prefix of what is written.
    copy
        Return a copy, or copies by name, instead of writing into `adata`.
    check_units
        Refuse values of another kind than those of the fit: counts for a model of logarithms.
    reject
        Of a classifier: the share of observations to leave ``"unassigned"``, those that it is least sure of. The probability
        below which they lie was calibrated on validation observations of all sites, by a sum, so among observations like those
        of the fit that share is unassigned; among harder ones more. Labels are then categories of text. Of several columns of
        labels each leaves out its own.
    device
        Where the model computes: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` for ``infl.settings.device``, by default a CUDA device where
        there is one and else the processor.

    Returns
    -------
    The copy or copies, or None. What is written depends on the task; for a classifier

    ``obs["infl_prediction"]``
        Predicted class, in the type of the labels of the fit (text: categorical).
    ``obs["infl_probability"]``
        Its calibrated probability.
    ``obsm["infl_probabilities"]``
        Probability of each class, in the order of ``uns["infl"]["classes"]`` (n_obs × n_classes).
    ``obsm["X_infl"]``
        Latent, for ``sc.pp.neighbors(use_rep="X_infl")`` (n_obs × width).
    ``uns["infl"]``
        Task, versions, lock and the key's fingerprint; settings and history of the fit, if a run is given or they are there.
        With `reject`, ``uns["infl"]["reject"]`` has the ``share``, the ``threshold``, and the ``error`` among those validation
        observations that were at or above it; of several columns of labels the same for each, by its name.

    Raises
    ------
    KeyringError
        The key is not the model's.
    DataError
        Features of the model are missing, occur twice or are infinite, a layer is missing, or values are of another kind.
    SettingsError
        `reject` of a model that has no counts to calibrate it by.

    Warns
    -----
    InflWarning
        Something is masked, or there is no key.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> infl.tl.predict(sites["site_1"], run.model, key=run.key)
    >>> sites["site_1"].obsm["X_infl"].shape[1]
    64
    >>> infl.tl.predict(sites, run)  # all of them, with the run's key
    """
    return _use(
        adata, model, key, site_key, layer, key_added, copy, check_units, write=True, reject=reject, device=device
    )


@door(adata=SEVERAL_DATA)
def embed(
    adata: Data | Mapping[str, Data],
    model: LockedModel | FederatedRun | str | Path,
    *,
    key: Keyring | None = None,
    site_key: str | None = None,
    layer: str | None = None,
    key_added: str = "infl",
    copy: bool = False,
    check_units: bool = True,
    device: str = "auto",
) -> Data | dict[str, Data] | None:
    """Write a trained model's latent, and nothing else, into ``obsm["X_infl"]``.

    Parameters
    ----------
    adata, model, key, site_key, layer, key_added, copy, check_units, device
        As for :func:`infl.tl.predict`.

    Returns
    -------
    The copy or copies, or None. ``obsm["X_" + key_added]`` (n_obs × width) and ``uns[key_added]`` are written.

    Raises
    ------
    SettingsError
        The task has no latent.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> infl.tl.embed(sites["site_2"], run.model, key=run.key)
    >>> sorted(sites["site_2"].obsm)[:1]
    ['X_infl']
    """
    return _use(adata, model, key, site_key, layer, key_added, copy, check_units, write=False, device=device)


def _use(
    adata: Data | Mapping[str, Data],
    model: LockedModel | FederatedRun | str | Path,
    key: Keyring | None,
    site_key: str | None,
    layer: str | None,
    key_added: str,
    copy: bool,
    check_units: bool,
    *,
    write: bool,
    device: str,
    reject: float | None = None,
) -> Data | dict[str, Data] | None:
    """Check everything, compute everything, then write: all that a task writes, or its latent alone."""
    run = model if isinstance(model, FederatedRun) else None
    shared, key = model_and_key(model, key)
    whole = None if isinstance(adata, Mapping) else cast("Data", adata)
    objects = as_sites(adata, site_key) if whole is None else {"the data": whole}
    parts = objects if site_key is None else as_sites(adata, site_key)
    check_site_names(parts)
    if not copy:
        check_writable(objects)
    task = with_layer(shared.header.build_task(), layer, parts)
    if not write and not isinstance(task, Embeds):
        raise SettingsError(f"model {shared.header.task!r} has no latent to embed with")
    unsure = [] if reject is None else Rejection.of(shared, key, reject)
    opened = warn_unopened(shared, key)
    check_use(parts, task, shared.header.panel, check_units=check_units)
    models = {} if run is None else {name: run.site_models[name] for name in parts if name in run.site_models}
    place = device_named(device)
    outputs = {
        name: infer(part, models.get(name, shared), key, name=name, task=task, device=place)
        for name, part in parts.items()
    }
    if whole is not None and site_key is not None:
        outputs = {"the data": _together(whole, site_key, parts, outputs)}
    results = {name: in_memory(part) for name, part in objects.items()} if copy else objects
    with all_or_none(results), _tell.added(results):
        for name, part in results.items():
            if write:
                task.write(part, outputs[name], shared.header.panel, key_added=key_added)
            elif isinstance(task, Embeds):
                task.embed(part, outputs[name], key_added=key_added)
            used = models.get(name, shared)
            part.uns[key_added] = use_facts(part.uns.get(key_added), used, opened=opened, run=run)
            for column in unsure:
                column.write(part, key_added)
    if not copy:
        return None
    return results if whole is None else results["the data"]


def _together(
    adata: Data, site_key: str, parts: Mapping[str, Data], outputs: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return the outputs of the parts of one object in the order of its observations."""
    whole: dict[str, np.ndarray] = {}
    of_site = site_rows(adata, site_key)
    for site in parts:
        rows = of_site[site]
        for name, values in outputs[site].items():
            if len(values) != len(rows):
                raise SettingsError(
                    "this model's results at a site are not one for each observation: give a dict of objects in place of "
                    "site_key= (infl.pp.split_sites makes one)"
                )
            if name not in whole:
                whole[name] = np.empty((adata.n_obs, *values.shape[1:]), dtype=values.dtype)
            whole[name][rows] = values
    return whole
