"""Features recognised by their columns."""

import numpy as np

from infl.attacks import AuditContext, Status
from infl.attacks.relabelling import Relabelling, matched_features


def test_columns_are_recognised_by_hand() -> None:
    reference = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [2.0, 3.0, 0.0]])
    assert matched_features(reference * [2, -1, 5] + 1, reference) == 1.0
    assert matched_features(reference[:, [1, 0, 2]], reference) == 1 / 3


def test_locked_columns_are_not_recognised_and_open_ones_are(default: AuditContext, unprotected: AuditContext) -> None:
    (locked,) = Relabelling().run(default)
    assert locked.status is Status.HOLDS
    assert locked.control > 0.9
    (opened,) = Relabelling().run(unprotected)
    assert opened.status is Status.NOT_PROMISED
    assert opened.value > 0.9


def test_a_lock_of_gains_alone_would_be_seen_through() -> None:
    """A factor for each feature, the same over a column, hides nothing from this attack."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(32, 300))
    assert matched_features(weight * rng.choice([-1, 1], 300) * np.exp(rng.normal(size=300)), weight) == 1.0
