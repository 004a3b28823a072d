"""A mixture from sums is that of the pooled data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import multivariate_normal

from infl.sums import mixture


def run(pieces: list[np.ndarray], k: int, steps: int = 60):
    """A mixture of what several sites have."""

    def add(function):
        return {name: sum(function(p)[name] for p in pieces) for name in function(pieces[0])}

    mixtures = mixture.first(add(mixture.moments), k)
    for _ in range(steps):
        mixtures = mixture.moved(mixtures, add(lambda p, now=mixtures: mixture.parts(p, now)))
    return mixture.best(mixtures, add(lambda p: mixture.parts(p, mixtures)))


def test_federated_mixture_is_that_of_the_pooled_data_and_of_its_formula():
    rng = np.random.default_rng(0)
    true = (((6, 0), 300), ((0, 0), 200), ((0, -4), 100))
    z = np.concatenate([rng.normal(mean, 0.8, size=(n, 2)) for mean, n in true])
    apart, pooled = run([z[::2], z[1::2]], 3), run([z], 3)
    assert all(np.allclose(apart[name], pooled[name]) for name in apart)
    np.testing.assert_allclose(apart["centres"], [mean for mean, _ in true], atol=0.2)
    np.testing.assert_allclose(apart["shares"], [n / len(z) for _, n in true], atol=0.02)
    assert float(apart["variance"]) == pytest.approx(0.64, rel=0.1)
    # Where expectation maximisation ends, each parameter is what its formula says (Bishop 2006, 9.2.2).
    density = np.stack(
        [
            s * multivariate_normal(m, float(apart["variance"])).pdf(z)
            for m, s in zip(apart["centres"], apart["shares"], strict=True)
        ],
        1,
    )
    belongs = density / density.sum(1, keepdims=True)
    np.testing.assert_allclose(apart["shares"], belongs.mean(0), atol=1e-6)
    np.testing.assert_allclose(apart["centres"], belongs.T @ z / belongs.sum(0)[:, None], atol=1e-6)
    squares = ((z[:, None] - apart["centres"]) ** 2).sum(2)
    assert float(apart["variance"]) == pytest.approx((belongs * squares).sum() / (2 * len(z)), rel=1e-6)
    path = sparse.csr_matrix((len(z), len(z)))
    np.testing.assert_array_equal(mixture.assign(z, apart, path, 0), belongs.argmax(1))


def test_a_large_tissue_is_not_cut_in_parts_as_k_means_would():
    rng = np.random.default_rng(1)
    z = np.concatenate([rng.normal((0, 0), 1, (900, 2)), rng.normal((4, 0), 1, (60, 2))])
    found = run([z], 2)
    border = (
        np.log(found["shares"][0] / found["shares"][1])
        * found["variance"]
        / (found["centres"][1] - found["centres"][0])[0]
    )
    assert 0.9 < found["shares"][0] < 0.97
    assert found["centres"].mean(0)[0] + border > 2.3  # nearer to the small one than half way


def test_equal_spots_do_not_draw_a_domain_to_nothing():
    z = np.concatenate([np.zeros((40, 2)), np.random.default_rng(0).normal(5, 1, (40, 2))])
    z = np.repeat(z[[0, -1]], 40, axis=0)
    found = run([z], 2, steps=30)
    assert float(found["variance"]) == pytest.approx(mixture.NARROWEST * np.cov(z.T, bias=True).trace() / 2)
    assert all(np.isfinite(value).all() for value in found.values())
