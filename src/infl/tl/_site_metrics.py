"""How good a model is at each site, measured where the site's data are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from infl._parameters import door
from infl.data.sites import as_sites
from infl.federation.fitted import read_as_fitted
from infl.federation.run import FederatedRun
from infl.tl._results import needed_key
from infl.tl._use import check_use

if TYPE_CHECKING:
    import pandas as pd

    from infl._types import Data
    from infl.keys import Keyring
    from infl.models.locked import LockedModel


@door()
def site_metrics(
    model: FederatedRun | LockedModel,
    sites: Mapping[str, Data] | Data,
    *,
    site_key: str | None = None,
    key: Keyring | None = None,
    validation_only: bool = True,
) -> pd.DataFrame:
    """Measure a model at each site by itself. A run has only what all sites reach together.

    Parameters
    ----------
    model
        What :func:`infl.tl.fit_federated` returned, or its model. Where weights stay at the sites, each site of a run is
        judged with its own.
    sites, site_key
        As for :func:`infl.tl.fit_federated`; the sites whose data are here.
    key
        Key ring that opens the model (default: that of the run).
    validation_only
        Judge on the validation parts of the fit (True), or on all observations, when none was trained on.

    Returns
    -------
    DataFrame
        One row per site: ``n_obs``, ``n_judged`` (observations that were judged on), and the task's metrics, NaN where
        there was nothing to judge on.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", progress=False)
    >>> infl.tl.site_metrics(run, sites)[["n_obs", "n_judged"]].sum().tolist()
    [83, 18]
    """
    import pandas as pd

    shared, key = needed_key(model, key)
    own = model.site_models if isinstance(model, FederatedRun) else {}
    rows = {}
    tables = as_sites(sites, site_key)
    check_use(tables, shared.header.build_task(), shared.header.panel, training=True)
    for name, adata in tables.items():
        chosen = own.get(name, shared)
        h = chosen.header
        task = h.build_task()
        data = read_as_fitted(chosen, adata, name)
        index = data.validation if validation_only else np.union1d(data.train, data.validation)
        sums = task.evaluate(chosen.module(key if h.fingerprint else None), data, index)
        values = task.summarise(sums) if len(index) else {}
        rows[name] = {"n_obs": adata.n_obs, "n_judged": len(index)} | values
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("site")
