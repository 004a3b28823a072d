"""Data on disk: what is read is what is there, an epoch reads each row once, and a fit is one on data in memory, up to order."""

from collections.abc import Callable
from pathlib import Path

import anndata
import mudata
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import infl
from infl.models import disk
from infl.models.disk import BLOCK, Blocks
from infl.models.matrix import FeatureMatrix

N, P = 3 * BLOCK + 17, 5


@pytest.fixture(scope="module", params=["sparse", "dense"])
def backed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[anndata.AnnData, np.ndarray]:
    values = np.random.default_rng(0).poisson(0.4, size=(N, P)).astype(np.float32)
    path = tmp_path_factory.mktemp("disk") / "cells.h5ad"
    matrix = sparse.csr_matrix(values) if request.param == "sparse" else values
    anndata.AnnData(matrix).write_h5ad(path)
    return anndata.read_h5ad(path, backed="r"), values


class Counted:
    """A matrix that counts the slices that are read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.slices = values, values.shape, []

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.slices.append((rows.start, rows.stop))
        return self.values[rows]


@given(st.lists(st.integers(0, N - 1), max_size=30))
@settings(max_examples=30, deadline=None)
def test_rows_are_those_in_memory(backed: tuple[anndata.AnnData, np.ndarray], index: list[int]) -> None:
    adata, values = backed
    rows = np.asarray(index, dtype=int)
    assert np.array_equal(FeatureMatrix(adata, adata.var_names, site="a").rows(rows), values[rows])
    reverse = FeatureMatrix(adata, adata.var_names[::-1], site="a")
    assert np.array_equal(reverse.rows(rows), values[rows][:, ::-1])


def test_an_epoch_has_every_row_once_and_its_batches_are_right(
    backed: tuple[anndata.AnnData, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    adata, values = backed
    monkeypatch.setattr(disk, "WINDOW", 1)  # four blocks, the fewest
    x = FeatureMatrix(adata, adata.var_names[::-1], site="a")
    rows = np.flatnonzero(np.arange(N) % 5)
    for _ in range(2):
        order = x.order(rows, np.random.default_rng(1))
        assert np.array_equal(np.sort(order), rows)
        for batch in np.array_split(order, 23):
            assert np.array_equal(x.rows(batch), values[batch][:, ::-1])


def test_an_epoch_reads_each_block_once() -> None:
    matrix = Counted(np.random.default_rng(0).normal(size=(40 * BLOCK, 2)).astype(np.float32))
    blocks = Blocks(matrix, 40 * BLOCK)
    order = blocks.shuffled(np.arange(40 * BLOCK), np.random.default_rng(0))
    matrix.slices.clear()
    for batch in np.array_split(order, 320):
        assert np.array_equal(blocks.dense(batch), matrix.values[batch])
    assert sorted(matrix.slices) == [(k * BLOCK, (k + 1) * BLOCK) for k in range(40)]


def test_neighbours_are_read_in_one_run() -> None:
    matrix = Counted(np.arange(4000.0).reshape(2000, 2))
    assert np.array_equal(Blocks(matrix, 2000).read(np.array([1900, 4, 7, 0])), matrix.values[[1900, 4, 7, 0]])
    assert sorted(matrix.slices) == [(0, 8), (1900, 1901)]


def test_order_of_blocks_is_mixed() -> None:
    blocks = Blocks(np.zeros((64 * BLOCK, 2), dtype=np.float32), 64 * BLOCK)
    order = blocks.shuffled(np.arange(64 * BLOCK), np.random.default_rng(0))
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.5
    assert len(np.unique(order[:128] // BLOCK)) > 30


def open_h5ad(adata: anndata.AnnData, path: Path) -> anndata.AnnData:
    adata.write_h5ad(path)
    return anndata.read_h5ad(path, backed="r")


def open_zarr(adata: anndata.AnnData, path: Path) -> anndata.AnnData:
    adata.write_zarr(path)
    group = zarr.open(path, mode="r")
    obs, var = (anndata.io.read_elem(group[name]) for name in ("obs", "var"))
    return anndata.AnnData(group["X"], obs=obs, var=var)


def open_mudata(adata: anndata.AnnData, path: Path) -> mudata.MuData:
    """Labels are the whole's, and the modality has none."""
    of_patients = adata.obs
    mdata = mudata.MuData({"rna": anndata.AnnData(adata.X, obs=of_patients[[]], var=adata.var)})
    mdata.obs["tumour_class"] = of_patients["tumour_class"]
    mdata.write(path)
    return mudata.read_h5mu(path, backed=True)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Writing zarr v2:UserWarning")
@pytest.mark.parametrize("opened", [open_h5ad, open_zarr, open_mudata])
def test_a_fit_on_disk_learns_what_one_in_memory_learns(opened: Callable, tmp_path: Path) -> None:
    sites = infl.datasets.khan_sites()
    there = {name: opened(adata, tmp_path / name) for name, adata in sites.items()}
    tables = {name: getattr(found, "mod", {"rna": found})["rna"] for name, found in there.items()}
    assert all(disk.on_disk(table.X) for table in tables.values())
    options = {"target": "tumour_class", "rounds": 8, "progress": False}
    in_memory = infl.tl.fit_federated(sites, **options)
    modality = {"modality": "rna"} if opened is open_mudata else {}
    backed = infl.tl.fit_federated(there, **options, **modality)
    assert all(disk.on_disk(table.X) for table in tables.values())
    assert backed.history["val_loss"].iloc[-1] == pytest.approx(in_memory.history["val_loss"].iloc[-1], abs=0.2)
    assert there["site_1"].obs["infl_prediction"].notna().all()
