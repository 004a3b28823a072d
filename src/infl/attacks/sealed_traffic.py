"""Is the seal noise? A probe that tries to tell from a message which hospital sent it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from infl.attacks._kit.audit_context import UNPROTECTED
from infl.attacks._kit.contract import Attack, Attacker, Finding

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext, Recorded

N_ROUNDS = 50
N_WORDS = 1500


def probe(messages: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return whether each message's label was guessed (n,), by cross-validated logistic regression on its numbers.

    Features: the values, standardised, and their differences to the round before of the same sender.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(5, shuffle=True, random_state=int(rng.integers(2**31)))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
    return cross_val_predict(model, messages, labels, cv=folds) == labels


class SealedTraffic(Attack):
    """Tell hospitals apart by their messages, over many rounds."""

    name: ClassVar[str] = "sealed_traffic"
    against: ClassVar[Attacker] = Attacker.COORDINATOR
    question: ClassVar[str] = "Do sealed messages look like noise to whoever carries them?"
    quick: ClassVar[bool] = True

    def applies(self, context: AuditContext) -> bool:
        """Whether there are two sites to tell apart."""
        return len(context.sites) > 1

    def run(self, context: AuditContext) -> list[Finding]:
        """Probe the run's messages, an unprotected run's, and the run's with masks reused."""
        rounds: dict[str, Any] = {"rounds": N_ROUNDS, "patience": 0}
        protected = self._guessed(context, context.repeat(**rounds))
        control = self._guessed(context, context.repeat(**rounds, **UNPROTECTED))
        n = len(protected)
        half = 1.96 * (protected.mean() * (1 - protected.mean()) / n) ** 0.5
        return [
            Finding(
                metric="accuracy of guessing the sender of a message",
                value=float(protected.mean()),
                low=float(protected.mean() - half),
                high=float(protected.mean() + half),
                trials=n,
                chance=0.5,
                control=float(control.mean()),
                promised=context.sealed,
                margin=0.2,
                note=f"A trained probe looks at {n} messages of pairs of hospitals and guesses which of the two sent each.",
            )
        ]

    def _guessed(self, context: AuditContext, recorded: Recorded) -> np.ndarray:
        rng, updates = context.rng(self.name), list(recorded.updates())
        places = rng.choice(len(updates[0].values), min(N_WORDS, len(updates[0].values)), replace=False)
        sites, guessed = list(recorded.outcome.sites), []
        for first, second in zip(sites[::2], sites[1::2], strict=False):
            of_two = [u for u in updates if u.site in (first, second)]
            values = np.stack([u.values[places] for u in of_two])
            guessed.append(probe(values, np.array([u.site == first for u in of_two]).astype(int), rng))
        return np.concatenate(guessed)
