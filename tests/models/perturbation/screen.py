"""A made-up screen whose effects are known: genes of one module change the same genes."""

import anndata as ad
import numpy as np
import pandas as pd

GENES = [f"G{i}" for i in range(12)]
MODULES = {"G0": "x", "G1": "x", "G2": "x", "G3": "y", "G4": "y", "G5": "y", "G6": "z", "G7": "z"}
"""Genes of one module have one effect, beside the loss of their own transcript."""
GRAPH = [(a, b) for a in MODULES for b in MODULES if a < b and MODULES[a] == MODULES[b]]


def effect_of(genes):
    change = np.zeros(len(GENES))
    for gene in genes:
        pattern = np.random.default_rng(list(MODULES.values()).index(MODULES[gene])).normal(0, 0.5, len(GENES))
        change += pattern
        change[GENES.index(gene)] = -1.5
    return change


def cells(site, conditions, per_condition=60, control="control"):
    rng = np.random.default_rng(100 + site)
    labels = [control] * per_condition * 2 + [c for c in conditions for _ in range(per_condition)]
    base = 2.0 + 0.3 * site  # a batch effect on all genes
    x = base + rng.normal(0, 0.4, (len(labels), len(GENES)))
    for i, label in enumerate(labels):
        if label != control:
            x[i] += effect_of(label.split("+"))
    names = [f"s{site}_{i}" for i in range(len(labels))]
    adata = ad.AnnData(np.maximum(x, 0).astype(np.float32), obs=pd.DataFrame({"perturbation": labels}, index=names))
    adata.var_names = GENES
    return adata


CONDITIONS = ["G0", "G1", "G3", "G4", "G6"]
