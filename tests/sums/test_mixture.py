"""A mixture from sums is that of the pooled data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.mixture import GaussianMixture

from infl.sums import mixture


def test_federated_mixture_is_that_of_the_pooled_data_and_scikit_learns():
    rng = np.random.default_rng(0)
    true = (((6, 0), 1.5, 300), ((0, 0), 0.5, 200), ((0, -4), 0.2, 100))
    z = np.concatenate([rng.normal(mean, width, size=(n, 2)) for mean, width, n in true])

    def run(pieces):
        add = lambda function: {  # noqa: E731
            name: sum(function(p)[name] for p in pieces) for name in function(pieces[0])
        }
        mixtures = mixture.first(add(mixture.moments), 3)
        for _ in range(60):
            sums = add(lambda p, now=mixtures: mixture.parts(p, now))
            mixtures = mixture.moved(mixtures, sums)
        return mixture.best(mixtures, sums)

    apart, pooled = run([z[::2], z[1::2]]), run([z])
    assert all(np.allclose(apart[name], pooled[name]) for name in apart)
    model = GaussianMixture(3, covariance_type="spherical", n_init=5, tol=1e-8, random_state=0).fit(z)
    order = np.argsort(-model.weights_)
    np.testing.assert_allclose(apart["centres"], model.means_[order], atol=1e-3)
    np.testing.assert_allclose(apart["variances"], model.covariances_[order], rtol=1e-2)
    np.testing.assert_allclose(apart["shares"], model.weights_[order], atol=1e-3)
    path = sparse.csr_matrix((len(z), len(z)))
    np.testing.assert_array_equal(order[mixture.assign(z, apart, path, 0)], model.predict(z))


def test_equal_spots_do_not_draw_a_domain_to_nothing():
    z = np.concatenate([np.zeros((40, 2)), np.random.default_rng(0).normal(5, 1, (40, 2))])
    mixtures = mixture.first(mixture.moments(z), 2)
    for _ in range(30):
        mixtures = mixture.moved(mixtures, mixture.parts(z, mixtures))
    found = mixture.best(mixtures, mixture.parts(z, mixtures))
    assert found["variances"].min() == pytest.approx(mixture.NARROWEST * np.cov(z.T, bias=True).trace() / 2)
    assert all(np.isfinite(value).all() for value in found.values())
