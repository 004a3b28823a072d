"""Weights to begin with: signs that are searched, and a student of stolen features."""

import numpy as np
import torch
from tests.attacks.conftest import net
from torch import nn

import infl
from infl.attacks._kit.model_file import parameters
from infl.attacks._kit.starts import distilled, searched_signs, starts
from infl.attacks._kit.weights import rescaled
from infl.nn.mlp import ResidualMLP


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


def test_a_linear_model_is_distilled_by_its_outputs(easy) -> None:
    """Its features are the samples themselves, which no weight changes."""
    x, y = easy
    panel = {"features": [f"g{i}" for i in range(x.shape[1])], "classes": sorted(map(str, y.unique().tolist()))}
    model = infl.models.Classifier(target="t", width=0)
    teacher, student = model.build(panel), model.build(panel)
    stolen = {n: torch.randn_like(t) for n, t in parameters(teacher).items()}
    fresh = {n: torch.randn_like(t) for n, t in stolen.items()}
    found = starts(student, stolen, fresh, fresh, x, np.arange(len(x)), y)
    assert set(found["distilled"]) >= set(fresh)
    aim = rescaled(stolen, fresh)

    def outputs(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        student.load_state_dict(weights, strict=False)
        return student.eval()(x).detach()

    assert (outputs(found["distilled"]) - outputs(aim)).norm() < 0.97 * (outputs(fresh) - outputs(aim)).norm()
