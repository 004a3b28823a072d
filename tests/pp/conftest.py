"""Sites of real data, and the object that pooling them would give."""

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import infl
from infl.keys import Keyring


@pytest.fixture(scope="session")
def key() -> Keyring:
    return Keyring.create()


@pytest.fixture(scope="session")
def _pbmc() -> AnnData:
    """700 blood cells × 765 genes, logarithms, sparse; scanpy brings it along."""
    adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    adata.obs = adata.obs[["bulk_labels", "phase"]]
    adata.uns, adata.obsm, adata.obsp = {}, {}, {}
    adata.varm = {}
    return adata


@pytest.fixture
def pbmc_sites(_pbmc) -> dict[str, AnnData]:
    return infl.pp.split_sites(_pbmc, 4, stratify="bulk_labels", alpha=0.5, seed=3)


@pytest.fixture
def count_sites() -> dict[str, AnnData]:
    """Counts like a sparse single-cell experiment's: 3 sites of unequal size and depth, 500 genes."""
    rng = np.random.default_rng(0)
    rates = rng.lognormal(-2, 1.6, 500)
    sites = {}
    for i, n in enumerate((150, 40, 90)):
        depth = rng.lognormal(0.3 * i, 0.5, n)
        shape = rng.gamma(1 + np.arange(500) % 5, size=(n, 500))
        counts = rng.poisson(depth[:, None] * rates * shape).astype(np.float32)
        counts[:2] = np.maximum(counts[:2], 1)  # no gene without any count
        sites[f"s{i}"] = AnnData(
            sparse.csr_matrix(counts),
            obs={"donor": np.array(["x", "y"])[(np.arange(n) + i) % 2]},
        )
        sites[f"s{i}"].var_names = [f"g{j}" for j in range(500)]
        sites[f"s{i}"].obs_names = [f"c{j}-{i}" for j in range(n)]
    return sites


@pytest.fixture
def pool() -> Callable[[dict[str, AnnData]], AnnData]:
    def pooled(sites: dict[str, AnnData]) -> AnnData:
        return ad.concat(sites, label="site", merge="same", uns_merge="same")

    return pooled


@pytest.fixture
def dense() -> Callable:
    return lambda matrix: matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


KINDS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}


def split(x: np.ndarray, cuts: list[int], kind: str = "dense") -> dict[str, AnnData]:
    parts = np.split(x, sorted(cuts))
    return {f"s{i}": AnnData(KINDS[kind](part)) for i, part in enumerate(parts) if len(part)}


def with_gaps(x: np.ndarray, seed: int = 0) -> np.ndarray:
    gaps = np.random.default_rng(seed).random(x.shape) < 0.3
    gaps[0] = False
    return np.where(gaps, np.nan, x)
