"""Locking a model that scvi-tools trained."""

from infl.models.scvi_exchange import from_scvi

__all__ = ["from_scvi"]
