"""Survival: how long until an event, by hazards in parts of time that sites agree on."""

from infl.models.survival.task import Survival

__all__ = ["Survival"]
