"""Several categorical columns at once, some of them ordered: one head for each on one trunk. Records may lack labels."""

from infl.models.labels.task import Labels

__all__ = ["Labels"]
