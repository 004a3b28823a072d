"""Training at one site: batches and steps, a round from the global weights, and what stays here after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from infl._isolation import torch_seed
from infl.federation.seeds import derive, generator
from infl.federation.state import Own, SiteState
from infl.models.task import Step
from infl.privacy.dp import SecretUniform, clipped_gradients, discrete_gaussian, grid_exponent

if TYPE_CHECKING:
    from infl.federation.messages import Plan
    from infl.federation.replica import Replica
    from infl.models.task import SiteData, Sums, Task
    from infl.nn.steps import Stepper
    from infl.privacy.dp import DP


def batches_of(
    data: SiteData, batch_size: int, rng: np.random.Generator, epochs: int = 1, min_steps: int = 1
) -> list[np.ndarray]:
    """Return the batches of training samples of some epochs, those of an epoch of nearly equal size.

    Where an epoch has fewer batches than `min_steps`, it passes over the samples as often as it takes.
    """
    n = max(1, round(len(data.train) / batch_size))
    passes = epochs * -(-min_steps // n)
    orders = [data.order(rng) for _ in range(passes if len(data.train) else 0)]
    return [batch for order in orders for batch in np.array_split(order, n)]


def train(
    task: Task,
    module: torch.nn.Module,
    data: SiteData,
    batches: Sequence[np.ndarray],
    optimiser: Stepper,
    *,
    round: int,
    rounds: int,
    clear: Callable[[], object] | None = None,
    correct: Callable[[], object] | None = None,
) -> float:
    """Take a step on each batch; return the mean loss of a sample.

    Parameters
    ----------
    task, module, data
        What is trained, and on which data.
    batches
        Numbers of samples.
    optimiser
        Holds the weights that are stepped.
    round, rounds
        How far training is: a round of a run, or an epoch at a site.
    clear
        Clears the gradients before each step (default: by the optimiser).
    correct
        Changes the gradients before they are clipped.
    """
    total = torch.zeros(())
    for number, index in enumerate(batches):
        (clear or optimiser.zero_grad)()
        loss = task.loss(module, data.batch(index), Step(round, rounds, number, len(batches)))
        loss.backward()
        if correct is not None:
            correct()
        if task.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(optimiser.parameters, task.grad_clip)
        optimiser.step()
        total += loss.detach() * len(index)
    return float(total) / max(sum(map(len, batches)), 1)


class Stack(Protocol):
    """Trains and judges several sites of one process at once."""

    def update(self, trainer: Trainer, plan: Plan) -> tuple[torch.Tensor, float]:
        """Return a site's update and mean loss, as :meth:`Trainer.update` does."""

    def judge(self, trainer: Trainer, plan: Plan) -> Sums:
        """Return a site's validation sums of the global model."""


class Trainer:
    """Trains at one site from the global weights, alone or in a stack with others of its process.

    Parameters
    ----------
    name, data
        The site, and what was read of it.
    replica
        The global model.

    Attributes
    ----------
    own
        What stays at the site.
    """

    def __init__(self, name: str, data: SiteData, replica: Replica) -> None:
        self.name, self.data, self.replica = name, data, replica
        n_control = replica.flat_model.shared.total if replica.rule.control else 0
        self.own = SiteState(Own(self._begun_with(), torch.zeros(n_control)))
        self._stack: Stack | None = None

    def _begun_with(self) -> torch.Tensor:
        """Return what this site's own part of the model begins with."""
        replica = self.replica
        if replica.start is None:
            return replica.flat_model.copy_local()
        return replica.start.local(replica.flat_model, replica.task, replica.agreement.panel, self.name)

    def join(self, stack: Stack) -> None:
        """Train in a stack from now on."""
        self._stack = stack

    def settle(self, plan: Plan, kind: str) -> None:
        """Let what stays here be that of the global model which `plan` brought."""
        after, absent = self.own.after, self.replica.absent
        gone = after is not None and self.name in absent.get(str(after[0]), ())
        self.own.settle(plan.seq, kind, best_round=self.replica.best_round, absent=gone)

    def judge(self, plan: Plan) -> Sums:
        """Return the validation sums of the global model."""
        if self._stack is not None and not len(self.own.now.weights):
            return self._stack.judge(self, plan)
        replica = self.replica
        return replica.task.evaluate(replica.module(self.own.now.weights), self.data, self.data.validation)

    def update(self, plan: Plan) -> tuple[torch.Tensor, float]:
        """Train; return the change of the shared weights and the mean loss.

        The change is a row (1, n_shared); with control variates their change is a second one.
        """
        return self._alone(plan) if self._stack is None else self._stack.update(self, plan)

    def _alone(self, plan: Plan) -> tuple[torch.Tensor, float]:
        replica, a, flat_model = self.replica, self.replica.agreement, self.replica.flat_model
        task, rule, own = replica.task, replica.rule, self.own.now
        module, n_shared = replica.module(own.weights, training=True), flat_model.shared.total
        flat, gradient = flat_model.flat.data, flat_model.flat.grad
        assert gradient is not None
        optimiser = replica.optimiser
        optimiser.restart()  # each round begins anew
        gradients, batches = torch.zeros_like(own.control, device=flat.device), self.batches(plan)
        anchor, drift = replica.theta.to(flat.device), (replica.control - own.control).to(flat.device)

        def correct() -> None:
            if rule.control:
                gradients.add_(gradient[:n_shared])
                gradient[:n_shared] += drift
            rule.at_site(gradient[:n_shared], flat[:n_shared], anchor)

        with torch_seed(derive(a.seed, "dropout", self.name, plan.round)):
            mean_loss = train(
                task,
                module,
                self.data,
                batches,
                optimiser,
                round=plan.round,
                rounds=a.rounds,
                clear=gradient.zero_,  # the memory stays: it is that of the flat buffer
                correct=correct,
            )
        gradients /= max(len(batches), 1)
        gradients = gradients.cpu()
        self.note(plan, flat_model.copy_local(), gradients, mean_loss)
        rows = [(flat[:n_shared] - anchor).cpu(), *([gradients - own.control] if rule.control else [])]
        return torch.stack(rows), mean_loss

    def note(self, plan: Plan, weights: torch.Tensor, control: torch.Tensor, loss: float) -> None:
        """Keep what a round leaves here; it counts from the next exchange on."""
        counts, excess = self.replica.rule.importance is not None, self.own.now.excess
        if counts and self.replica.rows and isfinite(mean := self.replica.rows[-1]["loss"]):
            excess += loss - mean
        if counts or len(weights) or len(control):
            self.own.note(plan.seq, plan.round, Own(weights, control, excess))

    def noisy_gradient(self, dp: DP, plan: Plan, records: Sequence[np.ndarray], key: bytes) -> np.ndarray:
        """Return the clipped gradients of a Poisson sample of units, summed, with this site's share of the noise.

        All of it lies on the grid of the due packing; divided by M where updates travel locked. Sample, dropout and noise are
        drawn from `key`.

        Parameters
        ----------
        dp
            Settings.
        plan
            The round.
        records
            Records of each unit of privacy.
        key
            32 secret bytes of this round.
        """
        replica, clip_norm = self.replica, dp.clip_norm
        rng = SecretUniform(key)
        taken = rng.random(len(records)) < dp.sample_rate
        chosen = [unit for unit, there in zip(records, taken, strict=True) if there]
        module = replica.module(self.own.now.weights, training=True)
        step = Step(plan.round, replica.agreement.rounds, 0, 1)
        exponent = grid_exponent(clip_norm, replica.flat_model.shared.total)
        with torch_seed(int(rng.random(1)[0] * 2**53)):  # public dropout would tie records to each other
            total = clipped_gradients(
                module,
                lambda index: replica.task.loss(module, self.data.batch(index), step),
                chosen,
                clip_norm,
                exponent,
            )
        room = replica.room  # what is left of the seal's range beside noise; a record moves what is clipped no further
        noise = discrete_gaussian(replica.noise_in_steps, len(total), rng)
        noisy = (np.clip(total, -room, room) + noise) * 2.0**exponent  # in double precision, hence exact
        return noisy if replica.gain is None else noisy / replica.gain.numpy()

    def batches(self, plan: Plan) -> list[np.ndarray]:
        """Return a round's batches of training samples, those of an epoch of nearly equal size."""
        a = self.replica.agreement
        rng = generator(a.seed, "batches", self.name, plan.round)
        task = self.replica.task
        return batches_of(self.data, task.batch_size, rng, a.local_epochs, task.min_steps)
