"""Gradient inversion: optimise dummy patients until their gradient points where the observed one does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from infl.attacks._kit.audit_context import UNPROTECTED
from infl.attacks._kit.classifiers import rows_seen, with_options
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.statistics import correlation, interval
from infl.attacks.analytic_leak import gradient_of_step
from infl.models.protocols import ClassProbabilities

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext, Recorded

BATCHES = (1, 4)
STEPS = 120
RESTARTS = 2
N_REPEATS = 3


def invert(
    module: nn.Module, observed: Tensor, labels: Tensor, n_features: int, rng: np.random.Generator
) -> np.ndarray:
    """Return dummy inputs (batch, n_features) whose gradient has the largest cosine with the observed one.

    Adam, then L-BFGS, from several random starts; the labels are given (they are inferred exactly from the sign of the
    last layer's gradient when a batch has one record of a class).

    References
    ----------
    Geiping et al., Inverting gradients, NeurIPS 2020.
    """
    parameters = list(module.parameters())
    target = observed / observed.norm().clamp(min=1e-12)
    best: tuple[float, np.ndarray] | None = None

    def distance(x: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(module(x), labels)
        gradient = torch.cat([g.ravel() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
        return 1 - gradient @ target / gradient.norm().clamp(min=1e-12)

    for _ in range(RESTARTS):
        x = torch.from_numpy(rng.normal(size=(len(labels), n_features)).astype(np.float32)).requires_grad_()
        adam = torch.optim.Adam([x], lr=0.1)
        for _ in range(STEPS):
            adam.zero_grad()
            distance(x).backward()
            adam.step()
        lbfgs = torch.optim.LBFGS([x], max_iter=20, line_search_fn="strong_wolfe")

        def closure(x: Tensor = x, lbfgs: torch.optim.LBFGS = lbfgs) -> Tensor:
            lbfgs.zero_grad()
            value = distance(x)
            value.backward()
            return value

        lbfgs.step(closure)
        final = float(distance(x).detach())
        if np.isfinite(final) and (best is None or final < best[0]):
            best = (final, x.detach().numpy().copy())
    return np.zeros((len(labels), n_features)) if best is None else best[1]


def matched(guesses: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean correlation of the best assignment of guesses to true profiles.

    Examples
    --------
    >>> a = np.random.default_rng(0).normal(size=(3, 50))
    >>> round(matched(a[::-1], a), 6)
    1.0
    """
    from scipy.optimize import linear_sum_assignment

    table = np.array([[correlation(g, t) for t in truth] for g in guesses])
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].mean())


class GradientInversion(Attack):
    """Reconstruct a batch of patients from one update."""

    name: ClassVar[str] = "gradient_inversion"
    against: ClassVar[Attacker] = Attacker.COORDINATOR
    question: ClassVar[str] = "Can several patients' profiles be reconstructed from one update?"

    def applies(self, context: AuditContext) -> bool:
        """Whether the task has a matrix of features, and trains without noise."""
        return isinstance(context.task, ClassProbabilities) and context.run.privacy is None

    def run(self, context: AuditContext) -> list[Finding]:
        """Attack one step on a batch; one message is enough, of the first site that has a full batch."""
        findings = []
        for batch in BATCHES:
            values: list[list[float]] = [[], []]
            for trial in range(N_REPEATS):
                for protected in (True, False):
                    values[not protected] += self._attack(context, batch, trial, protected)
            findings.append(
                Finding(
                    metric=f"correlation with the patients' profiles, batch of {batch}",
                    **interval(values[0]),
                    chance=0.0,
                    control=float(np.mean(values[1])),
                    promised=context.sealed,
                    margin=0.3,
                    note="Dummy patients are optimised until their gradient fits the observed one; the labels are given away.",
                )
            )
        return findings

    def _attack(self, context: AuditContext, batch: int, trial: int, protected: bool) -> list[float]:
        rng = context.rng(self.name, batch, trial)
        task = with_options(context.task, validation=0.0, batch_size=10**6, dropout=0.0, balance=False)
        sizes = {s: min(batch, a.n_obs) for s, a in context.sites.items()}
        sites = {s: a[np.sort(rng.choice(a.n_obs, sizes[s], replace=False))] for s, a in context.sites.items()}
        changes = {} if protected else UNPROTECTED
        common: dict[str, Any] = {"rounds": 1, "local_epochs": 1, "patience": 0, "participation": 1.0}
        recorded = context.repeat(sites=sites, task=task, **common, **changes)
        largest = max(sizes.values())
        update = next(update for update in recorded.updates() if sizes[update.site] == largest)
        return [self._invert_one(recorded, update.site, update.values, rng)]

    @staticmethod
    def _invert_one(recorded: Recorded, site: str, values: np.ndarray, rng: np.random.Generator) -> float:
        from infl.federation.initial import build_flat_model

        replica, members = recorded.outcome.replica, recorded.outcome.sites
        flat_model = build_flat_model(replica.task, replica.agreement, replica.start)
        initial = flat_model.copy_shared().numpy()
        change = values * (replica.n_total / len(members[site].data.train))
        gradient = gradient_of_step(change, initial, lr=replica.task.lr, weight_decay=replica.task.weight_decay)
        data = members[site].data
        truth, (_, y) = rows_seen(replica, data), data.batch(data.train)
        guesses = invert(
            flat_model.module.eval(), torch.from_numpy(gradient.astype(np.float32)), y, truth.shape[1], rng
        )
        return matched(guesses, truth)
