"""Fine-tuning of stolen weights: the ways, the draw, the comparison."""

import numpy as np
import pytest
import torch
from tests.attacks.conftest import net
from torch import nn

from infl.attacks import Evidence, Status
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
from infl.attacks._kit.starts import distilled, searched_signs, starts
from infl.attacks._kit.theft import draw
from infl.attacks.thief_fine_tuning import ThiefFineTuning
from infl.nn.mlp import ResidualMLP


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


def test_search_of_signs_lowers_the_loss_and_keeps_sizes(easy) -> None:
    x, y = easy
    module, begin = net(), parameters(net())
    found = searched_signs(module, begin, x, y, largest=20)

    def loss(weights: dict[str, torch.Tensor]) -> float:
        module.load_state_dict(weights, strict=False)
        return float(nn.functional.cross_entropy(module.eval()(x), y).detach())

    assert loss(found) < loss(begin) - 0.2
    assert all(torch.equal(found[n].abs(), begin[n].abs()) for n in begin)


def test_distilled_student_has_the_features(easy) -> None:
    x, _ = easy
    teacher = net().eval().latent(x).detach()
    student = net()
    start = {n: torch.randn_like(t) * 0.3 for n, t in parameters(net()).items()}
    before = _distance(student, start, x, teacher)
    assert _distance(student, distilled(student, start, teacher, x, steps=300), x, teacher) < before * 0.7


def _distance(module: ResidualMLP, weights: dict[str, torch.Tensor], x: torch.Tensor, teacher: torch.Tensor) -> float:
    module.load_state_dict(weights, strict=False)
    return float((module.eval().latent(x) - teacher).square().mean().detach())


def test_draw_has_every_class_and_leaves_the_others() -> None:
    y = np.arange(40) % 4
    train, judge = draw(y, 8, np.random.default_rng(0))
    assert len(train) == 8
    assert set(y[train]) == {0, 1, 2, 3}
    assert sorted([*train, *judge]) == list(range(40))


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


@pytest.mark.slow
def test_default_gives_no_head_start_and_the_control_has_one(default: Evidence, monkeypatch) -> None:
    monkeypatch.setattr(ThiefFineTuning, "n_trials", 8)
    (locked,) = ThiefFineTuning().run(default)
    assert locked.status is Status.HOLDS
    assert locked.control > locked.chance + 0.05
