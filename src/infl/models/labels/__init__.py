"""Several categorical columns at once, some of them ordered, of which records may lack some: one head for each on one trunk."""

from infl.models.labels.task import Labels

__all__ = ["Labels"]
