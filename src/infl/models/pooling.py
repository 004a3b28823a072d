"""All sites' observations in one object, as if they could be put together: to compare with, and to attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from infl.models.task import SITE

if TYPE_CHECKING:
    from infl._types import Data


def pool(tables: Mapping[str, Data], join: Literal["inner", "outer"] = "inner") -> Data:
    """Return all sites' observations in one object; with all features (``"outer"``) NaN where one was not measured.

    ``obs["infl_site"]`` (of each modality) has the site that an observation is from. Where sites share names of
    observations, such as barcodes, the site's name is appended to all of them.
    """
    import anndata
    import mudata

    first = next(iter(tables.values()))
    if len(tables) == 1:
        return first
    names = [name for table in tables.values() for name in table.obs_names]
    between = None if len(set(names)) == len(names) else "-"
    if isinstance(first, mudata.MuData):
        parts = {
            name: anndata.concat(
                {s: t.mod[name] for s, t in tables.items() if name in t.mod},
                join="outer",
                label=SITE,
                index_unique=between,
            )
            for name in dict.fromkeys(name for t in tables.values() for name in t.mod)
        }
        pooled = mudata.MuData(parts)
        import pandas as pd

        obs = pd.concat(
            [t.obs.rename(index=lambda n, s=s: f"{n}{between}{s}" if between else n) for s, t in tables.items()]
        )
        for column in obs:
            pooled.obs[column] = obs[column].reindex(pooled.obs_names)
        pooled.obs[SITE] = pd.Series([s for s, t in tables.items() for _ in range(t.n_obs)], obs.index).reindex(
            pooled.obs_names
        )
        return pooled if pooled.obs_names.equals(obs.index) else pooled[obs.index].copy()
    from infl.data.check import measured

    whole = {site: t[:, measured(t)] if join == "outer" else t for site, t in tables.items()}
    pooled = anndata.concat(whole, join=join, label=SITE, index_unique=between, fill_value=np.nan, uns_merge="same")
    for column in dict.fromkeys(c for t in tables.values() for c in t.obs if c not in pooled.obs):
        values = [t.obs[column] if column in t.obs else [np.nan] * t.n_obs for t in tables.values()]
        # what a site lacks is missing
        pooled.obs[column] = np.concatenate([np.asarray(v, dtype=object) for v in values])
    return pooled
