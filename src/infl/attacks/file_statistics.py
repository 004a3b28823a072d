"""What the file says without a key: does any number in it follow the cohort's?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.audit_context import UNPROTECTED
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.model_file import ModelFile
from infl.attacks._kit.statistics import correlation, interval, rank_correlation
from infl.attacks.importance_thief import first_layer

if TYPE_CHECKING:
    from torch import Tensor

    from infl.attacks._kit.audit_context import AuditContext
    from infl.models.locked import LockedModel

N_COPIES = 8
N_COHORTS = 40
FEW = 8
"""Arrays of up to this many numbers are read number by number."""
FEW_BEST = 5


def per_feature(model: LockedModel, name: str, stored: Tensor | None = None) -> dict[str, np.ndarray]:
    """Return every number that a file has for each feature: statistics of columns, and open private arrays."""
    weight = (model.stored[name] if stored is None else stored).numpy().astype(float)
    numbers = {
        "mean": weight.mean(0),
        "mean size": np.abs(weight).mean(0),
        "spread": weight.std(0),
        "largest": np.abs(weight).max(0),
    }
    if not model.header.fingerprint:
        private = model.private_arrays(None)
        numbers |= {k: v for k, v in private.items() if np.shape(v) == (weight.shape[1],)}
    return numbers


def per_file(model: LockedModel) -> np.ndarray:
    """Return the numbers of a whole file: sizes, summaries of each tensor, and small arrays as they are."""
    arrays = {name: t.numpy().astype(float) for name, t in model.stored.items()}
    if not model.header.fingerprint:
        arrays |= {name: np.asarray(v, dtype=float) for name, v in model.private_arrays(None).items()}
    numbers = [float(len(model.private))]
    for name in sorted(arrays):
        a = arrays[name].ravel()
        numbers += a.tolist() if len(a) <= FEW else [a.mean(), a.std(), np.abs(a).mean(), np.abs(a).max()]
    return np.array(numbers)


def best_reading(numbers: dict[str, np.ndarray], truths: dict[str, np.ndarray], rng: np.random.Generator) -> float:
    """Return the rank correlation of the number and the truth that go together best, over features.

    Which ones, and the sign, is found on half of the features; the correlation is taken on the other half.
    """
    n = len(next(iter(truths.values())))
    first, second = np.array_split(rng.permutation(n), 2)
    pairs = [(a, b) for a in numbers.values() for b in truths.values()]
    on_first = [rank_correlation(a[first], b[first]) for a, b in pairs]
    best = int(np.argmax(np.abs(on_first)))
    a, b = pairs[best]
    return float(np.sign(on_first[best]) * rank_correlation(a[second], b[second]))


def linear_reading(numbers: np.ndarray, truth: np.ndarray, folds: int = 5) -> float:
    """Return the correlation of a cohort's number with what a regression on the files' numbers that follow it best says.

    Parameters
    ----------
    numbers
        One row a file. ``(files, numbers)``
    truth
        ``(files,)``; predicted for files that the regression has not seen.
    folds
        Of the cross-validation.
    """
    from sklearn.feature_selection import SelectKBest, VarianceThreshold, r_regression
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    best = SelectKBest(lambda x, y: np.abs(r_regression(x, y)), k=min(FEW_BEST, numbers.shape[1]))
    model = make_pipeline(VarianceThreshold(), StandardScaler(), best, RidgeCV(np.logspace(-3, 2, 6)))
    predicted = cross_val_predict(model, numbers, truth, cv=KFold(folds))
    return correlation(predicted, truth)


class FileStatistics(Attack):
    """Look for the cohort in the file: feature by feature, and over files of many cohorts."""

    name: ClassVar[str] = "file_statistics"
    against: ClassVar[Attacker] = Attacker.THIEF
    question: ClassVar[str] = "Does any number in the file follow the cohort's averages, sizes or mix?"
    quick: ClassVar[bool] = True

    def applies(self, context: AuditContext) -> bool:
        """Whether the task keeps moments of named features."""
        return first_layer(context) is not None and "center" in context.unprotected.outcome.replica.private

    def run(self, context: AuditContext) -> list[Finding]:
        """Read the features of this file, then the sizes and mixes of many cohorts from a file each."""
        return [self._features(context), *self._cohorts(context)]

    def _features(self, context: AuditContext) -> Finding:
        file, name = ModelFile(context), first_layer(context)
        assert name is not None
        private = context.unprotected.outcome.replica.private
        truths = {"mean": private["center"], "spread": private["scale"]}
        rng = context.rng(self.name)
        found = [
            best_reading(per_feature(file.model, name, copy[name]), truths, rng)
            for copy in file.copies(N_COPIES, context.rng(self.name, "copies"))
        ]
        ends = interval(found)
        if len(found) == 1:  # one file: the interval is that over its features
            half = 1.96 / (len(truths["mean"]) / 2) ** 0.5
            ends |= {"low": found[0] - half, "high": found[0] + half, "trials": len(truths["mean"]) // 2}
        return Finding(
            metric="rank correlation with the cohort's mean or spread of a feature",
            **ends,
            chance=0.0,
            control=best_reading(per_feature(context.unprotected.model, name), truths, rng),
            promised=file.promised,
            margin=0.4,
            note="The number in the file that follows the features' averages best. Control: a file that nothing protects.",
        )

    def _cohorts(self, context: AuditContext) -> list[Finding]:
        classes = context.panel.get("classes", ())
        if not classes:
            return []
        files: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        truths = []
        labels = {s: self._labels(context, s) for s in context.sites}
        for number in range(N_COHORTS):
            rng = context.rng(self.name, "cohort", number)
            keep = rng.uniform(0.3, 1.0, len(classes))  # of each class: cohorts of many sizes and mixes
            chosen = {s: np.flatnonzero(rng.random(len(y)) < keep[y]) for s, y in labels.items()}
            chosen = {s: i if len(i) >= 2 else np.arange(len(labels[s])) for s, i in chosen.items()}
            sites = {s: a[chosen[s]] for s, a in context.sites.items()}
            # Other sums give other salts; under the same ones the files' differences would be locked by M alone.
            for where, changes in zip(files, ({}, UNPROTECTED), strict=True):
                recorded = context.repeat(sites, rounds=1, patience=0, participation=1.0, **changes)
                where.append(per_file(recorded.model))
            y = np.concatenate([labels[s][i] for s, i in chosen.items()])
            truths.append([len(y), *(np.bincount(y, minlength=len(classes)) / len(y))])
        table = np.array(truths, dtype=float)  # (cohorts, 1 + classes)
        stolen, open_ = ([linear_reading(np.stack(f), t) for t in table.T] for f in files)
        half = 1.96 / (N_COHORTS * len(stolen)) ** 0.5  # class shares are nearly independent of each other
        return [
            Finding(
                metric="correlation with a cohort's size and mix of classes",
                value=float(np.mean(stolen)),
                low=float(np.mean(stolen)) - half,
                high=float(np.mean(stolen)) + half,
                trials=N_COHORTS,
                chance=0.0,
                control=float(np.mean(open_)),
                promised=ModelFile(context).promised,
                margin=0.4,
                note=f"All numbers of a file, its sizes too, read by a regression that has seen files of other cohorts; "
                f"{N_COHORTS} cohorts. Control: files that nothing protects.",
            )
        ]

    @staticmethod
    def _labels(context: AuditContext, site: str) -> np.ndarray:
        adata = context.sites[site]
        data = context.task.read(adata, context.panel, site=site, rng=context.rng("labels"))
        return data.batch(np.arange(adata.n_obs))[1].numpy()
