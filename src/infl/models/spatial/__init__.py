"""Spatial domains: regions of tissue sections that mean the same at all sites."""

from infl.models.spatial.task import Spatial

__all__ = ["Spatial"]
