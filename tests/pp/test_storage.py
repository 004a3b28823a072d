"""However a matrix is stored: nothing of it is altered by what only reads, and results are the same."""

import hashlib
import uuid
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import sparse

import infl
from infl.data.units import units_of


def repeated(x: np.ndarray) -> sparse.csr_matrix:
    """CSR whose rows are backwards, with each entry in two parts."""
    rows, columns = np.nonzero(x)
    order = np.lexsort((-columns, rows))
    rows, columns = np.repeat(rows[order], 2), np.repeat(columns[order], 2)
    values = x[rows, columns].copy()
    values[::2] = values[::2] // 2
    values[1::2] -= values[::2]
    indptr = np.r_[0, np.cumsum(np.bincount(rows, minlength=len(x)))]
    return sparse.csr_matrix((values, columns, indptr), shape=x.shape)


def locked(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


STORAGE = {
    "dense": np.array,
    "columns first": np.asfortranarray,
    "read-only": locked,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr array": sparse.csr_array,
    "repeated": repeated,
}
SPARSE = ("csr", "csc", "csr array", "repeated")
TYPES = ("float32", "float64", "int32", "uint16", "float16")


def counts(seed: int) -> np.ndarray:
    x = np.minimum(np.random.default_rng(seed).negative_binomial(1, 0.2, (12, 9)), 15)
    x[0, x.sum(0) == 0] = 1
    return x


def site(seed: int, storage: str, dtype: str, where: str, folder) -> ad.AnnData:
    x = counts(seed).astype("float32" if dtype == "float16" and storage in SPARSE else dtype)
    adata = ad.AnnData(
        STORAGE[storage](x),
        obs=pd.DataFrame({"kind": ["p", "q"] * 6, "number": np.arange(12.0)}, index=[f"{seed}-{i}" for i in range(12)]),
        var=pd.DataFrame({"mt": np.arange(9) < 2}, index=[f"g{i}" for i in range(9)]),
    )
    adata.layers["again"] = adata.X.copy()
    if where == "view":
        return adata[:, :]
    if where == "backed":
        adata.write_h5ad(path := folder / f"{uuid.uuid4()}.h5ad")
        return ad.read_h5ad(path, backed="r")
    return adata


def buffers(adata: ad.AnnData) -> str:
    """Digest of all that an object holds, byte by byte."""
    adata = adata.to_memory() if adata.isbacked else adata
    found = hashlib.sha256()
    for matrix in (adata.X, adata.layers["again"]):
        for part in (matrix.data, matrix.indices, matrix.indptr) if sparse.issparse(matrix) else (np.asarray(matrix),):
            found.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
    found.update(pd.util.hash_pandas_object(adata.obs).to_numpy().tobytes() + " ".join(adata.obs).encode())
    found.update(pd.util.hash_pandas_object(adata.var).to_numpy().tobytes() + " ".join(adata.var).encode())
    found.update(" ".join([*adata.obsm, *adata.varm, *adata.uns]).encode())
    return found.hexdigest()


READERS = {
    "moments": lambda sites: infl.pp.moments(sites, inplace=False),
    "moments of a layer": lambda sites: infl.pp.moments(sites, layer="again", inplace=False),
    "qc_summary": lambda sites: infl.pp.qc_summary(sites, qc_vars="mt"),
    "panel_of": lambda sites: infl.pp.panel_of(sites, target="kind"),
    "highly_variable_genes": lambda sites: infl.pp.highly_variable_genes(sites, inplace=False, n_bins=2),
    "seurat": lambda sites: infl.pp.highly_variable_genes(sites, inplace=False, batch_key="site", n_bins=2),
    "read": lambda sites: [
        infl.models.Classifier(target="kind").read(a, {"features": list(a.var_names), "classes": ["p", "q"]}, site=s)
        .rows(slice(None))
        for s, a in sites.items()
    ],
}  # fmt: skip


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(
        st.tuples(
            st.sampled_from(list(STORAGE)), st.sampled_from(TYPES), st.sampled_from(["memory", "view", "backed"])
        ),
        min_size=3,
        max_size=3,
    ),
    reader=st.sampled_from(list(READERS)),
)
def test_what_only_reads_alters_no_byte(kinds, reader, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sites = {f"s{i}": site(i, *kind, tmp_path) for i, kind in enumerate(kinds)}
        before = {name: buffers(a) for name, a in sites.items()}
        READERS[reader](sites)
    assert {name: buffers(a) for name, a in sites.items()} == before
    for adata in sites.values():
        if adata.isbacked:
            adata.file.close()


def test_a_fit_alters_only_what_it_writes():
    sites = {f"s{i}": site(i, "repeated", "float32", "memory", None) for i in range(3)}
    before = {name: [a.X.data.copy(), a.X.indices.copy()] for name, a in sites.items()}
    infl.tl.fit_federated(sites, target="kind", rounds=1, progress=False)
    for name, adata in sites.items():
        np.testing.assert_array_equal(adata.X.data, before[name][0])
        np.testing.assert_array_equal(adata.X.indices, before[name][1])


USERS = {
    "predict": lambda sites, run: infl.tl.predict(sites, run, copy=True),
    "embed": lambda sites, run: infl.tl.embed(sites["s0"], run, copy=True),
    "compare": lambda sites, run: infl.tl.compare(
        sites, target="kind", rounds=1, seeds=1, methods=["fedavg", "baseline"]
    ),
    "audit": lambda sites, run: infl.tl.audit(run, sites, attacks=["no_key", "site_balance"]),
    "site_metrics": lambda sites, run: infl.tl.site_metrics(run, sites),
    "personalise": lambda sites, run: infl.tl.personalise(run, sites, epochs=1),
    "lock_curve": lambda sites, run: infl.tl.lock_curve(run.model, sites, key=run.key, n_keys=1),
    "pictures": lambda sites, run: infl.pl.sites(sites, "kind"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", USERS)
def test_what_uses_a_model_alters_no_byte(name):
    sites = {
        f"s{i}": site(i, kind, "float32", "memory", None) for i, kind in enumerate(("repeated", "csc", "columns first"))
    }
    run = infl.tl.fit_federated({n: a.copy() for n, a in sites.items()}, target="kind", rounds=1, progress=False)
    before = {n: buffers(a) for n, a in sites.items()}
    USERS[name](sites, run)
    assert {n: buffers(a) for n, a in sites.items()} == before


@pytest.mark.parametrize("storage", [s for s in STORAGE if s != "dense"])
def test_results_do_not_depend_on_storage(storage):
    def results(storage, function):
        sites = {f"s{i}": site(i, storage, "float32", "memory", None) for i in range(3)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(sites)

    def matrix(function):
        def run(sites):
            function(sites)
            found = [a.X.toarray() if sparse.issparse(a.X) else np.asarray(a.X) for a in sites.values()]
            return np.concatenate(found)

        return run

    def in_logs(function):
        def run(sites):
            infl.pp.log1p(sites)
            return function(sites)

        return run

    functions = {
        "normalize_total": matrix(infl.pp.normalize_total),
        "without the largest": matrix(lambda s: infl.pp.normalize_total(s, exclude_highly_expressed=True, max_fraction=0.4)),
        "log1p": matrix(infl.pp.log1p),
        "scale": matrix(infl.pp.scale),
        "scale to a largest": matrix(lambda s: infl.pp.scale(s, zero_center=False, max_value=1)),
        "moments": lambda s: infl.pp.moments(s),
        "qc": lambda s: infl.pp.qc_summary(s).sites.drop(columns="units").astype(float),
        "hvg": in_logs(lambda s: infl.pp.highly_variable_genes(s, inplace=False, n_bins=2)[["means", "dispersions"]]),
        "pca": lambda s: infl.pp.pca(s, n_comps=3) or np.concatenate([a.obsm["X_pca"] for a in s.values()]),
    }  # fmt: skip
    for name, function in functions.items():
        here, dense = (np.asarray(results(kind, function), dtype=float) for kind in (storage, "dense"))
        np.testing.assert_allclose(here, dense, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("target_sum", [1e4, None])
def test_half_precision_does_not_overflow(target_sum):
    rng = np.random.default_rng(0)
    x = rng.integers(1000, 9000, (12, 20)).astype(np.float16)
    x[:, 0] = 60_000
    names = [f"c{i}" for i in range(12)]
    whole = ad.AnnData(x.astype(np.float64), obs=pd.DataFrame(index=names))
    sites = {s: ad.AnnData(x[i * 4 : i * 4 + 4], obs=whole.obs.iloc[i * 4 : i * 4 + 4]) for i, s in enumerate("abc")}
    infl.pp.normalize_total(sites, target_sum=target_sum)
    sc.pp.normalize_total(whole, target_sum=target_sum)
    found = np.concatenate([a.X for a in sites.values()])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole.X, rtol=1e-6)


def test_half_precision_in_sums_of_observations():
    x = np.full((12, 9), 60_000, np.float16)
    sites = {"a": ad.AnnData(x), "b": ad.AnnData(x.astype(np.float64))}
    table = infl.pp.qc_summary(sites).sites
    assert table["total_counts"].tolist() == [9 * 59_999 + 9 * (float(np.float16(60_000)) - 59_999)] * 2


def test_the_median_total_is_one_for_sparse_and_dense():
    x = counts(0).astype(np.float32)
    x[3:9] = 0  # as many observations without counts as move the median
    found = []
    for kind in (np.array, sparse.csr_matrix, repeated):
        sites = {
            s: ad.AnnData(kind(x[i * 4 : i * 4 + 4]), obs=pd.DataFrame(index=[f"{s}{j}" for j in range(4)]))
            for i, s in enumerate("abc")
        }
        with pytest.warns(infl.errors.InflWarning, match="no counts"):
            infl.pp.normalize_total(sites)
        found.append(float(sites["a"].X.sum(axis=1).max()))
    totals = x.sum(1)
    assert found == pytest.approx([np.median(totals[totals > 0])] * 3)


def test_the_kind_of_values_does_not_depend_on_storage():
    x = np.zeros((10, 10))
    x[0], x[1, :3] = 1.5, -1.5  # three of the hundred are negative, three of the thirteen that are stored
    obs = pd.DataFrame(index=list("abcdefghij"))
    assert units_of(ad.AnnData(x, obs=obs)) == units_of(ad.AnnData(sparse.csr_matrix(x), obs=obs)) == "scaled values"
    halves = sparse.csr_matrix((np.full(20, 0.5), np.repeat(np.arange(10), 2), np.arange(0, 22, 2)), shape=(10, 10))
    assert units_of(ad.AnnData(halves, obs=obs)) == "raw counts"
