"""Rules with an optimiser at the global model follow the formulas of their paper."""

import numpy as np
import pytest
import torch

from infl.federation.adaptive import fedadam, fedyogi


@pytest.mark.parametrize(
    ("make", "square"),
    [
        (fedadam, lambda v, u: 0.99 * v + 0.01 * u**2),
        (fedyogi, lambda v, u: v - 0.01 * u**2 * np.sign(v - u**2)),
    ],
)
def test_adaptive_rules_follow_their_formula(make: object, square: object) -> None:
    updates = np.array([[0.5, -0.1], [0.1, -0.3], [0.01, 0.2]])
    theta, state = torch.zeros(2), {}
    mean, second, expected = np.zeros(2), np.zeros(2), np.zeros(2)
    for t, u in enumerate(updates, 1):
        make(lr=0.1).at_sum(theta, torch.tensor(u, dtype=torch.float32), state)
        mean, second = 0.9 * mean + 0.1 * u, square(second, u)
        expected += 0.1 * mean / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.99**t)) + 1e-4)
    np.testing.assert_allclose(theta.numpy(), expected, rtol=1e-4)
