"""Single-cell integration: scvi-tools' own SCVI module, trained under lock and seal."""

from infl.models.scvi.task import Scvi

__all__ = ["Scvi"]
