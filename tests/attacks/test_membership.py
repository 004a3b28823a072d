"""Membership inference on scores that were made by hand, and on a run."""

import numpy as np
import pytest
import torch

from infl.attacks import AuditContext, Status
from infl.attacks._kit.shadows import confidence
from infl.attacks.membership import (
    Membership,
    allowed_area,
    allowed_rate,
    likelihood_ratio,
    likelihood_ratios,
    true_positive_rate,
)
from infl.models.labelled import area_under_curve


def test_ratios_find_members_that_are_fitted_and_nobody_else() -> None:
    rng = np.random.default_rng(0)
    member = rng.random((16, 200)) < 0.5
    fitted = 3 * rng.normal(size=200) + np.where(member, 6.0, 0.0) + rng.normal(size=(16, 200))
    assert true_positive_rate(likelihood_ratios(fitted, member), member, 0.01) > 0.9
    assert true_positive_rate(fitted, member, 0.01) < 0.7  # the loss alone does not see how hard a record is
    plain = rng.normal(size=200) + rng.normal(size=(16, 200))
    assert true_positive_rate(likelihood_ratios(plain, member), member, 0.01) < 0.05
    assert abs(area_under_curve(likelihood_ratios(plain, member), member) - 0.5) < 0.05


def test_ratio_by_hand() -> None:
    scores = np.array([[1.0], [3.0], [-1.0], [-3.0]])
    member = np.array([[True], [True], [False], [False]])
    # both variances are 2 (two shadows around each mean), so (x + 2)² / 4 − (x − 2)² / 4 = 2x
    np.testing.assert_allclose(likelihood_ratio(np.array([2.0]), scores, member), [4.0], rtol=1e-6)
    only_members = np.ones_like(member)
    assert np.isnan(likelihood_ratio(np.array([2.0]), scores, only_members)).all()


def test_confidence_does_not_round() -> None:
    logits = torch.tensor([[np.log(3.0), 0.0], [0.0, 0.0], [80.0, 0.0]])
    np.testing.assert_allclose(confidence(logits, torch.tensor([0, 1, 0])), [np.log(3), 0, 80], rtol=1e-6)


def test_rates_by_hand() -> None:
    member = np.array([True, True, False, False])
    assert true_positive_rate(np.array([3.0, 1.0, 2.0, 0.0]), member, 0.01) == 0.5
    assert true_positive_rate(np.array([3.0, 1.0, 2.0, 0.0]), member, 0.5) == 1.0
    assert np.isnan(true_positive_rate(np.array([1.0]), np.array([True]), 0.1))
    assert np.isnan(area_under_curve(np.array([1.0]), np.array([True])))


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_area_is_that_under_the_allowed_rates(epsilon: float) -> None:
    fpr = np.linspace(0, 1, 20001)
    rates = np.array([allowed_rate(f, epsilon, 1e-3) for f in fpr])
    assert allowed_area(epsilon, 1e-3) == pytest.approx(np.trapezoid(rates, fpr), abs=1e-3)


def test_membership_is_shown_as_not_promised_and_its_control_works(default: AuditContext, monkeypatch) -> None:
    monkeypatch.setattr("infl.attacks.membership.N_SHADOWS", 8)
    findings = Membership().run(default)
    assert len(findings) == 3
    for finding in findings:
        assert finding.status in (Status.HOLDS, Status.INCONCLUSIVE, Status.NOT_PROMISED)
        assert not finding.promised
    assert findings[0].control >= 5 * findings[0].chance
