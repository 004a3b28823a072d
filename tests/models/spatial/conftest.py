"""Sections of three regions in stripes, simulated here."""

from __future__ import annotations

import anndata as ad
import numpy as np
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

OPTIONS = {"model": "spatial", "n_domains": 3, "n_neighbors": 4, "rounds": 6, "steps": 10, "progress": False}


def section(seed: int, *, depth: float = 1.0, shift: float = 0.0) -> ad.AnnData:
    """12 × 12 spots in three stripes, each with ten genes of its own; a site has its depth and genes of its own."""
    rng = np.random.default_rng(seed)
    xy = np.indices((12, 12)).reshape(2, -1).T
    region = xy[:, 0] // 4
    rate = np.full((144, 40), 2.0)
    for r in range(3):
        rate[region == r, 10 * r : 10 * r + 10] += 3 + 2 * r
    rate[:, 30:] += shift * rng.random(10) * 10
    spots = ad.AnnData(sparse.csr_matrix(rng.poisson(depth * rate).astype(np.float32)))
    spots.obs_names = [f"{seed}_{i}" for i in range(144)]
    spots.var_names = [f"gene_{i}" for i in range(40)]
    spots.obs["region"] = region.astype(str)
    spots.obsm["spatial"] = xy.astype(float)
    return spots


def sites() -> dict[str, ad.AnnData]:
    return {"a": section(0), "b": section(1, depth=2, shift=1), "c": section(2, depth=0.5, shift=2)}


def regions(tables: dict[str, ad.AnnData]) -> float:
    """ARI of the domains of all sites in one."""
    found, real = (np.concatenate([s.obs[c].astype(str) for s in tables.values()]) for c in ("infl_domain", "region"))
    return adjusted_rand_score(real, found)
