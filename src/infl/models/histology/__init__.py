"""Histology to expression: what stained tissue around a spot says of its genes."""

from infl.models.histology.task import Histology

__all__ = ["Histology"]
