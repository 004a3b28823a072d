"""Which features matter? What the stored first layer tells of that, against what the unlocked one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.model_file import ModelFile
from infl.attacks._kit.statistics import interval, rank_correlation
from infl.models.phenotype.task import Phenotype
from infl.models.protocols import ClassProbabilities

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext

N_COPIES = 24
TOP = 8
"""Features that a thief keeps; few, so that it matters which."""


def column_norms(weight: np.ndarray) -> np.ndarray:
    """Return the norm of each column of a layer's weight (out, in): (in,)."""
    return np.linalg.norm(weight, axis=0)


GUESSES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "norm": lambda stored, initial: column_norms(stored),
    "norm of the change from the public start": lambda stored, initial: column_norms(stored - initial),
    "norm of the change in size": lambda stored, initial: column_norms(np.abs(stored) - np.abs(initial)),
    "mean size": lambda stored, initial: np.abs(stored).mean(0),
    "median size": lambda stored, initial: np.median(np.abs(stored), axis=0),
    "largest": lambda stored, initial: np.abs(stored).max(0),
    "mean": lambda stored, initial: stored.mean(0),
}
"""Guesses of each feature's importance (in,) from the stored and the public initial weights (out, in)."""


def best_guess(stored: np.ndarray, initial: np.ndarray, true: np.ndarray, rng: np.random.Generator) -> float:
    """Return the rank correlation of the best guess with the truth, found on half of the features, taken on the other."""
    first, second = np.array_split(rng.permutation(len(true)), 2)
    on_first = {name: rank_correlation(g(stored, initial)[first], true[first]) for name, g in GUESSES.items()}
    name = max(on_first, key=lambda n: abs(on_first[n]))
    return float(np.sign(on_first[name]) * rank_correlation(GUESSES[name](stored, initial)[second], true[second]))


def accuracy_with(x: np.ndarray, y: np.ndarray, features: np.ndarray, rng: np.random.Generator) -> float:
    """Return the cross-validated balanced accuracy of a logistic regression on a few features (n, in); what is missing is their mean."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    means = SimpleImputer(keep_empty_features=True)
    model = make_pipeline(means, StandardScaler(), LogisticRegression(max_iter=300, class_weight="balanced"))
    folds = StratifiedKFold(
        int(np.clip(np.bincount(y).min(), 2, 3)), shuffle=True, random_state=int(rng.integers(2**31))
    )
    return float(cross_val_score(model, x[:, features], y, cv=folds, scoring="balanced_accuracy").mean())


class ImportanceThief(Attack):
    """Rank features by the stored first layer, and keep the first of them."""

    name: ClassVar[str] = "importance_thief"
    against: ClassVar[Attacker] = Attacker.THIEF
    question: ClassVar[str] = "Does the file tell a thief which features matter?"
    quick: ClassVar[bool] = True

    def applies(self, context: AuditContext) -> bool:
        """Whether a layer has named features as its columns."""
        return first_layer(context) is not None

    def run(self, context: AuditContext) -> list[Finding]:
        """Correlate ranks over several lockings of the model, then train on the features that come first."""
        file, name = ModelFile(context), first_layer(context)
        assert name is not None
        initial, unlocked = (w[name].numpy().astype(float) for w in (file.initial, file.unlocked))
        copies = [c[name].numpy().astype(float) for c in file.copies(N_COPIES, context.rng(self.name))]
        # A trained layer is its start, which is public, and what was learned: importance is in the change.
        true = column_norms(unlocked - initial)
        rng = context.rng(self.name, "halves")
        found = [best_guess(stored, initial, true, rng) for stored in copies]
        ends = interval(found)
        if len(found) == 1:  # one file: the interval is that over its features
            half = 1.96 / (len(true) / 2) ** 0.5
            ends |= {"low": found[0] - half, "high": found[0] + half, "trials": len(true) // 2}
        findings = [
            Finding(
                metric="rank correlation with the features' importance",
                **ends,
                chance=0.0,
                control=best_guess(unlocked, initial, true, rng),
                promised=file.promised,
                margin=0.3,
                note=f"The best of {len(GUESSES)} ways to guess from a stored layer how far training moved each "
                "feature's weights. Control: from the unlocked layer.",
            )
        ]
        return findings + (
            self._keep_the_best(context, file, copies, initial, name)
            if isinstance(context.task, ClassProbabilities)
            else []
        )

    def _keep_the_best(
        self, context: AuditContext, file: ModelFile, copies: list[np.ndarray], initial: np.ndarray, name: str
    ) -> list[Finding]:
        data = [d.batch(np.union1d(d.train, d.validation)) for d in context.judging(keyless=False)]
        x, y = (np.concatenate([part[i].numpy() for part in data]) for i in (0, 1))
        rng = context.rng(self.name, "top")

        def mean_of(choices: list[np.ndarray]) -> list[float]:
            return [accuracy_with(x, y, features, rng) for features in choices]

        def top(stored: np.ndarray) -> list[np.ndarray]:
            return [np.argsort(-guess(stored, initial))[:TOP] for guess in list(GUESSES.values())[:2]]

        def kept(stored: list[np.ndarray]) -> np.ndarray:
            return np.array([float(np.mean(mean_of(top(one)))) for one in stored])

        stolen = kept(copies)
        # Under differential privacy training moves all features alike, so the control is what it would find without noise.
        plain = file.noiseless[name].numpy().astype(float)
        if (
            len(copies) > 1
        ):  # what the public start gives under as many locks: features of large weights there come first, too
            starts = [file.locked_anew(file.initial, rng)[name].numpy().astype(float) for _ in copies]
            blind = kept(starts)
            chance, gain = float(blind.mean()), interval(stolen - blind)
            ends = {end: chance + gain[end] for end in ("value", "low", "high")} | {"trials": gain["trials"]}
        else:
            some = [rng.choice(initial.shape[1], min(TOP, initial.shape[1]), replace=False) for _ in range(N_COPIES)]
            chance, ends = float(np.mean(mean_of(some))), interval(stolen)
        known = mean_of([np.argsort(-column_norms(plain - initial))[:TOP]] * 3)
        return [
            Finding(
                metric=f"balanced accuracy with the {TOP} features that come first",
                **ends,
                chance=chance,
                control=float(np.mean(known)),
                promised=file.promised,
                margin=0.08,
                note="A new model on the features that the stored layer puts first, against those that the locked public start "
                "puts first (chance; for an open file features drawn at random) and the unlocked layer (control).",
            )
        ]


def first_layer(context: AuditContext) -> str | None:
    """Return the name of a weight matrix whose columns are the panel's features, and covariates beside them."""
    task, features = context.task, list(context.panel.get("features", ()))
    if isinstance(task, Phenotype):
        features = task.inputs(context.panel)
    for name, axes in task.units(context.panel).items():
        if list(axes.get(1, ())) == features and features:
            return name
    return None
