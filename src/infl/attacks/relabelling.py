"""Does a stored column still say whose it is? Features matched to those of a model that the thief has of public data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.model_file import ModelFile
from infl.attacks._kit.statistics import cross_chosen, interval, most_chosen
from infl.attacks.importance_thief import first_layer

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext

N_COPIES = 8
MOST_FEATURES = 1000
"""More are a sample of the panel: tables of similarities grow with the square."""

VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "weights": lambda w: w,
    "sizes": np.abs,
    "signs": np.sign,
    "sizes in order": lambda w: np.sort(np.abs(w), axis=0),
}
"""What of a column (out, in) is compared."""


def matched_features(columns: np.ndarray, reference: np.ndarray) -> float:
    """Return the share of columns (out, in) that are most like the reference's column of the same feature.

    Alike is what correlates, with either sign.

    Examples
    --------
    >>> w = np.random.default_rng(0).normal(size=(20, 50))
    >>> matched_features(-3 * w, w)
    1.0
    """
    a, b = (m - m.mean(0) for m in (columns, reference))
    a, b = (m / np.maximum(np.linalg.norm(m, axis=0), 1e-12) for m in (a, b))
    return float((np.abs(a.T @ b).argmax(1) == np.arange(a.shape[1])).mean())


class Relabelling(Attack):
    """Match the file's features with a model of public data, as somebody would who wants to use the file's weights there."""

    name: ClassVar[str] = "relabelling"
    against: ClassVar[Attacker] = Attacker.THIEF
    question: ClassVar[str] = "Can features of the file be matched with those of a model of public data?"
    quick: ClassVar[bool] = True

    def applies(self, context: AuditContext) -> bool:
        """Whether a layer has named features as its columns."""
        return first_layer(context) is not None

    def run(self, context: AuditContext) -> list[Finding]:
        """Compare columns with the public start's, and with those of a model of the very same data, unprotected.

        No public data could be better than the cohort's own.
        """
        file, name = ModelFile(context), first_layer(context)
        assert name is not None
        rng = context.rng(self.name)
        n = file.unlocked[name].shape[1]
        some = np.sort(rng.permutation(n)[:MOST_FEATURES])
        references = [w[name].numpy()[:, some] for w in (file.initial, context.unprotected.model.stored)]
        ways = [(view, number) for view in VIEWS for number in range(len(references))]

        def found(weight: np.ndarray) -> list[float]:
            return [matched_features(VIEWS[v](weight[:, some]), VIEWS[v](references[number])) for v, number in ways]

        table = np.array([found(copy[name].numpy()) for copy in file.copies(N_COPIES, rng)]).T  # (ways, copies)
        best, chosen = cross_chosen(table)
        ends = interval(best)
        if len(best) == 1:  # one file: the interval is that over its features
            half = 1.96 * (best[0] * (1 - best[0]) / len(some)) ** 0.5
            ends |= {"low": best[0] - half, "high": best[0] + half, "trials": len(some)}
        way = most_chosen([f"{view} beside the {('start', 'model')[number]}'s" for view, number in ways], chosen)
        return [
            Finding(
                metric="share of features that are recognised",
                **ends,
                chance=1 / len(some),
                control=max(v for v, (_, of) in zip(found(file.noiseless[name].numpy()), ways, strict=True) if of == 0),
                promised=file.promised,
                margin=0.05,
                note="Columns of the stored first layer beside those of the public start and of a model of the same data; "
                f"the best of {len(ways)} ways ({way}). Control: the unlocked layer beside the start's.",
            )
        ]
