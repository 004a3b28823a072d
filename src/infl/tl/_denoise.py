"""Expression without its noise, from a model of counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from infl._parameters import Real, Text, door
from infl.errors import SettingsError
from infl.models.counts import table_of
from infl.models.protocols import Denoises
from infl.tl._predict import warn_unopened
from infl.tl._results import model_and_key
from infl.tl._use import check_use, with_layer

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.federation.run import FederatedRun
    from infl.keys import Keyring
    from infl.models.locked import LockedModel


@door(site=Text(none=True), target_sum=Real(0, open="low"))
def denoise(
    adata: AnnData | MuData,
    model: LockedModel | FederatedRun | str | Path,
    *,
    key: Keyring | None = None,
    site: str | None = None,
    layer: str | None = None,
    target_sum: float = 1e4,
    key_added: str = "infl",
    copy: bool = False,
) -> AnnData | MuData | None:
    """Write the expression that a model of counts expects of each cell.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        The run of ``model="scvi"``, ``run.model``, what :func:`infl.load_model` returns, or a path.
    key
        Key ring that opens the model (default: that of the run).
    site
        As if every cell were measured at this site (None: the mean over the model's sites).
    layer
        As for :func:`infl.tl.predict`.
    target_sum
        Total of each cell over the model's features.
    key_added, copy
        As for :func:`infl.tl.predict`.

    Returns
    -------
    The copy, or None. ``obsm[key_added + "_denoised"]`` is written: a DataFrame with the model's features as columns.

    Raises
    ------
    SettingsError
        The model is not one of counts, or does not know the site.

    Examples
    --------
    >>> import anndata, infl, numpy as np
    >>> cells = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (90, 20)).astype("float32"))
    >>> cells.obs["hospital"] = np.repeat(["a", "b", "c"], 30)
    >>> run = infl.tl.fit_federated(cells, "scvi", site_key="hospital", rounds=1, progress=False)
    >>> infl.tl.denoise(cells, run.model, key=run.key)
    >>> cells.obsm["infl_denoised"].shape
    (90, 20)
    """
    model, key = model_and_key(model, key)
    task, panel = with_layer(model.header.build_task(), layer, {"the data": adata}), model.header.panel
    if not isinstance(task, Denoises):
        raise SettingsError(f"model {model.header.task!r} has no counts to denoise: fit model='scvi'")
    if site is not None and site not in panel["sites"]:
        raise SettingsError(f"site={site!r} is not one of the model's: {', '.join(panel['sites'][:8])}, or None")
    warn_unopened(model, key)
    check_use({"the data": adata}, task, panel)
    data = task.read(adata, panel, site="the data")
    shares = task.denoise(model.module(key), data, None if site is None else panel["sites"].index(site))
    adata = adata.copy() if copy else adata
    names = table_of(adata, task.modality, "the data").obs_names
    values = pd.DataFrame(target_sum * shares, index=names, columns=panel["features"])
    adata.obsm[f"{key_added}_denoised"] = values.reindex(adata.obs_names)
    return adata if copy else None
