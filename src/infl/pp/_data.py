"""Checks of sites' objects that precede every function of this package; public here."""

from infl.data.check import panel_of
from infl.data.columns import obs_column
from infl.data.panel import Panel
from infl.data.split import split_sites

__all__ = ["Panel", "obs_column", "panel_of", "split_sites"]
