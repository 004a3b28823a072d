"""Shadow models: the run repeated on halves of its records, so that it is known which records each model was trained on.

Each is made once for all attacks on membership, and of each is kept only what these look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from infl.attacks._kit.audit_context import NO_LOCK_NO_SEAL
from infl.attacks._kit.classifiers import with_options
from infl.federation.initial import build_flat_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from infl.attacks._kit.audit_context import AuditContext, Recorded
    from infl.models.task import Task


UNCLIPPED = 1e30


@dataclass(frozen=True)
class Shadow:
    """What attacks look at of one shadow model. Arrays are over all records of all sites. ``(records,)``

    Attributes
    ----------
    member
        Whether the record trained it.
    confidence
        The model's confidence in the record's class.
    in_sums
        How far the opened sums of all rounds go along the record's gradient, without the part of the first site, which is
        the one that looks.
    in_messages
        The same of the messages of the record's own site alone, as they would be without a seal.
    """

    member: np.ndarray
    confidence: np.ndarray
    in_sums: np.ndarray
    in_messages: np.ndarray


def shadows(context: AuditContext, n: int) -> list[Shadow]:
    """Return n models trained as the run was.

    Under differential privacy a round is one step over all records, wherever they are: one place is quicker.
    """
    together = context.run.privacy is not None
    return [
        context.once(("shadow", i), lambda i=i: _shadow(context, context.task, i, together=together))  # type: ignore[misc]
        for i in range(n)
    ]


def overfitted(context: AuditContext, n: int) -> list[Shadow]:
    """Return n models that were trained far too long, in one place, with nothing against it: the control."""
    options: dict[str, Any] = {"dropout": 0.0, "weight_decay": 0.0, "validation": 0.0, "lr": 1e-3}
    if context.run.privacy is not None:  # whose models are small, and told less, so that they remember less
        options |= {"standardise": "federated", "balance": True, "width": 64, "n_blocks": 2}
    settings: dict[str, Any] = {"rounds": 10, "local_epochs": 10, "patience": 0, "privacy": None}
    settings |= {"aggregation": "fedavg", "aggregation_options": {}}
    task = with_options(context.task, **options)
    return [
        context.once(("overfitted", i), lambda i=i: _shadow(context, task, i, together=True, **settings))  # type: ignore[misc]
        for i in range(n)
    ]


def stacked(models: Sequence[Shadow], what: str) -> np.ndarray:
    """Return an attribute of all models: (models, records)."""
    return np.stack([getattr(model, what) for model in models])


def half(context: AuditContext, number: int) -> dict[str, np.ndarray]:
    """Return which records of each site train a shadow."""
    rng = context.rng("membership", number)
    return {s: np.sort(rng.permutation(a.n_obs)[: a.n_obs // 2]) for s, a in context.sites.items()}


def confidence(logits: Tensor, y: Tensor) -> np.ndarray:
    """Return log p / (1 − p) of the true class (n,), which is nearly Gaussian over models.

    From logits (n, classes), where a probability would round to 1.
    """
    z = logits.double()
    others = z.scatter(1, y[:, None], -torch.inf)
    return (z.gather(1, y[:, None])[:, 0] - others.logsumexp(1)).numpy()


@torch.no_grad()
def confidences(context: AuditContext, module: nn.Module, task: Task) -> np.ndarray:
    """Return the confidence in every record, read as the model's own task reads it."""
    return np.concatenate([confidence(module(x), y) for x, y in _batches(context, task)])


def alignment(
    module: nn.Module, x: Tensor, y: Tensor, along: dict[str, Tensor], clip_norm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far a sum of gradients goes along each record's in each layer, and the lengths of those: (layers, n) each.

    Linear layers alone are looked at; a record's gradient there is the outer product of what comes back and what went in,
    so it need not be formed. Lengths are those that are left when the whole is clipped.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)}
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        layer.register_forward_hook(lambda _, given, out, name=name: kept.__setitem__(name, (given[0].detach(), out)))
        for name, layer in layers.items()
    ]
    try:
        loss = torch.nn.functional.cross_entropy(module(x), y, reduction="sum")
    finally:
        for hook in hooks:
            hook.remove()
    backs = torch.autograd.grad(loss, [out for _, out in kept.values()])
    products, squares = [], []
    for (name, (given, _)), back in zip(kept.items(), backs, strict=True):
        products.append(((given @ along[f"{name}.weight"].T) * back).sum(1) + back @ along[f"{name}.bias"])
        squares.append(back.square().sum(1) * (given.square().sum(1) + 1))
    size = torch.stack(squares).sqrt().clamp(min=1e-12)
    factor = clip_norm / size.norm(dim=0).clamp(min=clip_norm)
    return (torch.stack(products) / size).numpy(), (size * factor).numpy()


def _batches(context: AuditContext, task: Task) -> list[tuple[Tensor, Tensor]]:
    """Return all records of each site with their classes."""
    batches = []
    for site, adata in context.sites.items():
        data: Any = task.read(adata, context.panel, site=site, rng=context.rng("labels", site))
        batches.append(data.batch(np.arange(adata.n_obs)))
    return batches


def _shadow(context: AuditContext, task: Task, number: int, *, together: bool, **settings: Any) -> Shadow:
    from infl.models.pooling import pool

    chosen = half(context, number)
    sizes = [a.n_obs for a in context.sites.values()]
    first = dict(zip(context.sites, np.cumsum([0, *sizes]), strict=False))
    tables = {s: a[chosen[s]] for s, a in context.sites.items()}
    places = {s: first[s] + chosen[s] for s in tables}
    if together:
        tables, places = {"all": pool(tables)}, {"all": np.concatenate(list(places.values()))}
        settings |= {"min_sites": 1, "participation": 1.0}
    recorded = context.repeat(tables, task=task, **NO_LOCK_NO_SEAL, **settings)
    member = np.zeros(sum(sizes), dtype=bool)
    for s, place in places.items():
        member[place[recorded.outcome.sites[s].data.train]] = True
    home = np.repeat(list(context.sites), sizes)
    return Shadow(
        member, confidences(context, recorded.model.module(None), task), *_readings(context, recorded, task, home)
    )


def _readings(context: AuditContext, recorded: Recorded, task: Task, home: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean cosine of each record's gradient with the sums of all rounds, and with its own site's messages.

    A site follows the model from round to round as every site does.
    """
    replica = recorded.outcome.replica
    agreement, flat_model = replica.agreement, build_flat_model(replica.task, replica.agreement, replica.start)
    task.configure(flat_model.module, replica.private)
    theta = flat_model.copy_shared()
    state: dict[str, Tensor] = {}
    curious, names = next(iter(context.sites)), list(recorded.outcome.sites)
    batches = _batches(context, task)
    x, y = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
    rounds: dict[int, dict[str, np.ndarray]] = {}
    for update in recorded.updates():
        rounds.setdefault(update.round, {})[update.site] = update.values[: len(theta)]
    found: list[list[np.ndarray]] = [[], []]
    for parts in rounds.values():
        flat_model.load(theta)
        module = flat_model.module.eval()
        others = [values for site, values in parts.items() if site != curious]
        messages = {
            site: _cosines(flat_model, module, x, y, values) for site, values in parts.items() if len(names) > 1
        }
        in_sum = _cosines(flat_model, module, x, y, np.sum(others, axis=0))
        found[0].append(in_sum)
        found[1].append(np.array([messages[h][i] if h in messages else in_sum[i] for i, h in enumerate(home)]))
        total = torch.from_numpy(np.sum(list(parts.values()), axis=0).astype(np.float32))
        if agreement.dp is None:
            total *= replica.n_total / sum(len(recorded.outcome.sites[s].data.train) for s in parts)
        else:
            total *= -1 / (agreement.dp.sample_rate * replica.n_total)
        replica.rule.at_sum(theta, total, state)
    sign = -1 if agreement.dp is None else 1  # an update goes against its gradient; noisy gradients travel as they are
    return sign * np.mean(found[0], axis=0), sign * np.mean(found[1], axis=0)


def _cosines(flat_model: Any, module: nn.Module, x: Tensor, y: Tensor, values: np.ndarray) -> np.ndarray:
    """Return the cosine of each record's gradient with a flat update (n,)."""
    along = {n: v.clone() for n, v in flat_model.shared.views(torch.from_numpy(values.astype(np.float32))).items()}
    readings, size = alignment(module, x, y, along, UNCLIPPED)
    return (readings * size).sum(0) / (np.linalg.norm(size, axis=0) * max(float(np.linalg.norm(values)), 1e-12))
