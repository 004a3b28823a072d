"""A stolen file in the hands of somebody who has samples of the same kind: what attacks by thieves have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from infl.attacks._kit.audit_context import AuditContext
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.fine_tuning import Question, Samples, Way, classes_asked, compare_starts, summarise, trial
from infl.attacks._kit.model_file import ModelFile
from infl.federation.seeds import derive
from infl.models.phenotype.task import Phenotype
from infl.models.pooling import pool
from infl.models.protocols import ClassProbabilities

if TYPE_CHECKING:
    from anndata import AnnData
    from torch import Tensor

    from infl.attacks._kit.weights import Weights


@dataclass(frozen=True)
class Theft:
    """A file, and samples that its run was not fitted on.

    Attributes
    ----------
    context
        Of the run on the other samples, which the file is from.
    mine
        The thief's samples.
    number
        Of the trial.
    """

    context: AuditContext
    mine: AnnData
    number: int

    @cached_property
    def file(self) -> ModelFile:
        """The stolen file."""
        return ModelFile(self.context)

    @cached_property
    def module(self) -> Any:
        """A module to try weights in."""
        return self.file.build("bench")

    @cached_property
    def samples(self) -> Samples:
        """The thief's samples as somebody without the key reads them, and their classes: (n, features), (n,)."""
        return self._read(self.mine, keyless=True)

    @cached_property
    def cohort(self) -> Samples:
        """The samples of the run itself, read alike; only its owner has them."""
        parts = [self._read(a, keyless=True) for a in self.context.sites.values()]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    @cached_property
    def question(self) -> Question:
        """What the model is asked for."""
        task, module = self.file.task, self.module
        if not isinstance(task, Phenotype) or isinstance(task, ClassProbabilities):
            return classes_asked()

        def score(outputs: Tensor, y: Tensor) -> float:
            return task.summarise(task.sums_of(module, outputs.double(), y))[task.headline]

        return Question(lambda outputs, y: task.losses_of(module, outputs, y).mean(), score)

    @property
    def strata(self) -> np.ndarray:
        """Of the thief's samples, (n,): some of each are drawn."""
        task, y = self.file.task, self.samples[1].numpy()
        return task.strata(y) if isinstance(task, Phenotype) else y

    def _read(self, adata: AnnData, *, keyless: bool) -> Samples:
        rng = self.context.rng("a thief's samples")
        data = self.file.task.read(adata, self.context.panel, site="the thief's data", rng=rng, keyless=keyless)
        return data.batch(np.setdiff1d(np.arange(adata.n_obs), getattr(data, "unlabelled", [])))

    @torch.no_grad()
    def predictions(self, mixtures: Tensor) -> Tensor:
        """Return what the model says of mixtures (n, samples) of the thief's samples, with the right key: (n, classes)."""
        x, _ = self._read(self.mine, keyless=False)
        return self.file.model.module(self.file.key)(mixtures @ x).softmax(1)

    def rng(self, *purpose: str | int) -> np.random.Generator:
        """Return a generator of this trial."""
        return self.context.rng(*purpose, self.number)


def thefts(context: AuditContext, n: int) -> Iterator[Theft]:
    """Fit the run again on half of each site's samples, n times, and give its file and the other half to a thief.

    The split and the run's seed are others each time.
    """
    for number in range(n):
        yield context.once(("theft", number), lambda number=number: _theft(context, number))  # type: ignore[misc]


def _theft(context: AuditContext, number: int) -> Theft:
    rng = context.rng("thief_fine_tuning", number)
    held = {s: context.task.hold_out(a, 0.5, rng) for s, a in context.sites.items()}
    halves = {s: a[~held[s]] for s, a in context.sites.items()}
    seed = derive(context.run.settings["seed"], "thief", number)
    run = context.repeat(halves, seed=seed, **context.without_noise).outcome.run
    mine: Any = pool({s: a[held[s]] for s, a in context.sites.items()})  # with columns that some sites lack
    return Theft(AuditContext(run, halves, context.seed), mine, number)


def draw(y: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw n samples to train on, at least one of each class, and leave the others to judge."""
    order = rng.permutation(len(y))
    first = [int(order[y[order] == c][0]) for c in np.unique(y)]
    rest = [int(i) for i in order if i not in first]
    train = np.array([*first, *rest[: max(n - len(first), 0)]])
    return train, np.setdiff1d(order, train)


@dataclass(frozen=True)
class Task:
    """What a thief does in one trial: weights to begin with by name, samples to train on, samples to be judged on."""

    begin: Mapping[str, Weights]
    taught: Samples
    judged: Samples


class Thief(Attack):
    """Train on from a stolen file in several ways, against ways that need no theft, and against the unlocked file."""

    against: ClassVar[Attacker] = Attacker.THIEF
    stolen: ClassVar[Mapping[str, Way]]
    free: ClassVar[Mapping[str, Way]]
    unlocked: ClassVar[Mapping[str, Way]]
    n_trials: ClassVar[int] = 10
    n_samples: ClassVar[int] = 16
    learning_rates: ClassVar[Sequence[float]] = (1e-3, 1e-2)
    margin: ClassVar[float] = 0.05

    def applies(self, context: AuditContext) -> bool:
        """Whether the run is a classifier of plain tables with samples to spare."""
        return isinstance(context.task, ClassProbabilities) and self.spared(context)

    @staticmethod
    def spared(context: AuditContext) -> bool:
        """Whether the run has plain tables, with samples to spare."""
        from anndata import AnnData

        plain = all(isinstance(a, AnnData) for a in context.sites.values())
        return plain and sum(a.n_obs for a in context.sites.values()) >= 8 * len(context.panel.get("classes", "some"))

    @abstractmethod
    def prepare(self, theft: Theft, n: int, case: str) -> Task:
        """Return what the thief does with n samples."""

    @abstractmethod
    def described(self, n: int, case: str, how: str) -> tuple[str, str]:
        """Return the metric and the note of a finding."""

    @property
    def cases(self) -> tuple[str, ...]:
        """Kinds of files to be judged apart."""
        return ("",)

    def run(self, context: AuditContext) -> list[Finding]:
        """Repeat run and theft, each time with other samples held out for the thief."""
        return [self._judge(context, case) for case in self.cases]

    def samples_for(self, context: AuditContext) -> int:
        """Return how many samples the thief trains on."""
        return min(self.n_samples, sum(a.n_obs for a in context.sites.values()) // 4)

    def trials(self, context: AuditContext, n: int, case: str = "") -> list[dict[tuple[str, float], float]]:
        """Return the accuracies of every way and learning rate in each trial."""
        return [self._trial(theft, n, case) for theft in thefts(context, self.n_trials)]

    def compare(self, trials: Sequence[Mapping[tuple[str, float], float]]) -> dict[str, Any]:
        """Compare what was stolen with what is free: :func:`infl.attacks._kit.fine_tuning.compare_starts`."""
        return compare_starts(summarise(trials), self.stolen, self.free, self.unlocked)

    def _trial(self, theft: Theft, n: int, case: str) -> dict[tuple[str, float], float]:
        task, every = self.prepare(theft, n, case), {**self.stolen, **self.free, **self.unlocked}
        return trial(
            theft.module,
            task.begin,
            task.taught,
            task.judged,
            seed=int(theft.rng(self.name, "steps", n).integers(2**31)),
            ways={name: way for name, way in every.items() if way.start in task.begin},
            learning_rates=self.learning_rates,
            question=theft.question,
        )

    def _judge(self, context: AuditContext, case: str) -> Finding:
        n = self.samples_for(context)
        result = self.compare(self.trials(context, n, case))
        chance = float(result["scratch"].mean())
        metric, note = self.described(n, case, result["how"])
        if not isinstance(context.task, ClassProbabilities):
            metric = metric.replace("balanced accuracy", context.task.headline.replace("_", " "))
        return Finding(
            metric=metric,
            value=float(result["stolen"].mean()),
            low=chance + result["low"],
            high=chance + result["high"],
            trials=len(result["stolen"]),
            chance=chance,
            control=float(result["unlocked"].mean()),
            promised=ModelFile(context).promised,
            margin=self.margin,
            note=note,
        )
