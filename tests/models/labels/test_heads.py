"""Probabilities of several columns at once: those of steps between levels, by hand and by laws."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infl.models.labels.heads import heads_of, log_probabilities, read_order, written_order

PANEL = {"tasks": {"er": ["neg", "pos"], "grade": ["1", "2", "3", "4"]}, "ordered": {"grade": '["1", "2", "3", "4"]'}}


def test_steps_between_levels_by_hand() -> None:
    """Log odds of being above a level: 1, then lower by log(1 + e^0), then by log(1 + e^2)."""
    _, grade = log_probabilities(torch.tensor([[0.0, 0.0, 1.0, 0.0, 2.0]], dtype=torch.float64), heads_of(PANEL))
    above = 1 / (1 + np.exp(-(1.0 - np.array([0.0, np.log(2), np.log(2) + np.log1p(np.e**2)]))))
    np.testing.assert_allclose(grade.exp().numpy()[0], -np.diff([1.0, *above, 0.0]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=5, max_size=5))
def test_probabilities_add_up_to_one(outputs: list[float]) -> None:
    x = torch.tensor([outputs], dtype=torch.float64, requires_grad=True)
    found = log_probabilities(x, heads_of(PANEL))
    for one in found:
        torch.testing.assert_close(one.exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    sum(one.sum() for one in found).backward()
    assert torch.isfinite(x.grad).all()


def test_an_order_is_one_text() -> None:
    assert read_order(written_order(["a < b", "é"])) == ["a < b", "é"]
