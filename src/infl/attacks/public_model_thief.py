"""The file beside a public model of the same kind: what the one has is matched with the other, and the rest filled in.

The thief has some public samples, and a model fitted to them from the run's public start. Three kinds of files are judged: of a
run on the same panel; of a model that was begun from the public one; and of one whose last layer alone was trained, so that all
other weights are the public ones, and their locked copies are known plaintext. What counts is what the file adds to the public
model alone, trained on or not.

References
----------
Tramèr et al., Stealing machine learning models via prediction APIs, USENIX Security 2016 (a copy is worth what it is worth
beside a model that the thief makes alone). The estimate of :func:`expected_weights` is Bayes' rule on the lock's own
construction (``docs/decisions/0002-affine-coordinate-field.md``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from infl.attacks._kit.fine_tuning import Way, fine_tune
from infl.attacks._kit.model_file import parameters
from infl.attacks._kit.theft import Task, Theft, Thief, draw
from infl.attacks.known_model import guesses_from_start
from infl.nn.field import KAPPA, TensorField

if TYPE_CHECKING:
    from infl.attacks._kit.weights import Weights
    from infl.nn.field import Units

SURE = 3.0
"""Standard deviations by which a direction must beat chance to be believed."""
N_SIZES = 6
"""Values of log |M| that are tried for each weight."""
CASES = {
    "same panel": "of a run on the same panel",
    "begun from it": "of a model begun from the public one",
    "last layer trained": "whose last layer alone was trained, the others being the public ones",
}


def by_direction(stored: Weights, public: Weights, axis: int) -> dict[str, Tensor]:
    """Return the public weights, with each row (axis 0) or column (axis 1) that the file has in the same direction from there.

    A row counts where its cosine with the public one is beyond chance, and is taken at the public one's length, in its direction.

    Examples
    --------
    >>> public = {"w": torch.eye(20)}
    >>> stored = {"w": torch.eye(20) * -3 + 0.1}
    >>> round(float(by_direction(stored, public, 0)["w"][0, 0]), 2)
    0.99
    """
    result = {}
    for name, p in public.items():
        s = stored[name]
        if p.ndim < 2:
            result[name] = p.clone()
            continue
        along = 1 - axis
        lengths = [w.norm(dim=along, keepdim=True).clamp(min=1e-12) for w in (s, p)]
        cosine = (s * p).sum(along, keepdim=True) / (lengths[0] * lengths[1])
        like = s * cosine.sign() * (lengths[1] / lengths[0])
        result[name] = torch.where(cosine.abs() > SURE / p.shape[along] ** 0.5, like, p)
    return result


def expected_weights(
    stored: Tensor, public: Tensor, distance: float, strength: float, units: Units | None = None
) -> Tensor:
    """Return the mean of what a locked tensor's weights can be, for somebody who knows the lock and a tensor near them.

    By Bayes' rule: a weight is normal around the public one with deviation `distance`; M has either sign and one of several
    sizes, A is normal with the deviation that the shape gives, and the gains of rows and columns are read off the sizes of the
    stored numbers. The result is the public tensor, moved by what the stored one says.

    Parameters
    ----------
    stored, public
        The locked tensor, and the one that is near the effective one.
    distance
        Standard deviation of the effective weights around the public ones.
    strength
        Of the lock.
    units
        Names of the tensor's axes, as the lock has them.

    Examples
    --------
    >>> public = torch.ones(4, 4)
    >>> torch.equal(expected_weights(2 * public, public, 0.1, 0.0), 2 * public)  # not locked
    True
    """
    if strength == 0:
        return stored.clone()
    from scipy.stats import norm

    term = TensorField(bytes(32), tuple(stored.shape), dict(units or {}), strength).scale
    s, p = stored.double(), public.double()
    if s.ndim >= 2:
        logs = s.abs().clamp(min=1e-30).log()
        for axis in range(s.ndim):
            others = [a for a in range(s.ndim) if a != axis]
            logs_of_units = logs.mean(others, keepdim=True) - logs.mean()
            s = s * torch.exp(-logs_of_units)
    kappa, flip = KAPPA * strength, strength / 2
    sizes = torch.from_numpy(np.exp(kappa * np.tanh(norm.ppf((np.arange(N_SIZES) + 0.5) / N_SIZES))))
    m = torch.cat([sizes, -sizes])
    prior = torch.cat([torch.full((N_SIZES,), 1 - flip), torch.full((N_SIZES,), flip)]).double().log()
    total, pull = distance**2 + term**2, distance**2 / (distance**2 + term**2)
    best, weight, moved = torch.full_like(s, -torch.inf), torch.zeros_like(s), torch.zeros_like(s)
    for factor, log_prior in zip(m, prior, strict=True):  # a running sum over M, with the largest logarithm taken out
        open_ = s * factor  # W − A
        log = log_prior - (open_ - p) ** 2 / (2 * total) + factor.abs().log()
        largest = torch.maximum(best, log)
        old, new = torch.exp(best - largest), torch.exp(log - largest)
        weight, moved = weight * old + new, moved * old + new * (open_ - p)
        best = largest
    return (p + pull * moved / weight).to(stored.dtype)


class PublicModelThief(Thief):
    """Complete a stolen file by a public model, against the public model alone.

    Examples
    --------
    >>> PublicModelThief().cases
    ('same panel', 'begun from it', 'last layer trained')
    """

    name: ClassVar[str] = "public_model_thief"
    question: ClassVar[str] = "Does the file add anything to a public model of the same kind?"
    stolen: ClassVar[Mapping[str, Way]] = {
        "columns by direction": Way("columns"),
        "rows by direction": Way("rows"),
        "expected weights": Way("expected"),
        "stored sizes near public ones": Way("nearest"),
    }
    free: ClassVar[Mapping[str, Way]] = {"public": Way("public"), "public, last layer alone": Way("public", frozen=1.0)}
    unlocked: ClassVar[Mapping[str, Way]] = {"unlocked": Way("unlocked")}
    n_trials: ClassVar[int] = 5
    n_samples: ClassVar[int] = 8
    learning_rates: ClassVar[Sequence[float]] = (0.0, 1e-3)

    @property
    def cases(self) -> tuple[str, ...]:
        """Three kinds of files."""
        return tuple(CASES)

    def prepare(self, theft: Theft, n: int, case: str) -> Task:
        """Fit the public model, make the file of the case, and complete it in several ways."""
        (x, y), file = theft.samples, theft.file
        train, judge = draw(y.numpy(), n, theft.rng(self.name))
        public = parameters(fine_tune(theft.module, file.initial, x[train], y[train], lr=1e-3, way=Way("")))
        unlocked, stored = file.unlocked, dict(file.model.stored)
        if case != "same panel":
            only_last = case == "last layer trained"
            way, lr = Way("", frozen=float(only_last)), 1e-2 if only_last else 1e-3
            unlocked = parameters(fine_tune(theft.module, public, *theft.cohort, lr=lr, way=way))
            stored = file.locked_anew(unlocked, theft.rng(self.name, case))
        begin = self.completed(theft, stored, public)
        if case == "last layer trained":  # all else is known
            known = {name: w for name, w in public.items() if not name.startswith("head")}
            begin = {name: {**weights, **known} for name, weights in begin.items()}
        return Task(begin | {"public": public, "unlocked": unlocked}, (x[train], y[train]), (x[judge], y[judge]))

    @staticmethod
    def completed(theft: Theft, stored: Weights, public: Weights) -> dict[str, Weights]:
        """Return guesses of the effective weights, by name."""
        file, header = theft.file, theft.file.model.header
        units = file.task.units(header.panel)
        strength = header.strength if header.lock == "field" else 0.0
        # Training moves weights some way from the public ones, about as far as it moved those from their start.
        distance = {name: float((p - file.initial[name]).std(correction=0)) + 1e-6 for name, p in public.items()}
        return {
            "columns": by_direction(stored, public, 1),
            "rows": by_direction(stored, public, 0),
            "expected": {
                name: expected_weights(stored[name], p, 2 * distance[name], strength, units.get(name))
                for name, p in public.items()
            },
            "nearest": guesses_from_start(stored, public)["nearest"],
        }

    def described(self, n: int, case: str, how: str) -> tuple[str, str]:
        """Name the kind of file, and the best way."""
        return (
            f"balanced accuracy with {n} public samples, file {case}",
            f"A file {CASES[case]} is completed by it in {len(self.stolen)} ways (best: {how}), against the public "
            "model alone (chance). Control: the unlocked file.",
        )
