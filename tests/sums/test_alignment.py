"""Sections are aligned, and domains named, as if all spots were in one place."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from infl.sums.alignment import FEWEST, MIXTURE_STARTS, Alignment, transport


def test_transport_makes_one_covariance_of_another():
    rng = np.random.default_rng(0)
    a, b = (np.cov(rng.standard_normal((3, 9))) for _ in range(2))
    t = transport(a, b)
    assert np.allclose(t @ a @ t, b, atol=1e-4) and np.allclose(t, t.T)


def test_domains_of_sums_are_those_of_the_pooled_sections_and_batches_are_brought_together(monkeypatch, plainly_added):
    monkeypatch.setattr("infl.sums.alignment.FEWEST", 1)  # what a site keeps to itself depends on what a site is
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 100)
    centres = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]])
    z = [centres[labels] + shift + rng.normal(0, spread, (300, 3)) for shift, spread in ((0, 0.4), (0.8, 0.2))]
    domains = Alignment(3, 3)
    sums = domains.sums(lambda sections, state: sections)
    apart, pooled = plainly_added(sums, [[z[0]], [z[1]]]), plainly_added(sums, [z])
    assert all(np.allclose(apart[name], pooled[name]) for name in apart)
    moved = [domains.aligned(section, apart) for section in z]
    for section in moved:
        assert adjusted_rand_score(labels, domains.label(section, apart)) == 1
    assert (domains.label(moved[0], apart) == domains.label(moved[1], apart)).all()
    before = [(section - apart["latent_mean"]) @ apart["latent_axes"] for section in z]

    def gap(pair):
        return np.abs(pair[0][labels == 1].mean(0) - pair[1][labels == 1].mean(0)).max()

    assert gap(moved) < 0.2 * gap(before)
    assert moved[0][labels == 1].std() == pytest.approx(moved[1][labels == 1].std(), rel=0.2)


def test_a_site_says_nothing_of_clusters_that_it_has_few_spots_of():
    z = np.r_[np.zeros((FEWEST, 2)), np.full((FEWEST - 1, 2), 9.0)]
    domains = Alignment(2, 3)
    private = {"latent_mean": np.zeros(2), "latent_axes": np.eye(2)}
    private["centres_0"] = np.tile([[0.0, 0], [9, 9], [50, 50]], (MIXTURE_STARTS, 1, 1))
    centres = domains.sums(lambda sections, state: sections)[1]
    assert centres.exchanges[3] == "centres_0_3"
    sums = centres.local([z], private)
    assert sums["n"][0].tolist() == [FEWEST, 0, 0] and not sums["sum"].any()
