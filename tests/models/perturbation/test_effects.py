"""The stack of simple predictions: exact where effects add up, and blind to what is left out."""

import itertools
from dataclasses import replace

import numpy as np
from tests.models.perturbation.screen import CONDITIONS, GENES, GRAPH, effect_of

from infl.models.perturbation.effects import MEMBERS, Effects, neighbours


def stack(edges=GRAPH, noise=0.01):
    conditions = tuple((gene,) for gene in CONDITIONS)
    delta = np.array([effect_of(c) for c in conditions])
    return Effects(
        tuple(GENES), conditions, delta, np.full(delta.shape, noise), np.full(12, 1.5), np.eye(12), neighbours(edges)
    )


def test_a_left_out_condition_is_not_looked_at():
    effects = stack()
    altered = effects.delta.copy()
    altered[0] += 100
    other = replace(effects, delta=altered)
    for name in MEMBERS:
        np.testing.assert_array_equal(effects.member(name, "G0", 0), other.member(name, "G0", 0), err_msg=name)


def test_where_effects_add_up_the_additive_prediction_is_exact():
    """Noiseless effects, and combinations of two seen genes that are the sum of the single effects."""
    sure = stack(noise=0.0)
    singles = dict(zip(sure.conditions, sure.delta, strict=True))
    for a, b in itertools.combinations(CONDITIONS, 2):
        np.testing.assert_allclose(sure.predict((a, b)), singles[a,] + singles[b,], atol=1e-12)
    together = ("G0", "G3")
    synergy = singles["G0",] + singles["G3",] + 1.0
    measured = replace(
        sure,
        conditions=(*sure.conditions, together),
        delta=np.vstack([sure.delta, synergy]),
        variance=np.vstack([sure.variance, np.zeros(12)]),
    )
    np.testing.assert_allclose(measured.predict(together), synergy, atol=1e-12)
    np.testing.assert_allclose(measured.predict(("G0", "G4")), singles["G0",] + singles["G4",], atol=1e-12)


def test_noise_draws_a_measured_effect_to_the_prediction():
    sure, unsure = stack(noise=1e-6), stack(noise=10.0)
    np.testing.assert_allclose(sure.predict(("G0",)), sure.delta[0], atol=1e-3)
    np.testing.assert_allclose(unsure.predict(("G0",)), unsure.predict(("G0",), without=0))
