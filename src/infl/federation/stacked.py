"""Sites that share a process are trained together: their weights are stacked, and one pass per step serves all of them.

For small models most of a step's time is the calling of operations, not their work; a stack of sites calls them once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from infl.errors import SettingsError
from infl.federation.seeds import derive
from infl.nn.dropout import dropout_by

if TYPE_CHECKING:
    from infl.federation.messages import Plan
    from infl.federation.replica import Replica
    from infl.federation.training import Trainer
    from infl.models.task import Sums, Task

Batch = tuple[Tensor, ...]

STACK = 1 << 22
"""Most weights in a stack (16 MiB): beyond that the weights of all leave the cache, and one after the other is as fast."""
FEWEST = 4
"""Sites in a stack: a step of a stack takes as long as two or three of one site alone."""


def stackable(replica: Replica) -> bool:
    """Whether stacking helps: a loss per observation, one gradient per step, and weights so small that several fit the cache."""
    a, size = replica.agreement, replica.flat_model.flat.numel()
    plain = a.dp is None and not replica.rule.control and a.lock != "published"
    return plain and replica.task.has_losses and a.cohort_size >= FEWEST and 2 * size <= STACK


class StackedTrainer:
    """Judges the sites of one process at once, and trains as many at a time as a stack holds.

    The results are those of a site alone (:class:`infl.federation.training.Trainer`) to rounding: the same batches, the same
    dropout.

    Parameters
    ----------
    trainers
        Of the sites, by name; they share one replica.
    forget
        Sites drop an update before the next group of sites trains, so that all groups may use the same memory.
    """

    def __init__(self, trainers: Mapping[str, Trainer], *, forget: bool = False) -> None:
        self._trainers = WeakValueDictionary(trainers)  # no circle: a site ends, and lets its data go, with the run
        self._replica = next(iter(trainers.values())).replica
        self._judged: dict[str, Sums] = {}
        self._trained: dict[str, tuple[Tensor, float]] = {}
        self._changes: list[Tensor] = []  # one per group of sites; a site sends its part before the next exchange
        self._n_groups, self._seq, self._forget = 0, -1, forget
        flat_model = self._replica.flat_model
        self._losses = _Losses(self._replica.task, flat_model.module)
        self._stack = _Stack(self._replica, min(len(trainers), STACK // flat_model.flat.numel()))

    def judge(self, trainer: Trainer, plan: Plan) -> Sums:
        """Return a site's validation sums of the global model; the whole cohort's are computed with them."""
        self._begin(plan)
        if trainer.name not in self._judged:
            members = [self._trainers[name] for name in plan.cohort]
            parts = [(member.data, member.data.validation) for member in members]
            sums = self._replica.task.evaluate_each(self._replica.module(), parts)
            self._judged = dict(zip(plan.cohort, sums, strict=True))
        return self._judged.pop(trainer.name)

    def update(self, trainer: Trainer, plan: Plan) -> tuple[Tensor, float]:
        """Return a site's update, row (1, n_shared), and mean loss; trains it with the next ones of the cohort."""
        self._begin(plan)
        if trainer.name not in self._trained:
            first = plan.cohort.index(trainer.name)
            group = [self._trainers[name] for name in plan.cohort[first : first + self._stack.capacity]]
            for member in group:
                member.settle(plan, plan.kind)
            self._trained |= self._train(group, plan)
        return self._trained.pop(trainer.name)

    def _begin(self, plan: Plan) -> None:
        if self._seq != plan.seq:
            self._judged, self._trained, self._n_groups, self._seq = {}, {}, 0, plan.seq

    def _train(self, trainers: Sequence[Trainer], plan: Plan) -> dict[str, tuple[Tensor, float]]:
        replica, stack = self._replica, self._stack
        a, flat_model, task, rule = replica.agreement, replica.flat_model, replica.task, replica.rule
        queues = {t.name: t.batches(plan) for t in trainers}
        # those with most batches first, so that those that still train are always the first rows of the stack
        trainers = sorted(trainers, key=lambda t: -len(queues[t.name]))
        generators = [torch.Generator().manual_seed(derive(a.seed, "dropout", t.name, plan.round)) for t in trainers]
        before = flat_model.shared.views(replica.theta)
        anchor = flat_model.shared.views(replica.theta.to(flat_model.flat.device))
        replica.module(training=True)
        stack.begin(anchor, [flat_model.local.views(t.own.now.weights) for t in trainers])
        total = torch.zeros(len(trainers))
        for number in range(len(queues[trainers[0].name])):
            active = sum(number < len(queues[t.name]) for t in trainers)
            batches = [t.data.batch(queues[t.name][number]) for t in trainers[:active]]
            batch, share = _pad(batches)
            mean = self._losses(stack.first(active), batch, share, generators[:active])
            mean.sum().backward()
            for name, weight in stack.first_weights.items():
                if name in anchor:
                    rule.at_site(cast(Tensor, weight.grad), weight.data, anchor[name])
            stack.step(task.grad_clip)
            total[:active] += mean.detach() * torch.tensor([float(len(batch[0])) for batch in batches])
        if self._n_groups == len(self._changes):
            self._changes.append(torch.empty(stack.capacity, flat_model.shared.total, device="cpu"))
        change = self._changes[self._n_groups][: len(trainers)]
        self._n_groups += not self._forget
        for name, place in flat_model.shared.views(change).items():
            torch.sub(stack.weights[name][: len(trainers)].cpu(), before[name], out=place)
        result = {}
        for number, trainer in enumerate(trainers):
            own = [stack.weights[entry.name][number].flatten().cpu() for entry in flat_model.local.entries]
            loss = float(total[number]) / max(sum(map(len, queues[trainer.name])), 1)
            none = torch.empty(0, device="cpu")
            trainer.note(plan, torch.cat(own) if own else none, none, loss)
            result[trainer.name] = (change[number : number + 1], loss)
        return result


class _Stack:
    """Weights with a leading axis over sites, and their optimiser; the last sites may stop before the others.

    The memory is kept from round to round: fresh pages cost as much as a step.
    """

    def __init__(self, replica: Replica, capacity: int) -> None:
        flat_model = replica.flat_model
        self.capacity = capacity
        entries = (*flat_model.shared.entries, *flat_model.local.entries)
        device = flat_model.flat.device
        self.weights = {entry.name: torch.zeros(capacity, *entry.shape, device=device) for entry in entries}
        self._whole = replica.task.optimise([weight.detach().requires_grad_() for weight in self.weights.values()])
        self._stepper = self._whole

    def begin(self, shared: Mapping[str, Tensor], local: Sequence[Mapping[str, Tensor]]) -> None:
        """Give the first sites, as many as `local` has, the shared weights and their own, and forget all momentum."""
        n = len(local)
        for name, weight in self.weights.items():
            if name in shared:
                weight[:n] = shared[name]
            else:
                torch.stack([views[name] for views in local], out=weight[:n])
        self._stepper = self._whole
        self._stepper.restart()

    @property
    def first_weights(self) -> dict[str, Tensor]:
        """Weights of the sites that still train, leaves of the graph."""
        return dict(zip(self.weights, self._stepper.parameters, strict=True))

    def first(self, n: int) -> Mapping[str, Tensor]:
        """Return the weights of the first n sites, without gradients; from now on only they are stepped."""
        if n < len(self._stepper.parameters[0]):
            self._stepper = self._stepper.first(n)
        self._stepper.zero_grad()
        return self.first_weights

    def step(self, largest: float | None) -> None:
        """Step the first weights, each site's gradient scaled to at most a norm, as ``clip_grad_norm_`` does."""
        if largest is not None:
            gradients = [cast(Tensor, weight.grad) for weight in self._stepper.parameters]
            norm = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
            factor = (largest / (norm + 1e-6)).clamp_max(1.0)
            for g in gradients:
                g.mul_(factor.view(-1, *[1] * (g.dim() - 1)))
        self._stepper.step()


class _Losses:
    """Mean loss of each site's batch, under each site's weights and dropout."""

    def __init__(self, task: Task, module: nn.Module) -> None:
        self._holder = _Holder(task, module)
        self._drawn: list[tuple[float, tuple[int, ...]]] | None = None

    def __call__(
        self, weights: Mapping[str, Tensor], batch: Batch, share: Tensor, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Return the losses (n_sites,) of batches that are padded to one length, `share` being 0 on the padding."""
        if self._drawn is None:
            self._drawn = self._draws({name: w.detach()[0] for name, w in weights.items()}, tuple(p[0] for p in batch))
        sizes = (share > 0).sum(1).tolist()
        masks = []
        for rate, shape in self._drawn:
            mask = torch.zeros(len(sizes), share.shape[1], *shape, device="cpu")
            for row, n, generator in zip(mask, sizes, generators, strict=True):
                row[:n].bernoulli_(1 - rate, generator=generator)  # as torch's dropout draws
            masks.append(mask.div_(1 - rate))

        def of_site(weights: Mapping[str, Tensor], batch: Batch, share: Tensor, masks: list[Tensor]) -> Tensor:
            left = iter(masks)
            return self._call(weights, batch, lambda part, x: x * next(left)) @ share

        return vmap(of_site)(weights, batch, share, masks)

    def _draws(self, weights: Mapping[str, Tensor], batch: Batch) -> list[tuple[float, tuple[int, ...]]]:
        """Return rate and shape (without the observations' axis) of each dropout that a pass makes, in order."""
        seen = []

        def note(part: nn.Dropout, x: Tensor) -> Tensor:
            seen.append((part.p, tuple(x.shape[1:])))
            return x

        with torch.no_grad():
            self._call(weights, batch, note)
        return seen

    def _call(
        self, weights: Mapping[str, Tensor], batch: Batch, dropout: Callable[[nn.Dropout, Tensor], Tensor]
    ) -> Tensor:
        named = {f"module.{name}": w for name, w in weights.items()}
        with dropout_by(self._holder.module, dropout):
            return functional_call(self._holder, named, (batch,), tie_weights=False)


class _Holder(nn.Module):
    """A module whose forward pass is a task's losses."""

    def __init__(self, task: Task, module: nn.Module) -> None:
        super().__init__()
        self._task, self.module = task, module

    def forward(self, batch: Batch) -> Tensor:
        losses = self._task.losses(self.module, batch)
        if losses.dim() != 1:
            raise SettingsError(
                f"model {self._task.name!r}: losses returns shape {tuple(losses.shape)}, and a loss for each observation, (n,), is needed"
            )
        return losses


def _pad(batches: Sequence[Batch]) -> tuple[Batch, Tensor]:
    """Return batches one above the other, zeros where one is shorter, and each observation's share of its site's mean."""
    sizes = [len(batch[0]) for batch in batches]
    longest = max(sizes)
    share = torch.zeros(len(batches), longest, device="cpu")
    for row, n in zip(share, sizes, strict=True):
        row[:n] = 1 / n
    if min(sizes) == longest:
        return tuple(map(torch.stack, zip(*batches, strict=True))), share
    padded = (nn.utils.rnn.pad_sequence(list(parts), batch_first=True) for parts in zip(*batches, strict=True))
    return tuple(padded), share
