"""What a task may declare beside :class:`infl.models.Task`; whoever needs it asks by ``isinstance``, never by a task's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@runtime_checkable
class Embeds(Protocol):
    """A task that can write its latent alone."""

    def embed(self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], *, key_added: str) -> None:
        """Write ``obsm["X_" + key_added]``."""


@runtime_checkable
class ReadsLayer(Protocol):
    """A task with an option for the layer to read (None: ``X``)."""

    @property
    def layer(self) -> str | None:
        """The layer."""


@runtime_checkable
class ReadsModality(Protocol):
    """A task with an option for the modality of a ``MuData`` to read (None: none, or all together)."""

    @property
    def modality(self) -> str | None:
        """The modality."""


@runtime_checkable
class ChoosesFeatures(Protocol):
    """A task with an option for its panel: the features that all sites have (``"intersection"``), or any (``"union"``)."""

    @property
    def features(self) -> str:
        """Which features."""
