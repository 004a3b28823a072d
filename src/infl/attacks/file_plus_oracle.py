"""The file and the model's predictions together: does the one help to copy the other?

Somebody may be served predictions with the right key, and steal the locked file beside it. Predictions alone are enough to
distil a copy; the question is whether the file adds to that.

References
----------
Jagielski et al., High accuracy and high fidelity extraction of neural networks, USENIX Security 2020 (agreement with the model
as the measure, and distillation as what extraction is compared with). Zhang et al., mixup, ICLR 2018 (mixtures as inputs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch

from infl.attacks._kit.fine_tuning import FREE, STOLEN, UNLOCKED, Way
from infl.attacks._kit.starts import starts
from infl.attacks._kit.theft import Task, Theft, Thief, draw

N_QUERIES = 64
"""Inputs that the thief asks about: own samples, and mixtures of two of them."""


def mixtures(samples: np.ndarray, of: int, n: int, rng: np.random.Generator) -> torch.Tensor:
    """Return weights (n, of) of inputs to ask about: each of the samples, then mixtures of two.

    Examples
    --------
    >>> weights = mixtures(np.array([0, 2]), 3, 4, np.random.default_rng(0))
    >>> weights[:2].tolist(), weights.sum(1).round().tolist(), weights[:, 1].tolist()
    ([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
    """
    weights = torch.eye(of)
    pairs = torch.from_numpy(rng.choice(samples, (max(n - len(samples), 0), 2)))
    share = torch.from_numpy(rng.beta(1, 1, (len(pairs), 1))).float()
    return torch.cat([weights[samples], share * weights[pairs[:, 0]] + (1 - share) * weights[pairs[:, 1]]])


class FilePlusOracle(Thief):
    """Distil a copy beginning with the stolen file, against distilling one from the predictions alone.

    Examples
    --------
    >>> "scratch" in FilePlusOracle.free, "as stored" in FilePlusOracle.stolen
    (True, True)
    """

    name: ClassVar[str] = "file_plus_oracle"
    question: ClassVar[str] = "Does the file help somebody who is served the model's predictions to copy the model?"
    stolen: ClassVar[Mapping[str, Way]] = {
        **{n: STOLEN[n] for n in ("as stored", "cut to the usual range", "signs of the largest weights searched")},
        "as stored, last layer alone": Way("stored", frozen=1.0),
        **{f"a field of {f}": Way("rescaled", field=f) for f in ("smooth", "whole")},
    }
    free: ClassVar[Mapping[str, Way]] = {
        **{
            n: FREE[n] for n in ("scratch", "scratch, signs searched", "public start", "public start, last layer alone")
        },
        **{f"public start, a field of {f}": Way("initial", field=f) for f in ("smooth", "whole")},
    }
    unlocked: ClassVar[Mapping[str, Way]] = {name: UNLOCKED[name] for name in ("unlocked, last layer alone",)}
    n_trials: ClassVar[int] = 8
    learning_rates: ClassVar[Sequence[float]] = (5e-3,)

    def prepare(self, theft: Theft, n: int, case: str) -> Task:
        """Ask for predictions on own samples and mixtures; what is judged is agreement on other samples."""
        (x, y), file, rng = theft.samples, theft.file, theft.rng(self.name)
        train, judge = draw(y.numpy(), n, rng)
        asked = mixtures(train, len(x), N_QUERIES, rng)
        answers = theft.predictions(asked)
        inputs = torch.cat([asked @ x, x])  # the others are unlabelled, and nobody was asked about them
        begin = starts(
            theft.module,
            file.model.stored,
            file.fresh(theft.number),
            file.initial,
            inputs,
            np.arange(len(asked)),
            torch.cat([answers, torch.full((len(x), answers.shape[1]), 1 / answers.shape[1])]),
        )
        says = theft.predictions(torch.eye(len(x))[judge]).argmax(1)
        return Task(begin | {"unlocked": file.unlocked}, (asked @ x, answers), (x[judge], says))

    def described(self, n: int, case: str, how: str) -> tuple[str, str]:
        """Name the best way."""
        return (
            f"agreement with the model, predictions on {n} own samples known",
            f"A copy distilled from {N_QUERIES} predictions, beginning with the stolen file in "
            f"{len(self.stolen)} ways (best: {how}), against the same without the file (chance). Control: beginning with the "
            "unlocked file.",
        )
