"""Does a stolen model file give a head start? Fine-tuning of stolen weights against training from scratch.

A thief with a few labelled samples trains on, in every way that we know of. The learning rate of each way is the one that
turns out best, as if an oracle had told; which way counts is decided on other trials than those that it is judged on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from infl._isolation import torch_seed
from infl._threads import one_thread
from infl.federation.seeds import derive
from infl.nn.flat import FlatModule
from infl.privacy.attacks.contract import Attack, Attacker, Finding
from infl.privacy.attacks.evidence import Evidence
from infl.privacy.attacks.keys import Weights, clipped, rescaled
from infl.privacy.attacks.model_file import ModelFile
from infl.privacy.attacks.statistics import cross_chosen, interval, most_chosen

if TYPE_CHECKING:
    from anndata import AnnData

LEARNING_RATES = (1e-4, 1e-3, 3e-3, 1e-2)
STEPS = 80
N_SIGNS = 2000
"""Largest weights whose signs are searched, in each tensor."""


@dataclass(frozen=True)
class Way:
    """One way to fine-tune.

    Attributes
    ----------
    start
        Which weights to begin with, by name in :func:`starts`.
    frozen
        Share of the steps in which the last layer alone is trained.
    multiplicative
        Whether a weight's step is in proportion to its stored magnitude.
    """

    start: str
    frozen: float = 0.0
    multiplicative: bool = False


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
UNLOCKED: dict[str, Way] = {"unlocked": Way("unlocked"), "unlocked, last layer alone": Way("unlocked", frozen=1.0)}
"""The control."""


def fine_tune(
    module: nn.Module,
    start: Weights,
    x: Tensor,
    y: Tensor,
    *,
    lr: float,
    way: Way,
    head: str = "head",
    steps: int = STEPS,
) -> nn.Module:
    """Train on a few labelled samples, full batch, with AdamW; return the module in evaluation mode.

    Parameters
    ----------
    module
        Its weights are overwritten.
    start
        Weights to begin with.
    x, y
        Samples (n, features) and class numbers (n,).
    lr
        Learning rate.
    way
        What is trained when, and with which steps.
    head
        How the names of the last layer's weights begin.
    steps
        Number of steps.
    """
    module.load_state_dict(dict(start), strict=False)
    bench = FlatModule(module)
    flat, gradient = bench.flat.data, bench.flat.grad
    assert gradient is not None
    scale, late = torch.ones_like(flat), torch.ones_like(flat)
    for name, view in bench.shared.views(scale).items():
        if way.multiplicative:
            view.copy_(start[name].abs() / start[name].abs().mean().clamp(min=1e-12))
    for name, view in bench.shared.views(late).items():
        view.fill_(float(name.startswith(head)))
    optimiser = torch.optim.AdamW([bench.flat], lr=lr, weight_decay=1e-4, fused=True)
    plain = not way.multiplicative
    module.train()
    for step in range(steps):
        gradient.zero_()
        only_head = step < way.frozen * steps
        nn.functional.cross_entropy(_of_frozen(module, x, head) if only_head else module(x), y).backward()
        if plain and not only_head:
            optimiser.step()
            continue
        before = flat.clone()
        optimiser.step()
        flat.copy_(before + (flat - before) * scale * (late if only_head else 1.0))
    return module.eval()


def _of_frozen(module: nn.Module, x: Tensor, head: str) -> Tensor:
    """Return the outputs; no gradient reaches the features."""
    with torch.no_grad():
        z = module.latent(x)  # type: ignore[operator]
    return getattr(module, head)(z)


def searched_signs(
    module: nn.Module, start: Weights, x: Tensor, y: Tensor, *, largest: int = N_SIGNS, tries: int = 12
) -> dict[str, Tensor]:
    """Flip signs of the largest weights where that lowers the training loss: greedily, many at a time.

    The change of loss by flipping w is −2w ∂L/∂w to first order. The weights that promise most are flipped together; if
    the loss does not fall, half as many are tried next.
    """
    module.load_state_dict(dict(start), strict=False)
    module.eval()
    weights = dict(module.named_parameters())
    size, best = largest, float("inf")
    kept = {n: p.detach().clone() for n, p in weights.items()}
    for _ in range(tries):
        loss = nn.functional.cross_entropy(module(x), y)
        value = float(loss.detach())
        if value < best:
            best, kept = value, {n: p.detach().clone() for n, p in weights.items()}
            gradients = torch.autograd.grad(loss, list(weights.values()))
            gains = {n: 2 * p.detach() * g for (n, p), g in zip(weights.items(), gradients, strict=True)}
        else:
            size = max(size // 2, 1)
        with torch.no_grad():
            for name, parameter in weights.items():
                flipped = kept[name].flatten().clone()
                among = flipped.abs().topk(min(largest, flipped.numel())).indices
                gain = gains[name].flatten()[among]
                chosen = among[gain.topk(min(size, len(gain))).indices[: int((gain > 0).sum())]]
                flipped[chosen] *= -1
                parameter.copy_(flipped.view_as(parameter))
    return kept


def distilled(
    module: nn.Module, start: Weights, teacher: Tensor, x: Tensor, *, steps: int = STEPS
) -> dict[str, Tensor]:
    """Train fresh weights to give a stolen model's features (n, width) on unlabelled samples x."""
    module.load_state_dict(dict(start), strict=False)
    bench = FlatModule(module)
    gradient = bench.flat.grad
    assert gradient is not None
    optimiser = torch.optim.AdamW([bench.flat], lr=1e-3, fused=True)
    module.train()
    for _ in range(steps):
        gradient.zero_()
        (module.latent(x) - teacher).square().mean().backward()  # type: ignore[operator]
        optimiser.step()
    return {n: v.clone() for n, v in bench.shared.views(bench.flat.data).items()}


def starts(
    module: nn.Module, stored: Weights, scratch: Weights, initial: Weights, x: Tensor, train: np.ndarray, y: Tensor
) -> dict[str, Weights]:
    """Return the weights that a thief may begin with, by name, of stored, fresh and public initial ones."""
    usual = rescaled(stored, scratch)
    module.load_state_dict(usual, strict=False)
    with torch.no_grad():
        features = module.eval().latent(x)  # type: ignore[operator]
    return {
        "stored": stored,
        "clipped": clipped(stored, scratch),
        "rescaled": usual,
        "signs": searched_signs(module, usual, x[train], y[train]),
        "distilled": distilled(module, scratch, features, x),
        "scratch": scratch,
        "scratch signs": searched_signs(module, scratch, x[train], y[train]),
        "initial": initial,
    }


def trial(
    module: nn.Module,
    begin: Mapping[str, Weights],
    x: Tensor,
    y: Tensor,
    train: np.ndarray,
    judge: np.ndarray,
    *,
    seed: int,
    ways: Mapping[str, Way],
    learning_rates: Sequence[float] = LEARNING_RATES,
) -> dict[tuple[str, float], float]:
    """Return the balanced accuracy of every way and learning rate on `judge` after fine-tuning on `train`."""
    result = {}
    with torch_seed():
        for name, way in ways.items():
            for lr in learning_rates:
                torch.default_generator.manual_seed(seed)
                tuned = fine_tune(module, begin[way.start], x[train], y[train], lr=lr, way=way)
                with torch.no_grad():
                    result[name, lr] = balanced_accuracy(tuned(x[judge]).argmax(1), y[judge])
    return result


def balanced_accuracy(predicted: Tensor, y: Tensor) -> float:
    """Return the mean over classes of the share that was predicted right."""
    return float(np.mean([float((predicted[y == c] == c).float().mean()) for c in y.unique()]))


def draw(y: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw n samples to train on, at least one of each class, and leave the others to judge."""
    order = rng.permutation(len(y))
    first = [int(order[y[order] == c][0]) for c in np.unique(y)]
    rest = [int(i) for i in order if i not in first]
    train = np.array([*first, *rest[: max(n - len(first), 0)]])
    return train, np.setdiff1d(order, train)


def summarise(trials: Sequence[Mapping[tuple[str, float], float]]) -> dict[str, np.ndarray]:
    """Return each way's accuracies (trials,) at the learning rate that is best on average: an oracle's, for all alike."""
    ways = dict.fromkeys(way for way, _ in trials[0])
    rates = sorted({lr for _, lr in trials[0]})
    table = {w: np.array([[t[w, lr] for lr in rates] for t in trials]) for w in ways}
    return {w: values[:, values.mean(0).argmax()] for w, values in table.items()}


def compare_starts(accuracies: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Compare the best stolen way with what needs no theft, paired.

    Returns
    -------
    dict
        ``stolen`` and ``scratch`` (the best way of each, chosen on the other half of the trials) and ``unlocked``, each
        over trials; ``difference`` (stolen − scratch), ``low`` and ``high`` (its 95 % confidence interval), ``how`` (the
        stolen way), ``means`` of all ways.
    """
    names = [name for name in STOLEN if name in accuracies]
    stolen, chosen = cross_chosen(np.array([accuracies[name] for name in names]))
    scratch, _ = cross_chosen(np.array([accuracies[name] for name in FREE if name in accuracies]))
    unlocked, _ = cross_chosen(np.array([accuracies[name] for name in UNLOCKED if name in accuracies]))
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


def break_ins(
    evidence: Evidence, trials: int, samples: Sequence[int], learning_rates: Sequence[float]
) -> Iterator[tuple[int, dict[tuple[str, float], float]]]:
    """Fit the run again on half of each site's samples, give its file and samples of the other half to a thief.

    The split and the thief's samples are others in each trial; so is the run's seed. Yields the number of
    samples and what came out.
    """
    import anndata

    task, panel = evidence.task, evidence.panel
    for number in range(trials):
        rng = evidence.rng("thief_fine_tuning", number)
        held = {s: task.hold_out(a, 0.5, rng) for s, a in evidence.sites.items()}
        halves = {s: a[~held[s]] for s, a in evidence.sites.items()}
        seed = derive(evidence.run.settings["seed"], "thief", number)
        run = evidence.repeat(halves, seed=seed, **evidence.without_noise).outcome.run
        file = ModelFile(Evidence(run, halves, evidence.seed))
        mine = anndata.concat([a[held[s]] for s, a in evidence.sites.items()], index_unique="-", keys=list(held))
        data = task.read(mine, panel, site="the thief's data", rng=rng, keyless=True)
        x, y = data.batch(np.arange(mine.n_obs))
        module = file.build("bench")
        for n in samples:
            train, judge = draw(y.numpy(), n, rng)
            begin = starts(module, file.model.stored, file.fresh(number), file.initial, x, train, y)
            begin["unlocked"] = file.unlocked
            seed = int(rng.integers(2**31))
            ways = STOLEN | FREE | UNLOCKED
            yield n, trial(module, begin, x, y, train, judge, seed=seed, ways=ways, learning_rates=learning_rates)


def head_start(
    sites: Mapping[str, AnnData], target: str, *, samples: Sequence[int] = (8, 16, 32), seeds: int = 20
) -> dict[int, dict[str, Any]]:
    """Measure the head start of a thief on the default settings; for each number of samples what :func:`compare_starts` returns."""
    import infl

    run = infl.tl.fit_federated({s: a.copy() for s, a in sites.items()}, target=target, progress=False)
    trials: dict[int, list[dict[tuple[str, float], float]]] = {n: [] for n in samples}
    with one_thread():
        for n, result in break_ins(Evidence(run, sites), seeds, samples, LEARNING_RATES):
            trials[n].append(result)
    return {n: compare_starts(summarise(trials[n])) for n in samples}


class ThiefFineTuning(Attack):
    """Fine-tune the stolen file in every way that we know of, against training from nothing on the same samples."""

    name: ClassVar[str] = "thief_fine_tuning"
    against: ClassVar[Attacker] = Attacker.THIEF
    question: ClassVar[str] = "Does the stolen file save a thief who has some labelled samples any work?"
    n_trials: ClassVar[int] = 10
    n_samples: ClassVar[int] = 16
    learning_rates: ClassVar[tuple[float, ...]] = (1e-3, 1e-2)

    def applies(self, evidence: Evidence) -> bool:
        """Whether the run is a classifier of plain tables with samples to spare."""
        from anndata import AnnData

        plain = all(isinstance(a, AnnData) for a in evidence.sites.values())
        enough = sum(a.n_obs for a in evidence.sites.values()) >= 8 * len(evidence.panel.get("classes", ()))
        return evidence.task.name == "classifier" and plain and enough

    def run(self, evidence: Evidence) -> list[Finding]:
        """Repeat run and theft, each time with other samples held out for the thief."""
        spare = sum(a.n_obs for a in evidence.sites.values()) // 4
        n = min(self.n_samples, spare)
        trials = [t for _, t in break_ins(evidence, self.n_trials, [n], self.learning_rates)]
        result = compare_starts(summarise(trials))
        chance = float(result["scratch"].mean())
        return [
            Finding(
                metric=f"balanced accuracy with {n} samples",
                value=float(result["stolen"].mean()),
                low=chance + result["low"],
                high=chance + result["high"],
                chance=chance,
                control=float(result["unlocked"].mean()),
                promised=ModelFile(evidence).promised,
                margin=0.05,
                note=f"The stolen weights trained on in {len(STOLEN)} ways (best: {result['how']}), against starting from "
                "nothing (chance) and from the unlocked model (control).",
            )
        ]
