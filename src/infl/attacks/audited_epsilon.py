"""How much ε does the run really spend, at least? An estimate from one run with canaries.

Canaries are records with one loud feature each, so that no two of them pull the same weights. A coin decides for each
whether a site has it. Whoever sees the opened sums then guesses which are in, and abstains where it is hard to tell. If
more guesses are right than (ε, δ)-differential privacy lets anybody have, the ε that was accounted for is wrong.

References
----------
Steinke, Nasr, Jagielski, Privacy auditing with one (1) training run, NeurIPS 2023 (the game). Mahloujifar, Melis,
Chaudhuri, Auditing f-differential privacy in one run, ICML 2025 (what right guesses prove).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from infl.attacks._kit.audit_context import NO_LOCK_NO_SEAL
from infl.attacks._kit.classifiers import with_options
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.one_run_bound import (
    CONFIDENCE,
    audited,
    gaussian_lower_bound,
    guesses_for,
    likelihood_ratio,
    lower_bound,
)
from infl.attacks._kit.shadows import alignment
from infl.federation.initial import build_flat_model
from infl.models.protocols import ClassProbabilities, ReadsLayer
from infl.privacy.dp import DP

if TYPE_CHECKING:
    from anndata import AnnData
    from torch import Tensor

    from infl.attacks._kit.audit_context import AuditContext, Recorded

N_CANARIES = 2000
NO_NOISE = 1e-2
"""Noise multiplier of the control: a mechanism that noise cannot hide anything in, but that runs the same code."""
ROWS = 512


class AuditedEpsilon(Attack):
    """Guess which canaries are in, from the opened sums of all rounds."""

    name: ClassVar[str] = "audited_epsilon"
    against: ClassVar[Attacker] = Attacker.CURIOUS_SITE
    question: ClassVar[str] = "Does the run spend more ε than it accounts for?"

    def applies(self, context: AuditContext) -> bool:
        """Whether the run is a private fit of a classifier on plain tables."""
        from anndata import AnnData

        plain = all(isinstance(a, AnnData) for a in context.sites.values())
        return context.run.privacy is not None and isinstance(context.task, ClassProbabilities) and plain

    def run(self, context: AuditContext) -> list[Finding]:
        """Repeat the run with canaries, under its noise and without."""
        privacy = context.run.privacy
        assert privacy is not None
        dp, rounds, delta = DP(**context.run.settings["privacy"]), len(context.run.history), float(privacy["delta"])
        m = min(N_CANARIES, len(context.panel["features"]))

        def gaussian(correct: int, guesses: int, canaries: int, confidence: float) -> float:
            return gaussian_lower_bound(correct, guesses, canaries, delta, dp.sample_rate, rounds, confidence)

        def whatever(correct: int, guesses: int, canaries: int, confidence: float) -> float:
            return lower_bound(correct, guesses, canaries, delta, confidence)

        scores, inside = self._scored(context, float(privacy["noise_multiplier"]))
        open_scores, open_inside = self._scored(context, NO_NOISE)
        # Guesses on some for noise that is as it should be, and on half for noise that is not there.
        part = guesses_for(float(privacy["noise_multiplier"]), dp.sample_rate, rounds, m, delta)
        choices = {part, m // 4 * 2}
        findings = []
        for what, bound in (("Gaussian noise", gaussian), ("any noise", whatever)):
            value, correct, guesses = audited(scores, inside, choices, bound)
            control, *_ = audited(open_scores, open_inside, choices, bound)
            most = bound(m // 4 * 2, m // 4 * 2, m, 1 - (1 - CONFIDENCE) / len(choices))
            findings.append(
                Finding(
                    metric=f"epsilon, lower bound at 95 % by canaries, {what}",
                    value=value,
                    low=value,
                    high=float(privacy["epsilon"]),
                    chance=0.0,
                    control=control,
                    promised=True,
                    margin=1.0,
                    bound=float(privacy["epsilon"]),
                    provable=most,
                    note=f"{correct} of {guesses} guesses right on {m} canaries; accounted (upper bound): "
                    f"{privacy['epsilon']:.2f} at delta {delta:g}. This number of canaries can show {most:.1f} at most. "
                    "Control: without noise.",
                )
            )
        return findings

    def _scored(self, context: AuditContext, noise: float) -> tuple[np.ndarray, np.ndarray]:
        """Return how much speaks for each canary to be in the run with so much noise, and whether it is: (m,) each."""
        dp, rng = DP(**context.run.settings["privacy"]), context.rng(self.name)
        n = sum(a.n_obs for a in context.sites.values())
        features = list(context.panel["features"])
        loud = rng.permutation(len(features))[:N_CANARIES]
        labels = rng.integers(len(context.panel["classes"]), size=len(loud))
        inside = rng.random(len(loud)) < 0.5
        home = np.arange(len(loud)) % len(context.sites)
        sites = {
            name: self._with(context, a, loud[here], labels[here])
            for (name, a), here in zip(
                context.sites.items(), (inside & (home == s) for s in range(len(context.sites))), strict=True
            )
        }
        # ε is spent by noise, sampling rate and rounds; a budget would end the run, and δ is checked against more records.
        quick: dict[str, Any] = {
            "epsilon": None,
            "accountant": "rdp",
            "delta": min(float(dp.delta or 0), 0.5 / (2 * n + len(loud))),
        }
        mechanism = replace(dp, noise_multiplier=noise, **quick)
        recorded = context.repeat(
            sites,
            task=with_options(context.task, validation=0.0),
            privacy=mechanism,
            rounds=len(context.run.history),
            **NO_LOCK_NO_SEAL,
        )
        return self._scores(context, recorded, mechanism, loud, labels, list(context.sites), home), inside

    @staticmethod
    def _with(context: AuditContext, adata: AnnData, loud: np.ndarray, labels: np.ndarray) -> AnnData:
        """Return a site's table with canaries."""
        import anndata
        from scipy import sparse

        table = adata[:, list(context.panel["features"])]
        canaries = AuditedEpsilon._canaries(context, loud, labels, dense=not sparse.issparse(table.X))
        return anndata.concat([table, canaries], join="inner")

    @staticmethod
    def _canaries(context: AuditContext, loud: np.ndarray, labels: np.ndarray, *, dense: bool = True) -> AnnData:
        """Return canaries as a table: one feature at one, the others at zero."""
        import pandas as pd
        from anndata import AnnData
        from scipy import sparse

        task, features = context.task, list(context.panel["features"])
        assert isinstance(task, ClassProbabilities)
        layer = task.layer if isinstance(task, ReadsLayer) else None
        x = sparse.csr_matrix(
            (np.ones(len(loud), dtype=np.float32), (np.arange(len(loud)), loud)), shape=(len(loud), len(features))
        )
        if dense:
            x = x.toarray()
        classes = np.asarray(context.panel["classes"], dtype=object)
        obs = pd.DataFrame({task.target: classes[labels]}, index=[f"canary_{i}" for i in loud])
        layers = {} if layer is None else {layer: x}
        return AnnData(x, obs=obs, var=pd.DataFrame(index=features), layers=layers)

    def _scores(
        self,
        context: AuditContext,
        recorded: Recorded,
        dp: DP,
        loud: np.ndarray,
        labels: np.ndarray,
        names: list[str],
        home: np.ndarray,
    ) -> np.ndarray:
        """Return the log-likelihood ratio of each canary being in, over all rounds (m,).

        A site follows the model from round to round as every site does. With noise that each site adds whole, the sum of
        one site is promised to be private too, and it is what is looked at.
        """
        replica = recorded.outcome.replica
        flat_model = build_flat_model(replica.task, replica.agreement, replica.start)
        theta, q = flat_model.copy_shared(), dp.sample_rate
        state: dict[str, Tensor] = {}
        canaries = self._canaries(context, loud, labels)
        read = replica.task.read(canaries, context.panel, site="the canaries", rng=context.rng(self.name, "canaries"))
        x, y = read.batch(np.arange(len(loud)))  # scaled and numbered as a site's own rows are
        scores = np.zeros(len(loud))
        rounds: dict[int, dict[str, np.ndarray]] = {}
        for update in recorded.updates():
            rounds.setdefault(update.round, {})[update.site] = update.values
        for parts in rounds.values():
            flat_model.load(theta)
            module, total = flat_model.module.eval(), np.sum(list(parts.values()), axis=0)
            groups = [(np.arange(len(loud)), total)]
            if dp.noise == "local":
                groups = [(np.flatnonzero(home == s), parts[name]) for s, name in enumerate(names) if name in parts]
            n_layers = sum(isinstance(layer, nn.Linear) for layer in module.modules())
            readings, size = np.zeros((2, n_layers, len(loud)))
            for members, values in groups:
                along = {
                    n: v.clone()
                    for n, v in flat_model.shared.views(torch.from_numpy(values.astype(np.float32))).items()
                }
                for i in np.array_split(members, -(-len(members) // ROWS)):
                    readings[:, i], size[:, i] = alignment(module, x[i], y[i], along, dp.clip_norm)
            for label in np.unique(labels):  # what canaries of a class have in common says nothing about one of them
                readings[:, labels == label] -= np.median(readings[:, labels == label], axis=1, keepdims=True)
            # Noise, and whoever else takes part; little in the layer that sees the loud features apart.
            spread = 1.4826 * np.median(np.abs(readings), axis=1, keepdims=True) + 1e-9
            scores += likelihood_ratio(readings, size, spread, q)
            update_ = torch.from_numpy(total.astype(np.float32)) * (-1 / (q * replica.n_total))
            replica.rule.at_sum(theta, update_, state)
        return scores
