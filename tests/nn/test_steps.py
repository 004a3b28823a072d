import subprocess
import sys

import pytest
import torch
from torch import Tensor

from infl.nn.steps import Stepper

CLASSES = {
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01, eps=1e-5, weight_decay=0.1, fused=True),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.01, weight_decay=0.1),
}


def weights(*, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in ((5, 3), (5, 7, 2), (5, 1))]


def give(leaves: list[Tensor], number: int) -> None:
    """Set gradients; the second weight has none now and then, and another reason to be left alone than being 0."""
    for place, (leaf, gradient) in enumerate(zip(leaves, weights(seed=number), strict=True)):
        leaf.grad = None if place == 1 and number % 3 == 1 else gradient.detach()[: len(leaf)].clone()


@pytest.mark.parametrize("rule", CLASSES)
def test_steps_are_those_of_torchs_classes_to_the_bit(rule: str) -> None:
    ours, theirs = weights(), weights()
    stepper, optimiser = Stepper(ours, rule, lr=0.01, eps=1e-5, weight_decay=0.1), CLASSES[rule](theirs)
    for number in range(7):
        for leaves, one in ((ours, stepper), (theirs, optimiser)):
            give(leaves, number)
            one.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[1], weights()[1])


def test_restarted_it_steps_as_a_fresh_one() -> None:
    ours, fresh = weights(), weights()
    stepper = Stepper(ours, "adamw", lr=0.01)
    for number in range(3):
        give(ours, number)
        stepper.step()
    with torch.no_grad():
        for a, b in zip(ours, fresh, strict=True):
            a.copy_(b)
    stepper.restart()
    for leaves, one in ((ours, stepper), (fresh, Stepper(fresh, "adamw", lr=0.01))):
        give(leaves, 0)
        one.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, fresh, strict=True))


@pytest.mark.parametrize("before", [0, 2])
def test_the_first_rows_go_on_alone_and_the_others_stay(before: int) -> None:
    ours, whole = weights(), weights()
    stepper, all_rows = Stepper(ours, "adamw", lr=0.01), Stepper(whole, "adamw", lr=0.01)
    for number in range(5):
        if number == before:
            stay = [leaf.detach()[2:].clone() for leaf in ours]
            stepper = stepper.first(2)
        for one in (stepper, all_rows):
            give(one.parameters, 3 * number)
            one.step()
    for a, b, last in zip(ours, whole, stay, strict=True):
        assert torch.equal(a[:2], b[:2])
        assert torch.equal(a[2:], last)


def test_gradients_are_let_go() -> None:
    leaves = weights()
    give(leaves, 0)
    Stepper(leaves, "sgd", lr=0.1).zero_grad()
    assert all(leaf.grad is None for leaf in leaves)


def test_a_fit_does_not_load_torchs_compiler() -> None:
    code = """
import sys
import infl
sites = infl.datasets.khan_sites()
infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)
print(sorted(set(sys.modules) & {"torch._dynamo", "sympy"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
