"""Does a stolen model file give a head start? Fine-tuning of stolen weights against training from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from infl.federation.seeds import derive, generator
from infl.nn.flat import FlatModule
from infl.privacy.attacks.contract import Attack, Attacker, Finding
from infl.privacy.attacks.statistics import cross_chosen, interval, most_chosen

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.models.locked import LockedModel
    from infl.models.task import Task
    from infl.privacy.attacks.evidence import Evidence

LEARNING_RATES = (1e-4, 1e-3, 3e-3, 1e-2)
STEPS = 80
STOLEN = ("as stored", "clipped", "rescaled", "multiplicative", "head only")


def starts(stored: Mapping[str, Tensor], scratch: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return what a thief may begin with, by name; `scratch` has fresh initial weights.

    ``clipped``: stored weights cut to the usual initial range; ``rescaled``: each tensor brought to its usual initial
    spread; ``multiplicative`` and ``head only`` begin like ``rescaled`` and differ in how they are trained.
    """
    rescaled = {}
    for name, tensor in stored.items():
        spread, usual = float(tensor.std(correction=0)), float(scratch[name].std(correction=0))
        rescaled[name] = tensor * (usual / spread) if spread > 0 and usual > 0 else scratch[name].clone()
    clipped = {}
    for name, tensor in stored.items():
        largest = float(scratch[name].abs().max())
        clipped[name] = tensor.clamp(-largest, largest) if largest > 0 else tensor.clone()
    return {
        "as stored": dict(stored),
        "clipped": clipped,
        "rescaled": rescaled,
        "multiplicative": rescaled,
        "head only": rescaled,
        "scratch": dict(scratch),
    }


def fine_tune(
    module: nn.Module,
    start: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    *,
    lr: float,
    how: str = "",
    steps: int = STEPS,
) -> nn.Module:
    """Train all weights on a few labelled samples, full batch, with AdamW; return the module in evaluation mode.

    Parameters
    ----------
    module
        Its weights are overwritten.
    start
        Weights to begin with.
    x, y
        Samples (n, features), already standardised by the module, and class numbers (n,).
    lr
        Learning rate.
    how
        ``"multiplicative"``: the step size of a weight is proportional to its stored magnitude (relative to the mean
        of its tensor); ``"head only"``: the stolen features are frozen.
    """
    module.load_state_dict(dict(start), strict=False)
    bench = FlatModule(module)
    gradient = bench.flat.grad
    assert gradient is not None
    scale = torch.ones_like(bench.flat.data)
    for name, view in bench.shared.views(scale).items():
        if how == "multiplicative":
            view.copy_(start[name].abs() / start[name].abs().mean().clamp(min=1e-12))
        elif how == "head only":
            view.fill_(float(name.startswith("head")))
    optimiser = torch.optim.AdamW([bench.flat], lr=lr, weight_decay=1e-4)
    module.train()
    for _ in range(steps):
        gradient.zero_()
        nn.functional.cross_entropy(module(x), y).backward()
        before = bench.flat.data.clone()
        optimiser.step()
        if how in ("multiplicative", "head only"):
            bench.flat.data.copy_(before + (bench.flat.data - before) * scale)
    return module.eval()


def thief_accuracies(
    task: Task,
    model: LockedModel,
    unlocked: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    train: np.ndarray,
    judge: np.ndarray,
    *,
    seed: int,
    methods: Sequence[str] = (*STOLEN, "scratch", "unlocked"),
    learning_rates: Sequence[float] = LEARNING_RATES,
) -> dict[tuple[str, float], float]:
    """Return the balanced accuracy of every way to begin and learning rate, after fine-tuning on `train`.

    Features are scaled by the moments of all of `x`: a thief has unlabelled samples.
    """
    k = len(model.header.panel["classes"])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        scratch = {n: p.detach().clone() for n, p in task.build(model.header.panel).named_parameters()}
        begin = starts(model.stored, scratch) | {"unlocked": dict(unlocked)}
        module = task.build(model.header.panel)
        task.configure(module, {"center": x.mean(0).numpy(), "scale": x.std(0).clamp(min=1e-6).numpy()})
        result = {}
        for method in methods:
            for lr in learning_rates:
                torch.default_generator.manual_seed(seed)
                tuned = fine_tune(module, begin[method], x[train], y[train], lr=lr, how=method)
                with torch.no_grad():
                    predicted = tuned(x[judge]).argmax(1)
                hits = [(predicted[y[judge] == c] == c).float().mean() for c in range(k) if (y[judge] == c).any()]
                result[method, lr] = float(torch.stack(hits).mean())
    return result


def summarise(trials: Sequence[Mapping[tuple[str, float], float]]) -> dict[str, np.ndarray]:
    """Return each method's accuracies (trials,) at the learning rate that is best on average: an oracle's, for all alike."""
    methods = dict.fromkeys(method for method, _ in trials[0])
    rates = sorted({lr for _, lr in trials[0]})
    table = {m: np.array([[trial[m, lr] for lr in rates] for trial in trials]) for m in methods}
    return {m: values[:, values.mean(0).argmax()] for m, values in table.items()}


def labelled_samples(task: Task, adata: AnnData, panel: Mapping[str, object]) -> tuple[Tensor, Tensor]:
    """Return all samples of an object as features (n, features) and class numbers (n,)."""
    data = task.read(adata, panel, site="the thief's data", rng=np.random.default_rng(0))
    index = np.sort(np.concatenate([data.train, data.validation]))
    return data.batch(index)


def draw(y: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw n samples to train on, at least one of each class, and leave the others to judge."""
    order = rng.permutation(len(y))
    first = [order[y[order] == c][0] for c in np.unique(y)]
    rest = [i for i in order if i not in first]
    train = np.array([*first, *rest[: n - len(first)]])
    return train, np.setdiff1d(order, train)


def head_start(
    sites: Mapping[str, AnnData], target: str, *, samples: Sequence[int] = (8, 16, 32), seeds: int = 20
) -> dict[int, dict[str, Any]]:
    """Measure the head start of a thief over many splits: half of each site's samples train, half are the thief's.

    Returns
    -------
    dict
        For each number of samples: ``scratch``, ``stolen`` (the best way to begin on average), ``unlocked`` (arrays over
        seeds), ``difference`` (stolen − scratch, paired), ``low`` and ``high`` (its 95 % confidence interval), ``how``.
    """
    import anndata

    import infl
    from infl.models import Classifier

    trials: dict[int, list[dict[tuple[str, float], float]]] = {n: [] for n in samples}
    task = Classifier(target=target)
    for seed in range(seeds):
        held = {s: task.hold_out(a, 0.5, generator(seed, "thief", s)) for s, a in sites.items()}
        run = infl.tl.fit_federated(
            {s: a[~held[s]].copy() for s, a in sites.items()}, target=target, seed=seed, progress=False
        )
        panel, mine = run.model.header.panel, anndata.concat([a[held[s]] for s, a in sites.items()])
        x, y = labelled_samples(task, mine, panel)
        unlocked = run.model.effective(run.key)
        for n in samples:
            train, judge = draw(y.numpy(), n, generator(seed, "thief's samples", n))
            trials[n].append(
                thief_accuracies(task, run.model, unlocked, x, y, train, judge, seed=derive(seed, "thief", n))
            )
    return {n: compare_starts(summarise(trials[n])) for n in samples}


def compare_starts(accuracies: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Compare the best stolen start with scratch, paired; the start is chosen on other trials than it is judged on."""
    names = [m for m in STOLEN if m in accuracies]
    taken, chosen = cross_chosen(np.stack([accuracies[m] for m in names]))
    difference = taken - accuracies["scratch"]
    spread = interval(difference)
    return {
        "scratch": accuracies["scratch"],
        "stolen": taken,
        "unlocked": accuracies["unlocked"],
        "difference": difference,
        "low": spread["low"],
        "high": spread["high"],
        "how": most_chosen(names, chosen),
    }


class ThiefFineTuning(Attack):
    """Fine-tune the stolen file in every way that we know of, against training from scratch on the same samples."""

    name: ClassVar[str] = "thief_fine_tuning"
    against: ClassVar[Attacker] = Attacker.THIEF
    question: ClassVar[str] = "Does the stolen file save a thief who has some labelled samples any work?"
    quick: ClassVar[bool] = False
    n_trials: ClassVar[int] = 10
    n_samples: ClassVar[int] = 16

    def applies(self, evidence: Evidence) -> bool:
        """Whether the run is a classifier."""
        return bool(evidence.panel.get("classes")) and evidence.task.name == "classifier"

    def run(self, evidence: Evidence) -> list[Finding]:
        """Judge on validation samples of the sites, which no model was trained on; the thief has some of them."""
        import anndata

        parts = []
        for site, adata in evidence.sites.items():
            rng = generator(evidence.run.settings["seed"], "validation part", site)
            data = evidence.task.read(adata, evidence.panel, site=site, rng=rng)
            parts.append(adata[data.validation])
        x, y = labelled_samples(evidence.task, anndata.concat(parts), evidence.panel)
        n = min(self.n_samples, len(y) // 2)
        model, unlocked = evidence.run.model, evidence.unprotected.model.stored
        trials = []
        for trial in range(self.n_trials):
            train, judge = draw(y.numpy(), n, evidence.rng(self.name, "draw", trial))
            seed = derive(evidence.seed, self.name, trial)
            trials.append(
                thief_accuracies(
                    evidence.task, model, unlocked, x, y, train, judge, seed=seed, learning_rates=(1e-3, 1e-2)
                )
            )
        result = compare_starts(summarise(trials))
        scratch, stolen = result["scratch"], result["stolen"]
        return [
            Finding(
                metric=f"balanced accuracy with {n} samples",
                value=float(stolen.mean()),
                low=float(scratch.mean()) + result["low"],
                high=float(scratch.mean()) + result["high"],
                chance=float(scratch.mean()),
                control=float(result["unlocked"].mean()),
                promised=evidence.run.model.header.lock == "field",
                margin=0.05,
                note=f"Fine-tuning the stolen weights ({result['how']}) against starting from nothing (chance) and from "
                "the unlocked model (control).",
            )
        ]
