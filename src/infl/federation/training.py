"""A round at one site: batches, steps from the global weights, and what stays here after them."""

from __future__ import annotations

from collections.abc import Sequence
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
    from infl.models.task import SiteData, Sums
    from infl.privacy.dp import DP


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
        self.own = SiteState(Own(replica.flat_model.copy_local(), torch.zeros(n_control)))
        self._stack: Stack | None = None

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
        total_loss, gradients = torch.zeros(()), torch.zeros(len(own.control))
        batches = self.batches(plan)
        with torch_seed(derive(a.seed, "dropout", self.name, plan.round)):
            for number, index in enumerate(batches):
                gradient.zero_()
                loss = task.loss(module, self.data.batch(index), Step(plan.round, a.rounds, number, len(batches)))
                loss.backward()
                if rule.control:
                    gradients += gradient[:n_shared]
                    gradient[:n_shared] += replica.control - own.control
                rule.at_site(gradient[:n_shared], flat[:n_shared], replica.theta)
                if task.grad_clip is not None:
                    torch.nn.utils.clip_grad_norm_([flat_model.flat], task.grad_clip)
                optimiser.step()
                total_loss += loss.detach() * len(index)
        gradients /= max(len(batches), 1)
        mean_loss = float(total_loss) / max(sum(map(len, batches)), 1)
        self.note(plan, flat_model.copy_local(), gradients, mean_loss)
        rows = [flat_model.flat.data[:n_shared] - replica.theta, *([gradients - own.control] if rule.control else [])]
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
        a, data = self.replica.agreement, self.data
        rng = generator(a.seed, "batches", self.name, plan.round)
        orders = [data.order(rng) for _ in range(a.local_epochs if len(data.train) else 0)]
        n = max(1, round(len(data.train) / self.replica.task.batch_size))
        return [batch for order in orders for batch in np.array_split(order, n)]
