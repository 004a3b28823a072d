"""Mosaic integration: sites that measured different modalities, one latent, one naming of domains, what is missing imputed."""

from infl.models.mosaic.task import Mosaic

__all__ = ["Mosaic"]
