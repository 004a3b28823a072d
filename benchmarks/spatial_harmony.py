"""Do spatial domains gain by Harmony over sites? python benchmarks/spatial_harmony.py; needs harmonypy, for iLISI.

Four HER2-positive tumours, one patient a site. Latents of the spatial model, and principal components of neighbourhoods, are
clustered as they are and after Harmony with two widths of clusters, into four, five and six domains; domains are held against
the pathologist's regions, which nothing was fitted to. Nothing here is the model's default.
"""

from __future__ import annotations

import logging
import warnings

import anndata as ad
import numpy as np
import scanpy as sc
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

import infl
from _table import Table
from harmony import mixing
from infl.models.neighbours import averaging, sections_of
from spatial import JOINT, MEAN, SEEDS, against_regions, apart, fit, patients

DOMAINS = (4, 5, 6)
WIDTHS = (0.1, 0.5)
N_COMPS = 30


def of_neighbourhoods(sites: dict[str, ad.AnnData]) -> None:
    """Write principal components of what spots and their neighbours express on average."""
    near = {}
    for site, adata in sites.items():
        counts = adata.copy()
        sc.pp.normalize_total(counts)
        sc.pp.log1p(counts)
        near[site] = ad.AnnData(averaging(sections_of(adata, site=site).graph(8)) @ counts.X.toarray(), obs=adata.obs)
    infl.pp.pca(near, N_COMPS)
    for site, adata in sites.items():
        adata.obsm["X_near"] = near[site].obsm["X_pca"]


def domains_of(latent: np.ndarray, k: int, seed: int, how: str) -> dict[str, np.ndarray]:
    model = KMeans(k, n_init=10, random_state=seed)
    if how == "mixture":
        model = GaussianMixture(k, covariance_type="spherical", n_init=10, random_state=seed)
    return apart(model.fit_predict(latent))


def judged(sites: dict[str, ad.AnnData], basis: str, seed: int) -> dict[str, float]:
    """Mixing, and agreement by way of clustering and number of domains."""
    latent = np.concatenate([np.asarray(adata.obsm[basis], dtype=float) for adata in sites.values()])
    patient = np.repeat(list(sites), [adata.n_obs for adata in sites.values()])
    found = {"iLISI": mixing(latent, patient)}
    for how in ("k-means", "mixture"):
        for k in DOMAINS:
            scores = against_regions(domains_of(latent, k, seed, how))
            found |= {f"{how}, {k} domains: {metric}": scores[metric] for metric in (JOINT, MEAN)}
        for metric in (JOINT, MEAN):
            found[f"{how}, mean over {DOMAINS}: {metric}"] = np.mean(
                [found[f"{how}, {k} domains: {metric}"] for k in DOMAINS]
            )
    return found


def one_seed(seed: int) -> dict[str, dict[str, float]]:
    sites = patients()
    fit(sites, seed)
    of_neighbourhoods(sites)
    bases = {"spatial model": "X_infl", "neighbours + PCA": "X_near"}
    results = {what: judged(sites, basis, seed) for what, basis in bases.items()}
    for what, basis in bases.items():
        for sigma in WIDTHS:
            infl.pp.harmony_integrate(sites, basis=basis, adjusted_basis="X_mixed", sigma=sigma, random_state=seed)
            results[f"{what} + Harmony, sigma {sigma}"] = judged(sites, "X_mixed", seed)
    return results


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    table = Table("spatial_harmony")
    runs = [one_seed(seed) for seed in range(SEEDS)]
    for what in runs[0]:
        for metric in runs[0][what]:
            table.add(f"{what}, {metric}", "reported", [run[what][metric] for run in runs])
    table.save()
