"""Can a patient's profile be read from an update? A row of the first layer's gradient over its bias's is the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.classifiers import rows_seen
from infl.attacks._kit.on_patients import OnPatients
from infl.attacks._kit.statistics import correlation
from infl.models.task import ADAM_EPS

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import Recorded


def gradient_of_step(update: np.ndarray, weights: np.ndarray, *, lr: float, weight_decay: float) -> np.ndarray:
    """Recover the gradient from the first step of AdamW, which is ``−lr (g / (|g| + ε) + λ θ)``.

    Examples
    --------
    >>> g = np.array([0.02, -3e-4])
    >>> step = -0.1 * (g / (np.abs(g) + ADAM_EPS))
    >>> np.allclose(gradient_of_step(step, np.zeros(2), lr=0.1, weight_decay=0.0), g)
    True
    """
    u = np.clip(-update / lr - weight_decay * weights, -1 + 1e-7, 1 - 1e-7)
    return ADAM_EPS * u / (1 - np.abs(u))


def profile(weight_gradient: np.ndarray, bias_gradient: np.ndarray) -> np.ndarray:
    """Return the input of a linear layer from one record's gradients ∂W = δ xᵀ and ∂b = δ, by least squares."""
    return bias_gradient @ weight_gradient / max(float(bias_gradient @ bias_gradient), 1e-30)


def first_layer_gradients(recorded: Recorded) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read each site's message as a listener does: the gradient of the first layer's weight (out, in) and bias (out,)."""
    replica = recorded.outcome.replica
    task, n = replica.task, len(recorded.outcome.sites)
    from infl.federation.initial import build_flat_model

    initial = build_flat_model(task, replica.agreement, replica.start).copy_shared().numpy()  # the seed is public
    gradients = {}
    for update in recorded.updates():
        change = update.values * n  # one patient a site: every weight is 1 / n
        flat = gradient_of_step(change, initial, lr=task.lr, weight_decay=task.weight_decay)
        tensors = recorded.tensors(flat)
        name = next(k for k, v in tensors.items() if v.ndim == 2)
        gradients[update.site] = (tensors[name], tensors[name.removesuffix("weight") + "bias"])
    return gradients


def true_profiles(recorded: Recorded) -> dict[str, np.ndarray]:
    """Return what the first layer really saw, by site."""
    return {s: rows_seen(recorded.outcome.replica, m.data)[0] for s, m in recorded.outcome.sites.items()}


class AnalyticLeak(OnPatients):
    """Read a patient's whole profile from one training step on it."""

    name: ClassVar[str] = "analytic_leak"
    question: ClassVar[str] = "Can the coordinator read a patient's profile from a hospital's update?"
    n_repeats: ClassVar[int] = 4
    metric: ClassVar[str] = "correlation with the patient's profile"
    margin: ClassVar[float] = 0.5
    note: ClassVar[str] = (
        "One training step on one patient; the listener knows the model's start, the optimiser and its settings."
    )

    def read(self, recorded: Recorded) -> list[float]:
        """Correlate what is read with the truth."""
        truth = true_profiles(recorded)
        gradients = first_layer_gradients(recorded)
        return [correlation(profile(weight, bias), truth[site]) for site, (weight, bias) in gradients.items()]
