"""What a stored first layer tells of the features."""

import numpy as np
import pytest

from infl.attacks import AuditContext, Status
from infl.attacks.importance_thief import (
    ImportanceThief,
    accuracy_with,
    best_guess,
    column_norms,
    first_layer,
)


def test_column_norms() -> None:
    assert column_norms(np.array([[3.0, 0.0], [4.0, 1.0]])).tolist() == [5, 1]


def test_guess_reads_an_open_layer_and_not_noise() -> None:
    rng = np.random.default_rng(0)
    initial, learned = rng.normal(size=(40, 400)), rng.normal(size=(40, 400)) * rng.gamma(1, size=400)
    true = column_norms(learned)
    assert best_guess(initial + learned, initial, true, rng) > 0.99
    assert best_guess(initial - learned, initial, true, rng) > 0.99
    noise = [best_guess(rng.normal(size=(40, 400)), initial, true, rng) for _ in range(20)]
    assert abs(np.mean(noise)) < 0.1


def test_multiplicative_lock_without_gains_would_be_read() -> None:
    """The attack sees through signs and sizes alone; it is the gains and the additive part that stop it."""
    rng = np.random.default_rng(0)
    initial, learned = 0.02 * rng.normal(size=(64, 400)), 0.05 * rng.normal(size=(64, 400)) * rng.gamma(1, size=400)
    m = rng.choice([-1, 1], size=(64, 400)) * np.exp(0.5 * rng.normal(size=(64, 400)))
    assert best_guess((initial + learned) / m, initial, column_norms(learned), rng) > 0.8


def test_features_that_matter_classify() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 30))
    x[np.arange(60), y] += 4
    assert accuracy_with(x, y, np.arange(3), rng) > 0.9
    assert accuracy_with(x, y, np.arange(10, 13), rng) < 0.6
    x[::10, 0], x[:, 3] = np.nan, np.nan  # covariates have gaps, and a site may lack a feature
    assert accuracy_with(x, y, np.arange(4), rng) > 0.9


@pytest.mark.long
def test_default_tells_nothing_and_an_open_file_all(default: AuditContext, unprotected: AuditContext) -> None:
    assert first_layer(default) == "embed.weight"
    locked, top = ImportanceThief().run(default)
    assert locked.status is Status.HOLDS
    assert locked.control > 0.9
    assert top.status is not Status.BROKEN
    open_file, _ = ImportanceThief().run(unprotected)
    assert open_file.status is Status.NOT_PROMISED
    assert open_file.value > 0.9
