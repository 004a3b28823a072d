"""Label transfer over sites: scvi-tools' SCANVI module, where some cells or whole sites have no labels."""

from infl.models.scanvi.task import Scanvi

__all__ = ["Scanvi"]
