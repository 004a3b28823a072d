"""The classifier's metrics, worked out by hand."""

import numpy as np
import pytest

from infl.models.classifier.scoring import N_BINS, metrics_of


def test_metrics_by_hand() -> None:
    confusion = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])  # the third class is absent
    bins = np.zeros((N_BINS, 3))
    bins[9] = [4, 3.8, 3]
    bins[5] = [2, 1.1, 2]
    metrics = metrics_of(
        {"weighted_loss": np.array(3.0), "weight": np.array(6.0), "confusion": confusion, "bins": bins}
    )
    assert metrics["loss"] == 0.5
    assert metrics["accuracy"] == pytest.approx(5 / 6)
    assert metrics["balanced_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    assert metrics["macro_f1"] == pytest.approx((6 / 7 + 4 / 5) / 2)
    assert metrics["calibration_error"] == pytest.approx((0.8 + 0.9) / 6)
