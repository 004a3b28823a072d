"""Sums that are not what the sites sealed: other ones for other sites, and one that a conspiring site helped to forge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from infl.attacks._kit.audit_context import UNPROTECTED
from infl.attacks._kit.classifiers import with_options
from infl.attacks._kit.consortium import Consortium, Lies
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.errors import FederationError
from infl.federation.messages import Plan, Total
from infl.models.classifier import Classifier
from infl.privacy.seal import MaskedArrays, add, dequantise
from infl.sums.lanes import WIDER_COUNT, join_sums, split_sums

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext
    from infl.federation.site import Site

WIDTH, SLOPE, PULL, GATE = 256, 100.0, 10.0, 1e-3
"""Of the crafted model: units; how sharply each is switched on; how strongly it pulls at its own row; its part in the output."""
READ = 0.9
"""Correlation from which on a profile counts as read."""


class SplitView(Lies):
    """Give one hospital another sum than its neighbours, so that what they do next tells how they differ."""

    name: ClassVar[str] = "split_view"
    quick: ClassVar[bool] = False
    question: ClassVar[str] = "Do hospitals that were sent different sums go on together?"
    tried: ClassVar[str] = "One of the hospitals is given another sum of the first round than the others."

    def lies(self, context: AuditContext) -> Iterator[tuple[str, bool]]:
        """Tell each lie to one hospital in a run of its own, and see who goes on with which model."""
        views: dict[str, Callable[[Consortium, Total], Total]] = {
            "honest": lambda _, total: total,
            "a sum without the hospital's neighbour": lambda h, total: h.sum_of(total, h.names[1:]),
            "a sum without the hospital itself": lambda h, total: h.sum_of(total, h.names[:-1]),
            "a sum with one word changed": lambda _, total: replace(total, words=one_more(total.words)),
            "a wrong list of who answered": lambda _, total: replace(total, responders=total.responders[1:]),
        }
        for what, view in views.items():
            with Consortium(context) as hospitals:
                original = hospitals.until("train", 2)[hospitals.names[-1]].previous[-1]
                other = view(hospitals, original)
                models = self._models(hospitals, original, other)
                yield what, len(set(models)) == 1 if what == "honest" else len(set(models)) > 1

    @staticmethod
    def _models(hospitals: Consortium, original: Total, other: Total) -> list[bytes]:
        """Return the models of the hospitals that answer two rounds after the last of them was given another sum."""

        def change(name: str, plan: Plan) -> Plan:
            if name != hospitals.names[-1]:
                return plan
            return replace(plan, previous=tuple(other if t.seq == original.seq else t for t in plan.previous))

        hospitals.lie_by(change)
        plans = {}
        with suppress(FederationError):  # where the sites open nothing together again
            plans = hospitals.until("train", 3)
        on = [name for name, plan in plans.items() if hospitals[name].does(change(name, plan))]
        return [weights_of(hospitals[name].site) for name in on]


def one_more(words: MaskedArrays) -> MaskedArrays:
    """Change one word of a sum."""
    other = words.copy()
    other.low[0] += 1
    return other


def weights_of(site: Site | None) -> bytes:
    """Return a hospital's model."""
    assert site is not None
    return site.replica.theta.numpy().tobytes()


class CraftedModel(Attack):
    """With a hospital's ring, forge a sum that gives all the same model: one whose next update holds single patients' profiles.

    References
    ----------
    Fowl et al., Robbing the fed: directly obtaining private data in federated learning with modified models, ICLR 2022.
    """

    name: ClassVar[str] = "crafted_model"
    against: ClassVar[Attacker] = Attacker.COLLUSION
    question: ClassVar[str] = "Can single patients be read from the sum of all hospitals, after a forged sum?"

    def applies(self, context: AuditContext) -> bool:
        """Whether it is our classifier, whose network is crafted, and trains without noise."""
        return isinstance(context.task, Classifier) and context.sealed and context.run.privacy is None

    def run(self, context: AuditContext) -> list[Finding]:
        """Craft a model, open the next sum, and compare what is in it with the other hospitals' patients."""
        value, n = self._read(context)
        control, _ = self._read(context, **UNPROTECTED)
        return [
            Finding(
                metric="share of patients whose profile was read",
                value=value,
                low=max(value - 1.96 * (value * (1 - value) / n) ** 0.5, 0.0),
                high=min(value + 1.96 * (value * (1 - value) / n) ** 0.5, 1.0),
                trials=n,
                chance=0.0,
                control=control,
                promised=False,
                margin=0.05,
                note=f"A coordinator and a hospital propose a run, forge its first sum, and read the next one, of {n} patients of the "
                "other hospitals. They get a sum, never one hospital's update. What it reveals of single patients is limited by "
                "their number; only privacy= bounds it.",
            )
        ]

    def _read(self, context: AuditContext, **changes: Any) -> tuple[float, int]:
        """Return the share of the other hospitals' patients whose profile was read, and how many patients there are."""
        options: dict[str, Any] = {
            "optimiser": "sgd", "lr": 1.0, "batch_size": 1 << 20, "grad_clip": None, "weight_decay": 0.0,
            "width": WIDTH, "n_blocks": 1, "dropout": 0.0, "coordinate": 0,
        }  # fmt: skip
        task = with_options(context.task, **options)
        common: dict[str, Any] = {"task": task, "local_epochs": 1, "aggregation": "fedavg", "aggregation_options": {}}
        with Consortium(context, **common | changes) as hospitals:
            total = hospitals.until("train", 2)[hospitals.names[0]].previous[-1]
            helper = hospitals[hospitals.names[0]].site
            assert helper is not None
            rng = context.rng(self.name)
            hospitals.go_on_from(forged(helper, total, crafted(helper, rng)))
            nexts = hospitals.until("train", 3)[hospitals.names[0]].previous[-1]
            sums = [nexts] if not changes else [hospitals.sum_of(nexts, (name,)) for name in hospitals.names[1:]]
            found = np.concatenate([profiles(helper, opened(helper, s)) for s in sums])
            true = np.concatenate([rows_of(hospitals[name].site) for name in hospitals.names[1:]])
        return float(np.mean(best_correlation(true, found) > READ)), len(true)


def best_correlation(rows: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """Return each row's correlation with the guess that is nearest to it (n_rows,)."""
    if not len(guesses):
        return np.zeros(len(rows))

    def standard(x: np.ndarray) -> np.ndarray:
        x = x - x.mean(1, keepdims=True)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)

    return (standard(rows) @ standard(guesses).T).max(1)


def rows_of(site: Site | None) -> np.ndarray:
    """Return what the first layer sees of a hospital's patients (n_obs, n_features)."""
    assert site is not None
    module: Any = site.replica.module()
    return module.scaled(site.data.batch(site.data.train)[0]).numpy()


def opened(site: Site, total: Total) -> np.ndarray:
    """Return the update of a sum that the site was not given yet, flat."""
    replica = site.replica
    if len(total.responders) < replica.agreement.min_sites:  # no seal: whoever hears it reads it
        lanes = total.words.low.view(np.int32), total.words.high[: replica.packing.n64].view(np.int64)
    else:
        lanes = replica.seal.unseal(replica.context(total), total.responders, total.words, replica.packing)
    return dequantise(lanes, replica.packing)[0]


def crafted(site: Site, rng: np.random.Generator) -> np.ndarray:
    """Return weights, flat, with which the rows of the first layer's gradient are sums over patients by their rank on one axis.

    Unit 0 has the patient's place z on a random axis, units 1 and 2 ± a constant. Unit k > 3 of the block is on where
    z > tₖ, and pulls at row k of the first layer. Signs alternate, so two neighbouring rows add to the patients in between.
    """
    replica = site.replica
    flat = torch.zeros_like(replica.theta)
    views = replica.flat_model.shared.views(flat)
    weight = views["embed.weight"]  # (width, n_features)
    axis = torch.from_numpy(rng.normal(size=weight.shape[1]) / weight.shape[1] ** 0.5).float()
    z = torch.from_numpy(rows_of(site)) @ axis
    middle, spread = float(z.mean()), max(float(z.std()), 1e-6)
    weight[0], views["embed.bias"][0] = axis / spread, -middle / spread
    views["embed.bias"][1], views["embed.bias"][2] = 2.0, -2.0
    units = range(4, WIDTH - 1)  # the last one is on for nobody: its row has what all rows have in common
    views["blocks.0.norm.weight"].fill_(1.0)
    expand, contract = views["blocks.0.expand.weight"], views["blocks.0.contract.weight"]
    for k, edge in zip(units, np.linspace(-3, 3, len(units)), strict=True):
        expand[k, 0], expand[k, 1], expand[k, k] = SLOPE, -SLOPE * float(edge) / 2.0, PULL
        contract[3, k] = GATE * (-1) ** k
    views["norm.weight"][3] = 1.0
    views["head.weight"][:, 3] = torch.from_numpy(rng.normal(size=len(views["head.weight"])) * 10).float()
    return flat.numpy()


def profiles(site: Site, update: np.ndarray) -> np.ndarray:
    """Return what stands between neighbouring rows of the first layer's update: inputs, where it is that of one patient."""
    views = site.replica.flat_model.shared.views(torch.from_numpy(update).float())
    weight, bias = views["embed.weight"].double().numpy(), views["embed.bias"].double().numpy()
    weight, bias = (weight - weight[-1])[4:-1], (bias - bias[-1])[4:-1]
    between, divisor = weight[:-1] + weight[1:], bias[:-1] + bias[1:]
    there = np.abs(divisor) > 1e-3 * np.abs(divisor).max()
    return between[there] / divisor[there, None]


def forged(site: Site, total: Total, wanted: np.ndarray) -> Total:
    """Return a sum that passes its tag and makes `wanted` the model of all who apply it: whoever has the ring can seal for all."""
    replica = site.replica
    context, packing = replica.context(total), replica.packing
    _, sums = dequantise(replica.seal.unseal(context, total.responders, total.words, packing), packing)
    arrays = split_sums(sums, packing)
    for number, (part, _) in enumerate(packing.lane(32)):  # room for all but what is to be read
        arrays[WIDER_COUNT][number, 2] = 0.0 if part.name.startswith("embed") else 1.0
    sums = join_sums(arrays, packing)
    change = (wanted - replica.theta.numpy()).astype(np.float32)
    if replica.gain is not None:
        change = change / replica.gain.numpy()
    words = None
    for number, name in enumerate(total.responders):
        vector = change if not number else np.zeros_like(change)
        parts = sums if not number else np.zeros_like(sums)
        sealed = replica.seal.seal(context, name, vector, parts, packing, share=float(not number))
        words = add(words, sealed)
    assert words is not None
    return replace(total, words=words)
