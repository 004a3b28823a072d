"""Rows of a feature matrix are the same however they are stored; what was not measured is NaN."""

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from infl.models.matrix import FeatureMatrix


@pytest.mark.parametrize("kind", ["csr", "csc", "integer", "view", "layer", "backed", "reordered"])
def test_every_kind_of_matrix_reads_the_same(khan, tmp_path, kind: str) -> None:
    features = list(khan.var_names[[5, 3, 900, 17]])
    expected = np.asarray(khan[:, features].X, dtype=np.float32)
    adata, layer, index = khan, None, np.array([7, 2, 2, 40])
    if kind in ("csr", "csc"):
        adata.X = getattr(sparse, f"{kind}_matrix")(adata.X)
    elif kind == "integer":
        adata.X = np.rint(np.asarray(adata.X) * 10).astype(np.int64)
        expected = np.asarray(adata[:, features].X, dtype=np.float32)
    elif kind == "view":
        adata = adata[:, ::-1]
    elif kind == "layer":
        adata.layers["raw"], layer = adata.X.copy(), "raw"
        adata.X = np.zeros(adata.shape)
    elif kind == "backed":
        import anndata

        adata.write_h5ad(tmp_path / "khan.h5ad")
        adata = anndata.read_h5ad(tmp_path / "khan.h5ad", backed="r")
    else:
        adata = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    matrix = FeatureMatrix(adata, features, layer=layer, site="site_1")
    np.testing.assert_array_equal(matrix.rows(index), expected[index])
    np.testing.assert_array_equal(np.concatenate([matrix.rows(c) for c in matrix.chunks(32)]), expected)
    assert matrix.rows(index).dtype == np.float32


def test_marked_features_are_nan_in_memory_sparse_and_on_disk(tmp_path) -> None:
    from anndata import read_h5ad

    adata = AnnData(np.arange(36, dtype=np.float32).reshape(6, 6))
    adata.var_names = [f"g{j}" for j in range(6)]
    adata.var["infl_present"] = [True, False, True, True, True, True]
    names, expected = ["g4", "g1", "g0"], adata.X[:, [4, 1, 0]].copy()
    expected[:, 1] = np.nan
    adata.write_h5ad(tmp_path / "a.h5ad")
    other = adata.copy()
    other.X = sparse.csr_matrix(other.X)
    for data in (adata, other, read_h5ad(tmp_path / "a.h5ad", backed="r")):
        rows = FeatureMatrix(data, names, site="site_1").rows(slice(2, 5))
        np.testing.assert_array_equal(rows, expected[2:5])
    assert np.isfinite(adata.X).all()  # the object itself is as it was
    empty = FeatureMatrix(adata[:0], names, site="site_1")
    assert [empty.rows(chunk).shape for chunk in empty.chunks()] == [(0, 3)]
