"""Text tasks on a pretrained encoder: tokens, cached lower layers, what each method trains, and one fit (trex_language.py)."""

from __future__ import annotations

import copy
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, BertModel

import text_tasks
from _cell_sentences import Task
from _lora_moe import LoraMoE
from infl.nn.trex import RankOneExperts, TrexConfig
from infl.nn.trex.prior import find_slot
from infl.nn.trex.semantic_prior import SemanticPrior, TaskPrior, level

NORM = 32**0.5
"""Frobenius norm of the weights of the experts at the first step where the scale is 1: LoRA's α / √r with r = α = 32."""
Method = Callable[[float], Any]
"""From a scale to the configuration of an adapter; None: heads alone."""
CS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of the heads' logistic regression; chosen on validation parts, once for all methods."""


@dataclass(frozen=True)
class Setting:
    """What all methods share; a row of the results remembers it.

    Attributes
    ----------
    length
        Tokens of a text.
    layers
        Uppermost layers of the base that are adapted. Those below are computed once, which is exact.
    steps, each
        Of a fit; texts of every task in a step.
    heads
        Learning rate of the heads beside the adapter's.
    """

    length: int = 16
    layers: int = 6
    steps: int = 300
    each: int = 4
    heads: float = 0.1


class Through(nn.Module):
    """In place of the embeddings and the layers below: what they gave comes as input."""

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **_: Any) -> Tensor:
        assert inputs_embeds is not None
        return inputs_embeds


def trex(r1: int = 4, r2: int = 8, **options: Any) -> Method:
    return lambda scale: TrexConfig(r1=r1, r2=r2, alpha=scale * NORM * (r1 * r2) ** 0.5, **options)


def pairs(rank: int, **options: Any) -> Method:
    """Experts in pairs, gated by which task a text seems to be of; where there is no prior, by the token alone."""
    return lambda scale: TrexConfig(rank=rank, alpha=scale * NORM * rank**0.5, **{"anchors": 1} | options)


def lora(r: int, **options: Any) -> Method:
    return lambda scale: peft.LoraConfig(r=r, lora_alpha=scale * NORM * r**0.5, target_modules="all-linear", **options)


def lora_moe(n: int, r: int) -> Method:
    return lambda scale: LoraMoE(n, r, scale * NORM * (n * r) ** 0.5)


def adalora(steps: int) -> Method:
    schedule = {"tinit": steps // 10, "tfinal": steps // 2, "total_step": steps}
    return lambda scale: peft.AdaLoraConfig(
        init_r=48, target_r=32, lora_alpha=scale * NORM * 48**0.5, target_modules="all-linear", **schedule
    )


def vera(scale: float) -> peft.PeftConfig:
    return peft.VeraConfig(r=256, target_modules="all-linear", d_initial=0.1 * scale)


class Net(nn.Module):
    """The upper layers with an adapter, and the heads."""

    def __init__(self, upper: nn.Module, config: Any, sizes: Sequence[int]) -> None:
        super().__init__()
        upper = copy.deepcopy(upper)
        width = upper.config.hidden_size
        if isinstance(config, LoraMoE):
            self.model = config.add_to(upper)
        elif config is None:
            self.model = upper.requires_grad_(False)
        else:
            self.model = peft.get_peft_model(upper, config)
        self.with_prior = has_prior(config)
        self.heads = nn.ModuleList(nn.Linear(width, k) for k in sizes)

    def forward(self, hidden: Tensor, mask: Tensor, prior: Tensor) -> Tensor:
        model = self.model.get_base_model() if isinstance(self.model, peft.PeftModel) else self.model
        if not self.with_prior:
            return mean_of_tokens(model, hidden, mask)
        with find_slot(self.model).holding(prior.repeat_interleave(mask.sum(1), 0)):  # one for each token
            return mean_of_tokens(model, hidden, mask)


def has_prior(config: Any) -> bool:
    """Whether texts come to an adapter with a prior."""
    return isinstance(config, TrexConfig) and bool(config.prior if config.rank is None else config.anchors)


def mean_of_tokens(model: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over tokens (n, width) of what the layers of a BERT make of `hidden`; padding goes through no linear layer."""
    n, length = mask.shape
    at = mask.flatten().nonzero().squeeze(1)
    x = hidden.flatten(0, 1)[at]  # (tokens, width)
    for layer in model.encoder.layer:
        own = layer.attention.self
        q, k, v = (
            x.new_zeros(n * length, x.shape[1])
            .index_copy(0, at, part(x))
            .view(n, length, own.num_attention_heads, -1)
            .transpose(1, 2)
            for part in (own.query, own.key, own.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.bool()[:, None, None])
        x = layer.attention.output(y.transpose(1, 2).flatten(2).flatten(0, 1)[at], x)
        x = layer.output(layer.intermediate(x), x)
    return x.new_zeros(n, x.shape[1]).index_add(0, at // length, x) / mask.sum(1, keepdim=True)


class Bench:
    """Tasks on a base, with what all methods share.

    Parameters
    ----------
    tasks
        Their ``ids`` are those of the base's tokenizer.
    base
        Folder of the base.
    setting
        What all methods share.
    head_of
        Number of the head of each task (None: one for each); tasks with one head have the same classes.
    """

    def __init__(
        self, tasks: Sequence[Task], base: Path, setting: Setting, head_of: Sequence[int] | None = None
    ) -> None:
        self.tasks, self.setting = list(tasks), setting
        self.head_of = list(range(len(self.tasks))) if head_of is None else list(head_of)
        model = BertModel.from_pretrained(
            base, add_pooling_layer=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        ).eval()
        self.upper = copy.deepcopy(model)
        self.upper.embeddings, self.upper.encoder.layer = Through(), model.encoder.layer[-setting.layers :]
        model.encoder.layer = model.encoder.layer[: len(model.encoder.layer) - setting.layers]
        self.hidden: list[Tensor] = []
        self.latent: list[Tensor] = []
        for task in self.tasks:
            self._keep(task, base, model)
        self.priors, self.probes, self.semantic = cache(self._priors), cache(self._probes), cache(self._semantic)
        self.by_task = cache(self._by_task)

    @torch.no_grad()
    def _keep(self, task: Task, base: Path, lower: nn.Module) -> None:
        """Have what the layers below make of a task's texts, and what the unchanged base makes of them, in a file."""
        digest = hashlib.sha256(task.ids.numpy().tobytes()).hexdigest()[:16]
        file = base.parent / f"{base.name}-{self.setting.layers}-{digest}.pt"
        if not file.exists():
            parts = zip(task.ids.split(128), task.mask.split(128), strict=True)
            self.hidden.append(torch.cat([lower(i, attention_mask=m).last_hidden_state for i, m in parts]))
            latent = self.embed(Net(self.upper, None, []), len(self.hidden) - 1)
            torch.save([self.hidden.pop(), latent], partial := file.with_suffix(f".{os.getpid()}"))
            partial.rename(file)
        hidden, latent = torch.load(file, mmap=True)
        self.hidden.append(hidden)
        self.latent.append(latent)

    @torch.no_grad()
    def embed(self, net: Net, k: int, rows: np.ndarray | None = None, prior: Tensor | None = None) -> Tensor:
        """Return the latent of rows of a task, computed from the shortest text to the longest."""
        task = self.tasks[k]
        rows = np.arange(len(task.y)) if rows is None else rows
        prior = torch.zeros(len(task.y), 1) if prior is None else prior
        order = np.argsort(task.mask[rows].sum(1).numpy(), kind="stable")
        found = torch.empty(len(rows), self.upper.config.hidden_size)
        for part in np.array_split(order, -(-len(order) // 128)):
            found[part] = net(*self._trimmed(self.hidden[k][rows[part]], task.mask[rows[part]]), prior[rows[part]])
        return found

    @staticmethod
    def _trimmed(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        longest = int(mask.sum(1).max())
        return hidden[:, :longest], mask[:, :longest]

    def train(self, seed: int) -> list[np.ndarray]:
        """Rows of each task to train on."""
        return [task.parts(seed)[0] for task in self.tasks]

    def _priors(self, seed: int, n_experts: int) -> list[Tensor]:
        """Similarities of all texts to centroids of a seed's training texts, less their mean."""
        return [self.semantic(seed, n_experts)(e) for e in self.latent]

    def _semantic(self, seed: int, n_experts: int) -> SemanticPrior:
        train = torch.cat([e[t] for e, t in zip(self.latent, self.train(seed), strict=True)])
        middle = train.mean(0)
        return SemanticPrior.fit(train, lambda e: e - middle, n_experts=n_experts, seed=seed)

    def _by_task(self, seed: int) -> TaskPrior:
        """Return what tells a seed's training texts of the tasks apart."""
        parts = [e[t] for e, t in zip(self.latent, self.train(seed), strict=True)]
        tasks = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return TaskPrior.fit(torch.cat(parts), lambda e: e, tasks=tasks)

    def prior_of(self, config: TrexConfig, seed: int) -> Callable[[Tensor], Tensor]:
        """Return what makes an adapter's prior of texts' latents."""
        return self.semantic(seed, config.r1 * config.r2) if config.rank is None else self.by_task(seed)

    def _probes(self, seed: int) -> list[dict[str, Tensor]]:
        """Weights of the heads that fit the unchanged base."""
        found = []
        for head in sorted(set(self.head_of)):
            mine = [k for k, h in enumerate(self.head_of) if h == head]
            parts = [self.tasks[k].parts(seed) for k in mine]
            x = [torch.cat([self.latent[k][p[i]] for k, p in zip(mine, parts, strict=True)]) for i in (0, 1)]
            y = [torch.cat([self.tasks[k].y[p[i]] for k, p in zip(mine, parts, strict=True)]) for i in (0, 1)]
            found.append(logistic(x[0], y[0], x[1], y[1]))
        return found

    def fit(self, config: Any, lr: float, seed: int) -> tuple[Net, list[Tensor | None]]:
        """Train on batches drawn from all tasks alike; heads begin as they fit the unchanged base."""
        torch.manual_seed(seed)
        train = self.train(seed)
        priors: list[Any] = [None] * len(self.tasks)
        if has_prior(config) and config.rank is not None:
            config.anchors = len(self.tasks)
            priors = [self.by_task(seed)(e) for e in self.latent]
        elif has_prior(config):
            priors = self.priors(seed, config.r1 * config.r2)
            config.level = level(torch.cat([prior[t] for prior, t in zip(priors, train, strict=True)]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = Net(self.upper, config, [len(p["bias"]) for p in self.probes(seed)]).train()
        for head, probe in zip(net.heads, self.probes(seed), strict=True):
            head.load_state_dict(probe)
        if config is not None:
            self._train(
                net,
                [p if p is not None else torch.zeros(len(t.y), 1) for p, t in zip(priors, self.tasks, strict=True)],
                lr,
                seed,
            )
        return net.eval(), priors

    def _train(self, net: Net, priors: list[Tensor], lr: float, seed: int) -> None:
        setting, train = self.setting, self.train(seed)
        adapter = [p for p in net.model.parameters() if p.requires_grad]
        rates = [lr, lr * setting.heads]
        groups = [{"params": p, "lr": r} for p, r in zip((adapter, [*net.heads.parameters()]), rates, strict=True)]
        optimiser = torch.optim.AdamW(groups, weight_decay=1e-4, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=setting.steps, pct_start=0.1)
        rng = np.random.default_rng(seed)
        for step in range(setting.steps):
            rows = [rng.choice(t, setting.each) for t in train]
            hidden, mask, prior = (
                torch.cat([part[r] for part, r in zip(parts, rows, strict=True)])
                for parts in (self.hidden, [t.mask for t in self.tasks], priors)
            )
            latent = net(*self._trimmed(hidden, mask), prior).split(setting.each)
            losses = [
                F.cross_entropy(net.heads[h](z), task.y[r])
                for h, z, task, r in zip(self.head_of, latent, self.tasks, rows, strict=True)
            ]
            optimiser.zero_grad()
            torch.stack(losses).mean().backward()
            optimiser.step()
            schedule.step()
            if isinstance(getattr(net.model, "base_model", None), peft.AdaLoraModel):
                net.model.base_model.update_and_allocate(step)

    @torch.no_grad()
    def accuracy(self, net: Net, priors: list[Tensor | None], rows: Sequence[np.ndarray]) -> list[float]:
        """Accuracy of each task on its rows."""
        return [
            float((net.heads[h](self.embed(net, k, r, priors[k])).argmax(1) == self.tasks[k].y[r]).float().mean())
            for k, (h, r) in enumerate(zip(self.head_of, rows, strict=True))
        ]

    @torch.no_grad()
    def routing(self, net: Net, priors: list[Tensor]) -> dict[str, float]:
        """How a fitted T-REX routes 64 judging texts of each task, mean over its layers.

        ``effective experts`` of a token and of all tokens are exponentials of entropies: n where all weigh alike. ``differs by prior`` and
        ``by router`` are the standard deviations of the two terms of C, for one expert over texts or tokens.
        """
        found: list[dict[str, float]] = []

        def look(experts: RankOneExperts, given: tuple[Any, ...]) -> None:
            x, s, n = given[0], given[1], experts.n_experts
            p = experts.probabilities(x)  # (tokens, n)
            omega = float(torch.sigmoid(100 * experts.omega)) if experts.omega is not None else 1.0
            entropy = -(p * p.clamp_min(1e-30).log()).sum(-1).mean()
            mean = p.mean(0)
            found.append(
                {
                    "effective experts of a token": float(entropy.exp()),
                    "effective experts of all": float((-(mean * mean.log()).sum()).exp()),
                    "omega": omega,
                    "gate": float(torch.sigmoid(100 * experts.gate)),
                    "differs by router": float(n * omega * p.std(0).mean()),
                    "differs by prior": 0.0 if s is None else float(4 * (1 - omega) * s.std(0).mean()),
                }
            )

        handles = [m.register_forward_pre_hook(look) for m in net.modules() if isinstance(m, RankOneExperts)]
        rows = [np.flatnonzero(task.test)[:64] for task in self.tasks]
        parts = (self.hidden, [t.mask for t in self.tasks], priors)
        hidden, mask, prior = (torch.cat([part[r] for part, r in zip(ps, rows, strict=True)]) for ps in parts)
        net(hidden, mask, prior)
        for handle in handles:
            handle.remove()
        return {name: round(float(np.mean([layer[name] for layer in found])), 4) for name in found[0]}


def logistic(
    x: Tensor, y: Tensor, x_validation: Tensor | None = None, y_validation: Tensor | None = None
) -> dict[str, Tensor]:
    """Return weight and bias of a logistic regression; C by the validation part, if there is one, else 0.1."""
    centre, size = x.mean(0), x.std(0) + 1e-6

    def weights(c: float) -> dict[str, Tensor]:
        probe = LogisticRegression(C=c, max_iter=200, tol=1e-3).fit((x - centre) / size, y)
        weight = torch.from_numpy(probe.coef_).float() / size
        return {"weight": weight, "bias": torch.from_numpy(probe.intercept_).float() - weight @ centre}

    if x_validation is None:
        return weights(0.1)

    def hits(found: dict[str, Tensor]) -> float:
        return float((F.linear(x_validation, **found).argmax(1) == y_validation).float().mean())

    return max((weights(c) for c in CS), key=hits)


def tokenised(texts: Mapping[str, text_tasks.Labelled], base: Path, length: int) -> list[Task]:
    """Return tasks of texts with labels, by the base's own tokenizer."""
    tokenizer, found = AutoTokenizer.from_pretrained(base), []
    for name, rows in texts.items():
        batch = tokenizer(
            [text for text, _ in rows], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        y, judges = text_tasks.classes_and_judges(rows)
        found.append(Task(name, batch["input_ids"], batch["attention_mask"], y, judges))
    return found


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and the seconds of processor time that it took."""
    begun = time.process_time()
    return function(), time.process_time() - begun
