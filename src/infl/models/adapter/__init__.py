"""Several tasks at once by an adapter on a pretrained transformer: cell sentences, rank-one experts, one head per task."""

from infl.models.adapter.bases import load_base
from infl.models.adapter.task import Adapter

__all__ = ["Adapter", "load_base"]
