"""Weights that are trained as a stack come out as each alone, step by step with torch's AdamW."""

import pytest
import torch
from tests.attacks.conftest import net
from torch import Tensor, nn

from infl.attacks._kit import fine_tuning
from infl.attacks._kit.fine_tuning import Way, tune
from infl.attacks._kit.model_file import parameters
from infl.attacks._kit.substitute_fields import FIELDS

RATES, STEPS = (3e-3, 1e-2), 20
WAYS = [Way(""), Way("", multiplicative=True), Way("", frozen=0.5), Way("", frozen=1.0)]


def starts() -> list[dict[str, Tensor]]:
    torch.manual_seed(5)
    return [{n: torch.randn_like(w) * 0.3 for n, w in parameters(net()).items()} for _ in range(3)]


def alone(start: dict[str, Tensor], x: Tensor, y: Tensor, lr: float, way: Way) -> dict[str, Tensor]:
    module = net()
    module.load_state_dict(start, strict=False)
    optimiser = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=1e-4, foreach=False)
    torch.manual_seed(3)
    for step in range(STEPS):
        before = parameters(module)
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        only_head = step < way.frozen * STEPS
        for name, p in module.named_parameters():
            if only_head and not name.startswith("head"):
                p.grad = torch.zeros_like(p)
        optimiser.step()
        with torch.no_grad():
            for name, p in module.named_parameters():
                if only_head and not name.startswith("head"):
                    p.copy_(before[name])
                elif way.multiplicative:
                    p.copy_(before[name] + (p - before[name]) * start[name].abs() / start[name].abs().mean())
    return parameters(module)


def field_alone(start: dict[str, Tensor], x: Tensor, y: Tensor, lr: float, form: str) -> dict[str, Tensor]:
    module, (make, effective) = net(), FIELDS[form]
    torch.manual_seed(3)
    small = {n: w.clone().requires_grad_() for n, w in start.items() if w.ndim < 2}
    fields = {n: {k: v.requires_grad_() for k, v in make(w.shape).items()} for n, w in start.items() if w.ndim > 1}
    groups = [
        {"params": [*small.values()], "lr": lr},
        {"params": [v for numbers in fields.values() for v in numbers.values()], "lr": 10 * lr},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-4, foreach=False)
    for _ in range(STEPS):
        optimiser.zero_grad()
        weights = small | {n: effective(start[n], numbers) for n, numbers in fields.items()}
        nn.functional.cross_entropy(torch.func.functional_call(module, weights, (x,)), y).backward()
        optimiser.step()
    return small | {n: effective(start[n], numbers) for n, numbers in fields.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> None:
    assert any((expected[n] - start[n]).abs().max() > 1e-2 for n in start)
    for name in start:
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("largest", [fine_tuning.LARGEST_STACK, 600], ids=["one stack", "three stacks"])
@pytest.mark.parametrize("way", WAYS, ids=["all", "in proportion", "last layer first", "last layer alone"])
def test_each_start_at_each_rate(easy, way: Way, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = easy
    begin = starts()
    monkeypatch.setattr(fine_tuning, "LARGEST_STACK", largest)
    module = net()
    torch.manual_seed(3)
    tuned = tune(module, begin, RATES, x, y, way=way, steps=STEPS)
    for number, (lr, start) in enumerate((lr, start) for lr in RATES for start in begin):
        expected = alone(start, x, y, lr, way)
        assert_same({n: w[number] for n, w in tuned.weights.items()}, expected, start)
        said = tuned(x)[number]
        module = tuned.load(number)
        torch.testing.assert_close(said, module(x).detach())


@pytest.mark.parametrize("form", list(FIELDS))
def test_each_start_under_a_field(easy, form: str) -> None:
    x, y = easy
    begin, module = starts(), net()
    torch.manual_seed(3)
    tuned = tune(module, begin, (5e-3,), x, y, way=Way("", field=form), steps=STEPS)
    for number, start in enumerate(begin):
        expected = field_alone(start, x, y, 5e-3, form)
        assert_same({n: w[number] for n, w in tuned.weights.items()}, expected, start)
