"""Ways to fine-tune, and how they are judged."""

import numpy as np
import pytest
import torch
from tests.attacks.conftest import net

from infl.attacks._kit.fine_tuning import (
    FREE,
    STOLEN,
    UNLOCKED,
    Way,
    balanced_accuracy,
    compare_starts,
    fine_tune,
    summarise,
)
from infl.attacks._kit.model_file import parameters
from infl.attacks._kit.starts import starts
from infl.attacks._kit.theft import draw


def test_every_way_learns(easy) -> None:
    x, y = easy
    train, judge = draw(y.numpy(), 30, np.random.default_rng(0))
    module, scratch = net(), parameters(net())
    stored = {n: torch.randn_like(t) for n, t in scratch.items()}
    begin = starts(module, stored, scratch, scratch, x, train, y) | {"unlocked": scratch}
    ways = STOLEN | FREE | UNLOCKED
    assert {way.start for way in ways.values()} <= set(begin)
    for name, way in ways.items():
        tuned = fine_tune(module, begin[way.start], x[train], y[train], lr=1e-2, way=way)
        assert balanced_accuracy(tuned(x[judge]).argmax(1), y[judge]) > (0.4 if way.frozen == 1 else 0.7), name


def test_frozen_layers_stay_and_steps_follow_stored_sizes(easy) -> None:
    x, y = easy
    begin = parameters(net())
    begin["embed.weight"][0] = 0
    frozen = parameters(fine_tune(net(), begin, x, y, lr=1e-2, way=Way("", frozen=1.0)))
    assert torch.equal(frozen["embed.weight"], begin["embed.weight"])
    assert not torch.equal(frozen["head.weight"], begin["head.weight"])
    sized = parameters(fine_tune(net(), begin, x, y, lr=1e-2, way=Way("", multiplicative=True), steps=1))
    moved = (sized["embed.weight"] - begin["embed.weight"]).abs()
    assert moved[0].max() == 0
    assert moved[1:].max() > 0
    later = parameters(fine_tune(net(), begin, x, y, lr=1e-2, way=Way("", frozen=0.5)))
    assert not torch.equal(later["embed.weight"], begin["embed.weight"])


def test_balanced_accuracy_by_hand() -> None:
    assert balanced_accuracy(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])) == pytest.approx(0.75)


def test_oracle_takes_the_best_rate_of_each_way() -> None:
    trials = [{("a", 1.0): 0.1, ("a", 2.0): 0.9, ("b", 1.0): 0.5, ("b", 2.0): 0.3}] * 2
    best = summarise(trials)
    assert best["a"].tolist() == [0.9, 0.9]
    assert best["b"].tolist() == [0.5, 0.5]


def test_paired_comparison_does_not_choose_on_what_it_judges() -> None:
    first, second = list(STOLEN)[:2]
    row = compare_starts(
        {
            first: np.array([0.9, 0.5, 0.9, 0.5]),
            second: np.array([0.6, 0.8, 0.6, 0.8]),
            "scratch": np.array([0.4, 0.6, 0.4, 0.6]),
            "public start": np.array([0.6, 0.4, 0.6, 0.4]),
            "unlocked": np.ones(4),
        }
    )
    assert row["stolen"].tolist() == [0.6, 0.5, 0.6, 0.5]  # on even trials the second, which is best on odd ones
    assert row["scratch"].tolist() == [0.4] * 4  # the same for what needs no theft
    np.testing.assert_allclose(row["difference"], [0.2, 0.1, 0.2, 0.1])
    assert row["unlocked"].tolist() == [1.0] * 4
