"""To and from scvi-tools: a real ``scvi.model.SCVI`` of a locked model, and the lock on one that was trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infl.data.labels import label_text
from infl.errors import DataError, SettingsError
from infl.models.counts import table_of
from infl.models.locked import Header, LockedModel, lock_model
from infl.models.phenotype.data import with_column
from infl.models.scvi import Scvi
from infl.models.scvi.data import BATCH, CATEGORICAL, X
from infl.models.scvi.module import vae_class
from infl.models.task import SITE
from infl.tl._results import model_and_key

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.federation.run import FederatedRun
    from infl.keys import Keyring

UNUSED = ("l_encoder.", "decoder.px_r_decoder.")
FIXED = {
    "use_observed_lib_size": True,
    "latent_distribution": "normal",
    "deeply_inject_covariates": True,
    "batch_representation": "one-hot",
    "log_variational": True,
}
"""Arguments of ``scvi.model.SCVI`` that a locked model cannot have otherwise."""
NORMS = {("both", "none"): "batch", ("none", "both"): "layer"}


def to_scvi(
    model: LockedModel | FederatedRun,
    adata: AnnData | MuData,
    *,
    key: Keyring | None = None,
    site_key: str | None = None,
    site: str | None = None,
) -> Any:
    """Return a ``scvi.model.SCVI`` with the unlocked weights, of a model that ``model="scvi"`` made.

    Parameters
    ----------
    model
        What :func:`infl.tl.fit_federated` returned, or its model.
    adata
        Cells with raw counts. scvi-tools works on a copy with the model's features, ``.adata`` of what is returned.
    key
        Key ring that opens the model (default: that of the run).
    site_key, site
        Column of ``obs`` with the site of each cell, or the one site that all are from.

    Returns
    -------
    scvi.model.SCVI
        Trained, for differential expression and all else.

    Raises
    ------
    SettingsError
        The model is of another kind, or the cells' site is not given.

    Examples
    --------
    >>> import anndata, infl, numpy as np
    >>> cells = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (90, 20)).astype("float32"))
    >>> cells.obs["hospital"] = np.repeat(["a", "b", "c"], 30)
    >>> run = infl.tl.fit_federated(cells, "scvi", site_key="hospital", rounds=1, progress=False)
    >>> theirs = infl.tl.to_scvi(run, cells, site_key="hospital")
    >>> theirs.get_latent_representation().shape
    (90, 10)
    """
    model, key = model_and_key(model, key)
    task = model.header.build_task()
    if type(task) is not Scvi:
        raise SettingsError(f"only model='scvi' can become a scvi.model.SCVI; this model is {model.header.task!r}")
    if model.header.lock == "published":
        raise SettingsError("scvi-tools has no place for the layers of lock='published': fit with lock='field'")
    vae_class()
    from scvi.model import SCVI

    panel = model.header.panel
    table = table_of(adata, task.modality, "the data")
    sites = site_column(table, panel["sites"], site_key=site_key, site=site)
    named = with_column(table, SITE, pd.Series(sites, index=table.obs_names))
    task.read(named, panel, site="the data")  # says in one line what scvi-tools would say in many
    cells = table[:, panel["features"]].copy()
    cells.obs[SITE] = sites
    for name, categories in panel["covariates"].items():
        cells.obs[name] = pd.Categorical(label_text(cells.obs[name]), categories=categories)
    SCVI.setup_anndata(
        cells,
        layer=task.layer,
        batch_key=SITE,
        size_factor_key=task.size_factor,
        categorical_covariate_keys=list(task.categorical_covariates) or None,
        continuous_covariate_keys=list(task.continuous_covariates) or None,
    )
    theirs = SCVI(cells, **task.module_options())
    theirs.module.load_state_dict(model.module(key).state_dict(), strict=False)
    theirs.module.eval()
    theirs.is_trained_ = True
    return theirs


def site_column(table: AnnData, sites: list[str], *, site_key: str | None, site: str | None) -> pd.Categorical:
    """Return the site of each cell among a model's sites.

    Raises
    ------
    SettingsError
        The site is in neither `site_key` nor `site`.
    DataError
        A site that the model was not fitted on.
    """
    from infl.data.columns import obs_column

    if (site_key is None) == (site is None):
        raise SettingsError(
            f"say where the cells are from: site=, one of {', '.join(sites[:8])}, or site_key=, a column of obs"
        )
    if site_key is not None:
        names = label_text(obs_column(table, site_key, where="the data", role="site_key")).to_numpy()
    else:
        names = np.repeat(str(site), table.n_obs)
    strangers = sorted(set(names.tolist()) - set(sites))
    if strangers:
        raise DataError(f"{strangers[0]!r} is not a site of the model, which has {', '.join(sites[:8])}")
    return pd.Categorical(names, categories=sites)


def from_scvi(model: Any, *, key: Keyring | None, lock: str | None = "field", strength: float = 1.0) -> LockedModel:
    """Lock a ``scvi.model.SCVI`` that was trained with scvi-tools.

    Its batches become the locked model's sites. Weights are locked, batch statistics are encrypted.

    Parameters
    ----------
    model
        A trained ``scvi.model.SCVI``.
    key
        Key ring.
    lock, strength
        As for :func:`infl.tl.fit_federated`.

    Returns
    -------
    LockedModel
        For :func:`infl.tl.predict`, ``.save`` and :func:`to_scvi`.

    Raises
    ------
    SettingsError
        It has settings that a locked model cannot have.

    Examples
    --------
    >>> import anndata, infl, numpy as np
    >>> cells = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (90, 20)).astype("float32"))
    >>> cells.obs["hospital"] = np.repeat(["a", "b", "c"], 30)
    >>> import scvi
    >>> scvi.model.SCVI.setup_anndata(cells, batch_key="hospital")
    >>> trained = scvi.model.SCVI(cells)
    >>> trained.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False)
    >>> key = infl.keys.Keyring.create()
    >>> locked = infl.tl.from_scvi(trained, key=key)
    >>> infl.tl.predict(cells, locked, key=key)
    >>> cells.obsm["X_infl"].shape
    (90, 10)
    """
    vae_class()
    from scvi.model import SCVI

    from infl.models.lock_schemes import lock_scheme

    if type(model) is not SCVI:
        raise SettingsError(f"from_scvi takes a scvi.model.SCVI, not {type(model).__name__}")
    if (key is None) != (lock in (None, "none")) or lock == "published":
        raise SettingsError(
            "from_scvi locks with lock='field' and key=, or leaves the model open with lock=None and no key"
        )
    task, panel = _task_of(model), _panel_of(model)
    header = Header(
        task=task.name,
        options=task.options(),
        panel=panel,
        lock=lock_scheme(lock, strength).name,
        strength=lock_scheme(lock, strength).strength,
        key_version=key.current if key else 0,
        fingerprint=key.fingerprint() if key else "",
        seed=0,
        sites=tuple(panel["sites"]),
    )
    kept = {n: t.detach().cpu() for n, t in model.module.state_dict().items() if not n.startswith(_dropped(task))}
    statistics = {name: kept.pop(name).numpy() for name, _ in model.module.named_buffers() if name in kept}
    return lock_model(header, kept, statistics, key)


def _dropped(task: Scvi) -> tuple[str, ...]:
    return UNUSED[:1] if task.dispersion == "gene-cell" else UNUSED


def _task_of(model: Any) -> Scvi:
    """Return the task with a model's options."""
    given: Mapping[str, Any] = {**model._module_kwargs, **(model.init_params_ or {}).get("non_kwargs", {})}
    norm = (given.get("use_batch_norm", "both"), given.get("use_layer_norm", "none"))
    known = ("n_hidden", "n_latent", "n_layers", "dropout_rate", "dispersion", "gene_likelihood")
    for name, value in given.items():
        if name in FIXED and value != FIXED[name]:
            raise SettingsError(f"a scvi.model.SCVI with {name}={value!r} cannot be locked, only with {FIXED[name]!r}")
    if norm not in NORMS:
        raise SettingsError(
            f"a scvi.model.SCVI with use_batch_norm, use_layer_norm = {norm} cannot be locked: have 'both' of one"
        )
    arguments = model.registry_["setup_args"]
    return Scvi(
        layer=arguments["layer"],
        size_factor=arguments["size_factor_key"],
        categorical_covariates=tuple(arguments["categorical_covariate_keys"] or ()),
        continuous_covariates=tuple(arguments["continuous_covariate_keys"] or ()),
        norm=NORMS[norm],  # type: ignore[arg-type]
        encode_covariates=bool(given.get("encode_covariates", False)),
        **{name: given[name] for name in known},
    )


def _panel_of(model: Any) -> dict[str, Any]:
    """Return a model's features, batches and categories of covariates."""
    state = model.adata_manager.get_state_registry
    mappings = state(CATEGORICAL).get("mappings", {}) if CATEGORICAL in model.adata_manager.data_registry else {}
    return {
        "features": [str(name) for name in state(X)["column_names"]],
        "sites": [str(name) for name in state(BATCH)["categorical_mapping"]],
        "covariates": {name: [str(c) for c in categories] for name, categories in mappings.items()},
    }
