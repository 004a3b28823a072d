"""Training on from stolen weights, against what needs no theft: the loop that thieves share.

The learning rate of each way is the one that turns out best, as if an oracle had told; which way counts is decided on other
trials than those that it is judged on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infl._isolation import torch_seed
from infl.attacks._kit.statistics import cross_chosen, interval, most_chosen
from infl.attacks._kit.substitute_fields import train_field
from infl.attacks._kit.tuning import LARGEST_STACK, Stack, Tuned, train
from infl.attacks._kit.weights import Weights

LEARNING_RATES = (1e-4, 1e-3, 3e-3, 1e-2)
STEPS = 80


@dataclass(frozen=True)
class Way:
    """One way to fine-tune.

    Attributes
    ----------
    start
        Which weights to begin with, by name in :func:`infl.attacks._kit.starts.starts`.
    frozen
        Share of the steps in which the last layer alone is trained.
    multiplicative
        Whether a weight's step is in proportion to its stored magnitude.
    field
        Train a substitute field over the weights, by name in :data:`infl.attacks._kit.substitute_fields.FIELDS`, instead of the weights themselves.
    """

    start: str
    frozen: float = 0.0
    multiplicative: bool = False
    field: str = ""


STOLEN: dict[str, Way] = {
    "as stored": Way("stored"),
    "cut to the usual range": Way("clipped"),
    "brought to the usual spread": Way("rescaled"),
    "steps in proportion to stored sizes": Way("rescaled", multiplicative=True),
    "last layer alone": Way("rescaled", frozen=1.0),
    "last layer first, then all": Way("rescaled", frozen=0.5),
    "signs of the largest weights searched": Way("signs"),
    "distilled from the stolen features": Way("distilled"),
}
FREE: dict[str, Way] = {
    "scratch": Way("scratch"),
    "scratch, steps in proportion to sizes": Way("scratch", multiplicative=True),
    "scratch, last layer alone": Way("scratch", frozen=1.0),
    "scratch, last layer first, then all": Way("scratch", frozen=0.5),
    "scratch, signs searched": Way("scratch signs"),
    "public start": Way("initial"),
    "public start, last layer alone": Way("initial", frozen=1.0),
    "public start, last layer first, then all": Way("initial", frozen=0.5),
}
"""What needs no theft: the same ways with fresh random weights, and with the run's initial weights, which its public seed
gives. Some of the ways are better than plain training whatever they begin with, so theft is compared with all of them."""
LOCKED: dict[str, Way] = {
    f"locked public start, {name}": replace(way, start=f"locked {way.start}") for name, way in STOLEN.items()
}
"""Needs no theft either: the stolen ways on the public start, which the thief locked himself, so that it is as ragged as the file."""
UNLOCKED: dict[str, Way] = {"unlocked": Way("unlocked"), "unlocked, last layer alone": Way("unlocked", frozen=1.0)}
"""The control."""


def tune(
    module: nn.Module,
    starts: Sequence[Weights],
    rates: Sequence[float],
    x: Tensor,
    y: Tensor,
    *,
    way: Way,
    head: str = "head",
    steps: int = STEPS,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
) -> Tuned:
    """Train on a few labelled samples from several starts, once at each learning rate; full batch, with AdamW.

    Parameters
    ----------
    module
        Gives the architecture, and what the starts do not have.
    starts
        Weights to begin with.
    rates
        Learning rates. A substitute field's numbers are near 1 where weights are near 0.03, so they take steps ten times as
        long.
    x, y
        Samples (n, features) and class numbers (n,), or a teacher's probabilities (n, classes).
    way
        What is trained when, and with which steps; its start is not looked at.
    head
        How the names of the last layer's weights begin.
    steps
        Number of steps.
    loss
        Of outputs and `y`; a substitute field is trained by cross-entropy.

    Returns
    -------
    The trained weights of all starts at the first rate, then at the next.
    """
    held = {name: p.detach().clone() for name, p in module.named_parameters()}
    per_stack = max(1, LARGEST_STACK // (len(rates) * sum(w.numel() for w in held.values())))
    parts, state = [], torch.get_rng_state()
    for first in range(0, len(starts), per_stack):
        torch.set_rng_state(state)  # all see the same dropout
        begin = {n: torch.stack([s.get(n, w) for s in starts[first : first + per_stack]]) for n, w in held.items()}
        if way.field:
            tuned = train_field(module, begin, rates, x, y, field=way.field, steps=steps)
        else:
            tuned = _train(module, begin, rates, x, y, way=way, head=head, steps=steps, loss=loss)
        parts.append({n: w.unflatten(0, (len(rates), -1)) for n, w in tuned.items()})
    return Tuned(module, {n: torch.cat([part[n] for part in parts], 1).flatten(0, 1) for n in held})


def fine_tune(
    module: nn.Module, start: Weights, x: Tensor, y: Tensor, *, lr: float, way: Way, steps: int = STEPS
) -> nn.Module:
    """Train from one start at one learning rate, see :func:`tune`; return the module with these weights."""
    return tune(module, [start], [lr], x, y, way=way, steps=steps).load(0)


def _train(
    module: nn.Module,
    begin: Stack,
    rates: Sequence[float],
    x: Tensor,
    y: Tensor,
    *,
    way: Way,
    head: str,
    steps: int,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    return train(
        module,
        begin,
        rates,
        lambda outputs: loss(outputs, y),
        x,
        multiplicative=way.multiplicative,
        head=head,
        head_steps=math.ceil(way.frozen * steps),
        steps=steps,
    )


Samples = tuple[Tensor, Tensor]
"""Inputs (n, features), and class numbers (n,), probabilities (n, classes) or what else is known of them."""


@dataclass(frozen=True)
class Question:
    """What a model is asked for: the loss that outputs and what is known give, and how good outputs are."""

    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]


def classes_asked() -> Question:
    """Return the question which class a sample has, or how probable each of them is."""
    return Question(nn.functional.cross_entropy, lambda outputs, y: balanced_accuracy(outputs.argmax(-1), y))


def trial(
    module: nn.Module,
    begin: Mapping[str, Weights],
    taught: Samples,
    judged: Samples,
    *,
    seed: int,
    ways: Mapping[str, Way],
    learning_rates: Sequence[float] = LEARNING_RATES,
    question: Question | None = None,
) -> dict[tuple[str, float], float]:
    """Return how good outputs on `judged` are, of every way and learning rate after training on `taught`."""
    question, result = question or classes_asked(), {}
    alike: dict[Way, list[str]] = {}  # ways that differ in their start alone are trained together
    for name, way in ways.items():
        alike.setdefault(replace(way, start=""), []).append(name)
    with torch_seed():
        for (way, names), steps in product(alike.items(), (0, STEPS)):
            rates = [lr for lr in learning_rates if bool(lr) == bool(steps)]  # at 0 weights are taken as they are
            if not rates:
                continue
            torch.default_generator.manual_seed(seed)
            weights = [begin[ways[name].start] for name in names]
            tuned = tune(module, weights, rates, *taught, way=way, steps=steps, loss=question.loss)
            for (lr, name), outputs in zip(product(rates, names), tuned(judged[0]), strict=True):
                result[name, lr] = question.score(outputs, judged[1])
    return {(name, lr): result[name, lr] for name in ways for lr in learning_rates}


def balanced_accuracy(predicted: Tensor, y: Tensor) -> float:
    """Return the mean over classes of the share that was predicted right."""
    return float(np.mean([float((predicted[y == c] == c).float().mean()) for c in y.unique()]))


def summarise(trials: Sequence[Mapping[tuple[str, float], float]]) -> dict[str, np.ndarray]:
    """Return each way's accuracies (trials,) at the learning rate that is best on average: an oracle's, for all alike."""
    ways = dict.fromkeys(way for way, _ in trials[0])
    rates = sorted({lr for _, lr in trials[0]})
    table = {w: np.array([[t[w, lr] for lr in rates] for t in trials]) for w in ways}
    return {w: values[:, values.mean(0).argmax()] for w, values in table.items()}


def compare_starts(
    accuracies: Mapping[str, np.ndarray],
    stolen_ways: Mapping[str, Way] = STOLEN,
    free_ways: Mapping[str, Way] = FREE,
    control_ways: Mapping[str, Way] = UNLOCKED,
) -> dict[str, Any]:
    """Compare the best stolen way with what needs no theft, paired.

    Parameters
    ----------
    accuracies
        Of each way, over trials. ``(trials,)``
    stolen_ways, free_ways, control_ways
        Which ways need the file, which do not, and which have it unlocked; those without accuracies are left out.

    Returns
    -------
    dict
        ``stolen`` and ``scratch`` (the best way of each, chosen on the other half of the trials) and ``unlocked``, each
        over trials; ``difference`` (stolen − scratch), ``low`` and ``high`` (its 95 % confidence interval), ``how`` (the
        stolen way), ``means`` of all ways.
    """
    names = [name for name in stolen_ways if name in accuracies]
    stolen, chosen = cross_chosen(np.array([accuracies[name] for name in names]))
    scratch, _ = cross_chosen(np.array([accuracies[name] for name in free_ways if name in accuracies]))
    unlocked, _ = cross_chosen(np.array([accuracies[name] for name in control_ways if name in accuracies]))
    ends = interval(stolen - scratch)
    return {
        "scratch": scratch,
        "stolen": stolen,
        "unlocked": unlocked,
        "difference": stolen - scratch,
        "low": ends["low"],
        "high": ends["high"],
        "how": most_chosen(names, chosen),
        "means": {name: float(values.mean()) for name, values in accuracies.items()},
    }
