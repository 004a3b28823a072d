"""Regression of numbers that samples or cells have: several at once, with intervals that hold what they promise."""

from infl.models.regressor.task import Regressor

__all__ = ["Regressor"]
