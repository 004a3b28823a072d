"""Using a trained model on data."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from infl import _tell
from infl._parameters import door
from infl._threads import threads_for
from infl.errors import InflWarning, SettingsError
from infl.tl._results import checked_model, model_facts

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from mudata import MuData
    from torch import nn

    from infl.keys import Keyring
    from infl.models.locked import LockedModel
    from infl.models.task import Sums


def open_model(model: LockedModel, key: Keyring | None, *, verify: bool = True) -> tuple[nn.Module, Sums]:
    """Return the module and the private arrays that a key opens; without `verify` the arrays stay closed."""
    return model.module(key, verify=verify), model.private_arrays(key if verify else None)


def infer(
    adata: AnnData | MuData,
    model: LockedModel,
    key: Keyring | None,
    *,
    name: str = "the data",
    verify: bool = True,
    judged: bool = False,
    opened: tuple[nn.Module, Sums] | None = None,
) -> dict[str, np.ndarray]:
    """Return what a model says of every observation, or what it is judged by; writes nothing.

    Without `verify` any key is taken, as an attacker would: the private arrays stay closed then. `opened`, from
    :func:`open_model`, spares opening a model again that leaves nothing to the sites.
    """
    with threads_for(model.n_weights):
        return _infer(adata, model, key, name, verify, judged, opened)


def _infer(
    adata: AnnData | MuData,
    model: LockedModel,
    key: Keyring | None,
    name: str,
    verify: bool,
    judged: bool,
    opened: tuple[nn.Module, Sums] | None,
) -> dict[str, np.ndarray]:
    task, panel = model.header.build_task(), model.header.panel
    module, private = opened or open_model(model, key, verify=verify)
    data = task.read(adata, panel, site=name, keyless=not private)
    own = [p for p, _ in module.named_parameters() if p not in model.stored]
    if own:
        unknown = [p for p in own if not task.is_local(p) and "norm" not in p.split(".")]
        if unknown:
            raise SettingsError(
                f"this model leaves {unknown[0]} to each site: predict with the site's own, run.site_models[…]; "
                "there is none for a new site"
            )
        task.adapt(module, data, private)
    return task.judged(module, data, private) if judged else task.infer(module, data, private)


def warn_unopened(model: LockedModel, key: Keyring | None) -> bool:
    """Say whether a model is used with its key, and warn where it is not."""
    locked = model.header.lock != "none"
    if locked and key is None:
        warnings.warn(
            "no key: the stored weights are used as they are, which is not the model that was trained; pass key=",
            InflWarning,
            stacklevel=4,
        )
    return not locked or key is not None


@door()
def predict(
    adata: AnnData | MuData,
    model: LockedModel,
    *,
    key: Keyring | None = None,
    key_added: str = "infl",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Predict with a trained model.

    Parameters
    ----------
    adata
        Observations to predict; features are found by name, in any order. Labels are not needed.
    model
        ``run.model``, or what :func:`infl.load_model` returns.
    key
        Key ring that opens the model. Without it the stored weights are used as they are, with a warning.
    key_added
        Prefix of what is written.
    copy
        Return a copy instead of writing into `adata`.

    Returns
    -------
    The copy, or None. What is written depends on the task; for a classifier

    ``obs["infl_prediction"]``
        Predicted class (categorical).
    ``obs["infl_probability"]``
        Its calibrated probability.
    ``obsm["infl_probabilities"]``
        Probability of each class, in the order of ``uns["infl"]["classes"]`` (n_obs × n_classes).
    ``obsm["X_infl"]``
        Latent, for ``sc.pp.neighbors(use_rep="X_infl")`` (n_obs × width).
    ``uns["infl"]``
        Task, versions, lock and the key's fingerprint.

    Raises
    ------
    KeyringError
        The key is not the model's.
    DataError
        Features of the model are missing.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> infl.tl.predict(sites["site_1"], run.model, key=run.key)
    >>> sites["site_1"].obsm["X_infl"].shape[1]
    64
    """
    model = checked_model(model)
    opened = warn_unopened(model, key)
    outputs = infer(adata, model, key)
    adata = adata.copy() if copy else adata
    with _tell.added({"the data": adata}):
        model.header.build_task().write(adata, outputs, model.header.panel, key_added=key_added)
        adata.uns[key_added] = model_facts(model, opened=opened)
    return adata if copy else None


@door()
def embed(
    adata: AnnData | MuData,
    model: LockedModel,
    *,
    key: Keyring | None = None,
    key_added: str = "infl",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Write a trained model's latent, and nothing else, into ``obsm["X_infl"]``.

    Parameters
    ----------
    adata, model, key, key_added, copy
        As for :func:`infl.tl.predict`.

    Returns
    -------
    The copy, or None. ``obsm["X_" + key_added]`` (n_obs × width) and ``uns[key_added]`` are written.

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
    model = checked_model(model)
    task = model.header.build_task()
    if not hasattr(task, "embed"):
        raise SettingsError(f"model {model.header.task!r} has no latent to embed with")
    opened = warn_unopened(model, key)
    outputs = infer(adata, model, key)
    adata = adata.copy() if copy else adata
    with _tell.added({"the data": adata}):
        task.embed(adata, outputs, key_added=key_added)
        adata.uns[key_added] = model_facts(model, opened=opened)
    return adata if copy else None
