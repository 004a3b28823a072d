"""Products of centred rows are those of the rows made dense and centred one by one."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from infl.pp._centred import CentredRows, in_blocks
from infl.pp._components import exact_components
from infl.pp._pca_sums import _ends

TOLERANCE = 1e-12
"""Of the size that a product can have; each is a sum of float64 in another order."""


def some_rows(seed: int, n_rows: int = 400, n_vars: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of features that store few to all, one of them far from 0, with centres, and which features are used."""
    rng = np.random.default_rng(seed)
    stored = rng.random((n_rows, n_vars)) < rng.uniform(0.01, 0.3, n_vars)
    stored[:, -2:], stored[0] = True, True
    values = np.where(stored, rng.lognormal(0, 1, (n_rows, n_vars)), 0)
    values[:, -1] += 1e6  # of Σx² − n·mean², less than half of the digits would be left
    center = values.mean(axis=0)
    center[:-2] *= rng.uniform(0.5, 1.5, n_vars - 2)  # that of other sites
    return values, center, rng.random(n_vars) < 0.8


@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_products_as_of_dense_rows(seed, height, is_sparse):
    values, center, used = some_rows(seed)
    plain = np.where(used, values - center, 0)
    rows = CentredRows.of(sparse.csr_matrix(values) if is_sparse else values, center, used)
    assert not is_sparse or len(rows.filled) <= used.sum() <= 12
    size = np.sqrt((plain**2).sum(axis=0))
    size[size == 0] = 1
    total = np.zeros((height, 12))
    rows.add_products(total)
    both = np.outer(size[:height], size)
    np.testing.assert_allclose(total / both, plain[:, :height].T @ plain / both, atol=TOLERANCE)
    vectors = np.random.default_rng(seed).standard_normal((12, 3)) / size[:, None]
    scores = plain @ vectors
    np.testing.assert_allclose(rows.times(vectors), scores, atol=TOLERANCE * 12)
    lengths = np.linalg.norm(scores, axis=0) + (not used.any())
    np.testing.assert_allclose(
        rows.transposed_times(scores) / size[:, None] / lengths,
        plain.T @ scores / size[:, None] / lengths,
        atol=TOLERANCE,
    )


def test_given_rows_are_not_altered_and_whole_numbers_are_taken():
    values = sparse.csr_matrix(np.random.default_rng(0).poisson(0.2, (50, 8)))
    before = values.copy()
    rows = CentredRows.of(values, np.full(8, 0.2), np.arange(8) != 3)
    rows.add_products(total := np.zeros((8, 8)))
    plain = np.where(np.arange(8) != 3, before.toarray() - 0.2, 0)
    np.testing.assert_allclose(total, plain.T @ plain, atol=1e-12)
    assert (values != before).nnz == 0 and values.dtype == before.dtype


def test_blocks_are_all_rows_in_order(monkeypatch):
    monkeypatch.setattr("infl.pp._centred._IN_MEMORY", 50)
    values = np.arange(60.0).reshape(20, 3) % 7
    for matrix in (values, sparse.csr_matrix(values)):
        parts = list(in_blocks(matrix))
        assert len(parts) > 1
        np.testing.assert_array_equal(sparse.vstack([sparse.csr_matrix(part) for part in parts]).toarray(), values)


def test_no_block_of_zeros_is_made():
    """Components of sparse rows take memory for what is stored, not for what is not."""
    n_rows, n_vars = 20_000, 1_000
    values = sparse.random(n_rows, n_vars, 0.01, "csr", np.float32, random_state=0)
    vectors = np.ones((n_vars, 2))
    tracemalloc.start()
    try:
        for block in in_blocks(values):
            CentredRows.of(block, np.full(n_vars, 0.005), np.ones(n_vars, dtype=bool)).times(vectors)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < n_rows * n_vars * 8 / 20


@pytest.mark.parametrize("k", [1, 2, 5, 17, 100])
def test_parts_of_the_upper_half_are_all_of_it(k, monkeypatch):
    monkeypatch.setattr("infl.pp._pca_sums._IN_MEMORY", 60)
    ends = _ends(k)
    assert ends[-1] == k and (np.diff([0, *ends]) > 0).all()
    numbers = np.add.reduceat(np.arange(k, 0, -1), [0, *ends[:-1]])
    assert all(number <= 60 or height == 1 for number, height in zip(numbers, np.diff([0, *ends]), strict=True))


def test_lanczos_finds_what_a_full_decomposition_does_twice_where_it_is_double(monkeypatch):
    factor = np.random.default_rng(0).standard_normal((150, 150)) * np.logspace(0, -2, 150)
    one = factor.T @ factor
    double = np.triu(np.kron(np.eye(2), one))  # each value twice; only the upper half is there
    values, vectors = exact_components(double, 6)
    assert len(double) >= 5 * 13
    monkeypatch.setattr("infl.pp._components._MANY", np.inf)
    plain, full = exact_components(double, 6)
    np.testing.assert_allclose(values, plain, rtol=1e-12)
    np.testing.assert_allclose(values[::2], values[1::2], rtol=1e-12)
    np.testing.assert_allclose(vectors @ vectors.T, full @ full.T, atol=1e-10)


def test_few_observations_are_decomposed_in_full(monkeypatch):
    """Lanczos' method would leave the span of the data, and go on from random vectors."""
    monkeypatch.setattr("infl.pp._components._lanczos", lambda *_: pytest.fail("a basis larger than the rank"))
    rows = np.random.default_rng(0).standard_normal((20, 100))
    values, _ = exact_components(rows.T @ rows, 5, n_obs=20)
    np.testing.assert_allclose(values, np.linalg.svd(rows)[1][:5] ** 2)
