"""Principal components and variable features over four sites, and by scanpy on the pooled cells, for performance.py.

Both on one thread; sealed at the sites, in the open when pooled. Prints processor seconds, taken in turn, as JSON.
"""

from __future__ import annotations

import json
import time

import anndata
import numpy as np
import scanpy as sc
from threadpoolctl import threadpool_limits

import infl
from _parts import cells

N_CELLS, N_GENES, REPEATS = 4000, 2000, 7


def seconds(function, *arguments, **options) -> float:
    begun = time.process_time()
    function(*arguments, **options)
    return time.process_time() - begun


def main() -> None:
    key, result = infl.keys.Keyring.create(), {}
    raw = cells(N_GENES, N_CELLS)
    logged = {site: adata.copy() for site, adata in raw.items()}
    infl.pp.normalize_total(logged)
    infl.pp.log1p(logged)
    top = {"n_top_genes": 1000}
    dense = {site: adata.copy() for site, adata in logged.items()}
    for adata in dense.values():
        adata.X = adata.X.toarray()
    cases = {
        "HVG, seurat": (logged, infl.pp.highly_variable_genes, sc.pp.highly_variable_genes, top | {"flavor": "seurat"}),
        "HVG, seurat_v3": (
            raw,
            infl.pp.highly_variable_genes,
            sc.pp.highly_variable_genes,
            top | {"flavor": "seurat_v3"},
        ),
        "PCA, 50 components, sparse": (logged, infl.pp.pca, sc.pp.pca, {"mask_var": None}),
        "PCA, 50 components, dense": (dense, infl.pp.pca, sc.pp.pca, {"mask_var": None}),
    }
    with threadpool_limits(1):
        for name, (sites, ours, theirs, options) in cases.items():
            pooled = anndata.concat(sites)
            taken = result.setdefault(name, {"infl": [], "scanpy": []})
            ours(sites, key=key, **options), theirs(pooled, **options)  # what is loaded or compiled once
            for _ in range(REPEATS):
                taken["infl"].append(seconds(ours, sites, key=key, **options))
                taken["scanpy"].append(seconds(theirs, pooled, **options))
    print(json.dumps(result))


if __name__ == "__main__":
    np.random.seed(0)
    main()
