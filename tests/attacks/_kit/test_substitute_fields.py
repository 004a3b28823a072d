"""Substitute fields learn, and forge a lock that has gains alone."""

import pytest
import torch
from tests.attacks.conftest import net
from torch import nn

from infl.attacks._kit.fine_tuning import Way, balanced_accuracy, fine_tune
from infl.attacks._kit.model_file import parameters
from infl.attacks._kit.substitute_fields import FIELDS
from infl.nn.field import KAPPA
from infl.nn.mlp import ResidualMLP


@pytest.mark.parametrize("form", list(FIELDS))
def test_every_field_is_one_at_its_start_and_learns(easy, form: str) -> None:
    x, y = easy
    begin = parameters(net())
    make, effective = FIELDS[form]
    factor = torch.tanh(torch.tensor(0.5)) if form == "whole" else 1.0
    for weight in (begin["embed.weight"], begin["head.weight"]):
        torch.testing.assert_close(effective(weight, make(weight.shape)), weight * factor, atol=1e-3, rtol=1e-2)
    tuned = fine_tune(net(), begin, x, y, lr=5e-3, way=Way("", field=form))
    assert balanced_accuracy(tuned(x).argmax(1), y) > 0.7


def test_a_lock_of_gains_alone_is_forged() -> None:
    """Signs, sizes of single weights and terms are what a handful of samples does not give back."""
    torch.manual_seed(0)
    x, y = torch.randn(400, 60), torch.arange(400) % 3
    x[torch.arange(400)[:, None], 4 * y[:, None] + torch.arange(4)] += 1.3
    module = ResidualMLP(60, 3, width=16, n_blocks=1)
    fresh = parameters(module)
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x[:300]), y[:300]).backward()
        optimiser.step()

    def gains(n: int) -> torch.Tensor:
        return torch.exp(KAPPA * (2 * torch.rand(n) - 1))

    locked = {
        n: w * gains(len(w))[:, None] * gains(w.shape[1]) if w.ndim == 2 else w for n, w in parameters(module).items()
    }
    scores = {}
    for what, start in (("locked", locked), ("fresh", fresh)):
        tuned = fine_tune(module, start, x[300:312], y[300:312], lr=5e-3, way=Way("", field="gains"))
        scores[what] = balanced_accuracy(tuned(x[312:]).argmax(1), y[312:])
    assert scores["locked"] > 0.7
    assert scores["locked"] > scores["fresh"] + 0.15
