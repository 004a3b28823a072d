"""Known plaintext: do opened earlier models, one opened layer, or the public start of training open this model?

A former member keeps what it could open while it was one: earlier models under the same key. Everybody knows the initial
weights of a run, for they follow from its public seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.model_file import ModelFile
from infl.attacks._kit.statistics import cross_chosen, interval, rank_correlation
from infl.attacks._kit.weights import Weights, clipped, rescaled
from infl.models.locked import lock_model

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext

N_COPIES = 12
N_EARLIER = 3


def fitted_field(pairs: Sequence[tuple[Weights, Weights]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the factor and the term of each weight that explain pairs of (stored, effective) weights best.

    Least squares over the pairs, weight by weight: ``effective = stored · M + A``. One pair does not tell M from A: A is
    then taken to be zero.
    """
    field = {}
    for name in pairs[0][0]:
        s, e = (torch.stack([pair[i][name].double() for pair in pairs]) for i in (0, 1))  # (pairs, …)
        if len(pairs) == 1:
            m = e[0] / torch.where(s[0] == 0, 1.0, s[0])
            field[name] = (m, torch.zeros_like(m))
            continue
        ds, de = s - s.mean(0), e - e.mean(0)
        spread = ds.square().sum(0)
        m = (ds * de).sum(0) / torch.where(spread == 0, 1.0, spread)
        field[name] = (m, e.mean(0) - m * s.mean(0))
    return field


def opened_with(stored: Weights, field: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Open stored weights with factors and terms from :func:`fitted_field`."""
    return {n: (t.double() * field[n][0] + field[n][1]).float() for n, t in stored.items()}


def opened_like(new: Weights, old: Weights, old_effective: Weights) -> dict[str, Tensor]:
    """Open stored weights with the factors that one opened model shows: ``stored_new · effective_old / stored_old``."""
    return opened_with(new, fitted_field([(old, old_effective)]))


def guesses_from_start(stored: Weights, initial: Weights) -> dict[str, dict[str, Tensor]]:
    """Return guesses of the effective weights by somebody who knows the initial ones.

    ``signs``: stored sizes with the initial signs. ``turned``: the same brought to the usual spread. ``nearest``: the
    stored size is believed where it is near the initial one, within a factor of e, else the initial weight is.
    """
    signs = {n: t.abs() * initial[n].sign() for n, t in stored.items()}
    turned = {
        n: t * (initial[n].norm() / t.norm().clamp(min=1e-12)) if initial[n].norm() > 0 else t for n, t in signs.items()
    }
    nearest = {
        n: torch.where((t.abs() / initial[n].abs().clamp(min=1e-12)).log().abs() < 1, signs[n], initial[n])
        for n, t in stored.items()
    }
    return {"signs": signs, "turned": turned, "nearest": nearest}


def shuffled(weights: Weights, rng: np.random.Generator) -> dict[str, Tensor]:
    """Return the same numbers in random places within each tensor: all that a guess can use but where they stood."""
    return {n: t.flatten()[torch.from_numpy(rng.permutation(t.numel()))].view_as(t) for n, t in weights.items()}


class KnownModel(Attack):
    """Use what is known of other models, of a layer, or of the start, to open this one."""

    name: ClassVar[str] = "known_model"
    against: ClassVar[Attacker] = Attacker.FORMER_MEMBER
    question: ClassVar[str] = "Do opened earlier models, one opened layer or the public start open this model?"

    def applies(self, context: AuditContext) -> bool:
        """Whether the model has a field lock, and it is known what a guess is worth."""
        return context.run.model.header.lock == "field" and context.chance is not None

    def run(self, context: AuditContext) -> list[Finding]:
        """Open with earlier models of the same key, from one layer, and from the initial weights."""
        file = ModelFile(context)
        copies = file.copies(N_COPIES, context.rng(self.name))
        return [
            self._earlier_models(context, file, copies),
            *(self._one_layer(context, file, copies, first) for first in (True, False)),
            self._public_start(context, file, copies),
        ]

    def _earlier_models(self, context: AuditContext, file: ModelFile, copies: list[dict[str, Tensor]]) -> Finding:
        """Judge by what this model has over the earlier ones, for those the former member has anyway."""
        seed, rng = context.run.settings["seed"], context.rng(self.name, "earlier")
        others = [{"seed": seed + 1 + i} | context.without_noise for i in range(N_EARLIER)]
        runs = [context.repeat(**other).outcome.run for other in others]
        effective = [run.model.effective(context.run.key) for run in runs]
        salts = [salt for model in (file.model, *(r.model for r in runs)) for salt in model.header.salts.values()]

        def read(stored: Weights, old: list[dict[str, Tensor]], n: int) -> float:
            some = effective[:n]
            guess = opened_with(stored, fitted_field(list(zip(old[:n], some, strict=True))))
            return rank_correlation(_over(guess, some), _over(file.unlocked, some))

        table: tuple[list[float], list[float]] = ([], [])
        blind: tuple[list[float], list[float]] = ([], [])
        for number, stored in enumerate(copies):
            # The first trial has the files as they were saved, the others the same models under other salts.
            old = [
                file.locked_anew(e, rng) if number else dict(run.model.stored)
                for run, e in zip(runs, effective, strict=True)
            ]
            elsewhere = shuffled(stored, rng)
            for row, blind_row, n in zip(table, blind, (1, N_EARLIER), strict=True):
                row.append(read(stored, old, n))
                blind_row.append(read(elsewhere, old, n))
        salts_of_this = file.model.header.salts
        same = [lock_model(file.model.header, e, {}, file.key, salts=salts_of_this).stored for e in effective]
        return self._paired(
            file,
            "rank correlation with what is new in this model, earlier ones known",
            np.array(table),
            np.array(blind),
            f"{N_EARLIER} earlier models under the same key are known, locked and opened; {len(salts)} tensors had "
            f"{len(set(salts))} salts. Chance: this model's stored numbers in random places. Control: had all been locked "
            "under this model's salts.",
            control=read(file.model.stored, same, N_EARLIER),
        )

    def _one_layer(
        self, context: AuditContext, file: ModelFile, copies: list[dict[str, Tensor]], first: bool
    ) -> Finding:
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in file.unlocked))
        known = layers[0] if first else layers[-1]
        open_part = {n: t for n, t in file.unlocked.items() if n.rpartition(".")[0] == known}
        rng = context.rng(self.name, "layer", known)
        table: list[list[float]] = [[], [], []]
        blind: list[list[float]] = [[], [], []]
        for number, stored in enumerate(copies):
            usual = file.fresh(number)
            for results, weights in ((table, stored), (blind, shuffled(stored, rng))):
                for row, guess in zip(
                    results, (weights, clipped(weights, usual), rescaled(weights, usual)), strict=True
                ):
                    row.append(file.accuracy({**guess, **open_part}))
        what = "first" if first else "last"
        return self._paired(
            file,
            f"{context.task.headline}, {what} layer known",
            np.array(table),
            np.array(blind),
            f"The {what} layer is known, unlocked, and the others are stored weights, against the same numbers in random "
            "places (chance). Control: with the right key.",
        )

    def _public_start(self, context: AuditContext, file: ModelFile, copies: list[dict[str, Tensor]]) -> Finding:
        rng = context.rng(self.name, "start")

        def read(stored: Weights, unlocked: Weights = file.unlocked) -> list[float]:
            learned = _over(unlocked, [file.initial])
            guesses = guesses_from_start(stored, file.initial).values()
            return [rank_correlation(_over(guess, [file.initial]), learned) for guess in guesses]

        return self._paired(
            file,
            "rank correlation with what training changed, start known",
            np.array([read(stored) for stored in copies]).T,
            np.array([read(shuffled(stored, rng)) for stored in copies]).T,
            "Weights guessed from the stored ones and the initial ones, which the run's public seed gives. Chance: the "
            "stored numbers in random places. Control: the same guess where the file is not locked.",
            control=max(read(file.noiseless, file.noiseless)),
        )

    @staticmethod
    def _paired(
        file: ModelFile,
        metric: str,
        table: np.ndarray,
        blind: np.ndarray,
        note: str,
        *,
        control: float | None = None,
    ) -> Finding:
        """Judge variants (variants, trials) by what they gain over the same with shuffled numbers."""
        gain, chosen = cross_chosen(table - blind)
        chance = float(blind[chosen, np.arange(blind.shape[1])].mean())
        ends = interval(gain)
        return Finding(
            metric=metric,
            value=chance + ends["value"],
            low=chance + ends["low"],
            high=chance + ends["high"],
            trials=ends["trials"],
            chance=chance,
            control=file.right if control is None else control,
            promised=file.promised,
            margin=0.2,
            note=note,
        )


def _over(weights: Weights, known: Sequence[Weights]) -> np.ndarray:
    """Return what weights have over the mean of known ones, flat."""
    return torch.cat(
        [(w - torch.stack([k[name] for k in known]).mean(0)).ravel() for name, w in weights.items()]
    ).numpy()
