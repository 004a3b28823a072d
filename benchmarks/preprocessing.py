"""Federated preprocessing and clustering beside scanpy and scikit-learn on the pooled object (docs/preprocessing.md)."""

from __future__ import annotations

import warnings

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy.linalg import subspace_angles
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

import infl
from _table import Table
from panels import HERE, panel_sites, use_data_folder

FLAVORS = ("seurat", "cell_ranger", "seurat_v3")
KEY = infl.keys.Keyring.create()


def pooled(sites: dict[str, AnnData]) -> AnnData:
    return ad.concat(sites, label="site", merge="same", uns_merge="same")


def cell_sites() -> dict[str, AnnData]:
    """Counts of three replicates."""
    use_data_folder()
    return infl.pp.split_sites(infl.datasets.papalexi(), by="replicate")


def largest(ours: np.ndarray, want: np.ndarray) -> float:
    """Largest difference, of the size of the values."""
    return float(np.abs(ours - want).max() / np.abs(want).max())


def figures(table: Table) -> None:
    """Moments, normalisation, logarithms and scaling of 20,729 cells."""
    sites = cell_sites()
    whole = pooled(sites)
    sc.pp.normalize_total(whole)
    sc.pp.log1p(whole)
    infl.pp.normalize_total(sites, key=KEY)
    infl.pp.log1p(sites, key=KEY)
    table.add(
        "normalize_total and log1p, largest difference",
        "≤ 1e-5",
        d := largest(np.asarray(pooled(sites).X.todense()), np.asarray(whole.X.todense())),
        ok=d <= 1e-5,
    )
    found = infl.pp.moments(sites, key=KEY)
    sc.pp.scale(whole, zero_center=False)
    infl.pp.scale(sites, zero_center=False, key=KEY)
    for name in ("mean", "std"):
        table.add(
            f"moments: {name}, largest difference", "≤ 1e-5", d := largest(found[name], whole.var[name]), ok=d <= 1e-5
        )
    table.add(
        "scale, largest difference",
        "≤ 1e-5",
        d := largest(np.asarray(pooled(sites).X.todense()), np.asarray(whole.X.todense())),
        ok=d <= 1e-5,
    )


def variable_features(table: Table) -> None:
    """Marked by us and not by scanpy, or the other way round."""
    for batch_key in (None, "site"):
        for flavor in FLAVORS:
            sites = cell_sites()
            if flavor != "seurat_v3":
                infl.pp.normalize_total(sites)
                infl.pp.log1p(sites)
            whole = pooled(sites)
            different = []
            for n in (50, 100, 150):
                how = {"flavor": flavor, "n_top_genes": n, "batch_key": batch_key}
                sc.pp.highly_variable_genes(whole, **how)
                infl.pp.highly_variable_genes(sites, key=KEY, **how)
                ours = next(iter(sites.values())).var["highly_variable"]
                different.append(int((ours != whole.var["highly_variable"]).sum()))
            what = f"highly_variable_genes, {flavor}{', by site' if batch_key else ''}: features marked otherwise"
            table.add(what, "0", different, ok=not any(different))


def components(table: Table) -> None:
    """Largest angle between the spaces of 20 components, in radians."""
    for name in ("khan", "breast rna", "breast protein"):
        sites, _ = panel_sites(name)
        whole = pooled(sites)
        sc.pp.pca(whole, 20, svd_solver="full")
        for solver, limit in (("full", 1e-3), ("randomized", 0.05)):
            infl.pp.pca(sites, 20, svd_solver=solver, key=KEY)
            angle = float(subspace_angles(sites["site_1"].varm["PCs"], whole.varm["PCs"].astype(float)).max())
            table.add(f"pca, {solver}, {name}: largest angle", f"≤ {limit}", angle, ok=angle <= limit)


def clusters(table: Table) -> None:
    """Adjusted Rand index with the pooled clustering, five dealings of 700 blood cells to four unequal sites."""
    blood = sc.datasets.pbmc68k_reduced()
    agree: dict[str, list[float]] = {"kmeans": [], "gmm": [], "leiden": []}
    excess, worse = [], []
    for seed in range(5):
        sites = infl.pp.split_sites(blood, 4, stratify="bulk_labels", alpha=0.5, seed=seed)
        for adata in sites.values():
            adata.obsm["X"] = adata.obsm["X_pca"][:, :10]
        x = np.vstack([adata.obsm["X"] for adata in sites.values()]).astype(float)
        graph = AnnData(obsm={"X": x}, shape=(len(x), 0))
        sc.pp.neighbors(graph, use_rep="X")
        sc.tl.leiden(graph, flavor="igraph", n_iterations=-1, directed=False, resolution=0.5)
        kmeans = KMeans(8, n_init=20, random_state=seed).fit(x)
        mixture = GaussianMixture(8, n_init=10, random_state=seed).fit(x)
        want = {"kmeans": kmeans.labels_, "gmm": mixture.predict(x), "leiden": graph.obs["leiden"]}
        for method in agree:
            k = {} if method == "leiden" else {"n_clusters": 8}
            infl.tl.cluster(sites, **k, method=method, use_rep="X", resolution=0.5, seed=seed, key=KEY)
            labels = np.concatenate([adata.obs["infl_cluster"] for adata in sites.values()])
            agree[method].append(adjusted_rand_score(labels, want[method]))
            if method == "kmeans":
                excess.append(adata.uns["infl_cluster"]["inertia"] / kmeans.inertia_)
            elif method == "gmm":
                worse.append((adata.uns["infl_cluster"]["bic"] - mixture.bic(x)) / 2 / len(x))
    table.add(
        "cluster, kmeans: squared distances, ours / scikit-learn's best of 20", "≤ 1.01", excess, ok=max(excess) <= 1.01
    )
    table.add("cluster, gmm: log-likelihood of scikit-learn's best of 10 less ours, a cell", "", worse)
    for method, values in agree.items():
        table.add(f"cluster, {method}: adjusted Rand index with the pooled one", "", values)


def picture() -> None:
    """The figure of the page: four studies, of which the second did not measure 120 of the genes."""
    use_data_folder()
    sites = infl.pp.split_sites(infl.datasets.stemcells(), by="study")
    sites["study_2"] = sites["study_2"][:, :280].copy()
    infl.pl.sites(sites, "cell_type")
    plt.gcf().savefig(HERE.parents[1] / "docs" / "_static" / "sites.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    table = Table("preprocessing")
    for part in (figures, variable_features, components, clusters):
        part(table)
    table.save()
    picture()
