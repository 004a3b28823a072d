"""Copies in memory of parts of objects, whatever they are: in memory, views, backed, of one modality or several."""

from typing import TypeVar

import numpy as np
from anndata import AnnData
from mudata import MuData

from infl._mudata import without_pull

D = TypeVar("D", AnnData, MuData)


def reopened(adata: AnnData | MuData) -> AnnData | MuData:
    """Return an object whose parts can be taken: anndata cannot take a view of a view of a file."""
    return adata.to_memory() if isinstance(adata, AnnData) and adata.isbacked and adata.is_view else adata


def subset_obs(adata: AnnData | MuData, index: np.ndarray) -> AnnData | MuData:
    """Return a copy in memory of the observations `index`, in that order."""
    part = adata[index]
    if isinstance(part, AnnData):
        return part.to_memory() if part.isbacked else part.copy()
    # mudata would warn about pulling columns of modalities into the joint obs, which is not wanted here anyway.
    with without_pull():
        if not part.isbacked:
            return part.copy()
        copy = MuData({name: modality.to_memory() for name, modality in part.mod.items()})
        copy.obs, copy.var = part.obs.loc[copy.obs_names].copy(), part.var.loc[copy.var_names].copy()
        for name in part.obsm:
            if name not in part.mod:  # mudata keeps masks of the modalities there
                copy.obsm[name] = np.asarray(part.obsm[name])[part.obs_names.get_indexer(copy.obs_names)]
        copy.uns.update(part.uns)
        return copy


def in_memory(adata: D) -> D:
    """Return a copy, of an object on disk one in memory."""
    return adata.to_memory() if adata.isbacked and isinstance(adata, AnnData) else adata.copy()


def own(adata: D) -> D:
    """Make a view an object of its own, in place, as scanpy does before it writes."""
    if adata.is_view:
        with without_pull():
            adata._init_as_actual(adata.copy())
    return adata
