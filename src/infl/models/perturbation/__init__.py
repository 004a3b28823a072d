"""Perturbation regression: what happens to all genes when some are perturbed, for genes that no site perturbed."""

from infl.models.perturbation.task import Perturbation

__all__ = ["Perturbation"]
