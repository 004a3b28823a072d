"""What a task may declare beside :class:`infl.models.Task`; whoever needs it asks by ``isinstance``, never by a task's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@runtime_checkable
class ClassProbabilities(Protocol):
    """A task that gives each observation, a row of features, the probability of each class; all attacks on classifiers take it.

    It is declared by an option `target` (column of ``obs``) and :meth:`scaled`. Beside them it promises what attackers use:

    - the panel has ``"features"`` and ``"classes"``, and :meth:`infl.models.Task.units` names the classes along the rows of the
      last layer's weights and bias;
    - ``batch`` of its data gives features (n, n_features) and class numbers (n,), as tensors;
    - its module begins with a linear layer with a bias, maps features to logits (n, n_classes), has the last layer as ``head``,
      and what that takes as ``latent(x)``;
    - moments of features that it keeps are the private arrays ``"center"`` and ``"scale"``, (n_features,) each;
    - :meth:`infl.models.Task.hold_out` says how samples are held out.

    Examples
    --------
    >>> from infl.models import Classifier, ClassProbabilities, Spatial
    >>> isinstance(Classifier(target="tumour_class"), ClassProbabilities), isinstance(Spatial(), ClassProbabilities)
    (True, False)
    """

    @property
    def target(self) -> str:
        """The column of ``obs`` with the classes."""

    def scaled(self, x: np.ndarray, private: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return features as the module's first layer sees them.

        Parameters
        ----------
        x
            Features (n, n_features) as ``batch`` gives them.
        private
            The run's private arrays.
        """


@runtime_checkable
class PatchData(Protocol):
    """A task that reads patches of stained images beside raw counts."""

    @property
    def patches(self) -> str:
        """Where the patches are."""

    @property
    def backbone(self) -> str | None:
        """The name of the image model, if it is not the task's own."""

    @property
    def modality(self) -> str | None:
        """The modality with the counts."""

    @property
    def layer(self) -> str | None:
        """The layer with the counts."""


@runtime_checkable
class Denoises(Protocol):
    """A task that tells raw counts without their noise; its panel has ``"features"`` and ``"sites"``.

    Examples
    --------
    >>> from infl.models import Scvi, Spatial
    >>> isinstance(Scvi(), Denoises), isinstance(Spatial(), Denoises)
    (True, False)
    """

    @property
    def modality(self) -> str | None:
        """The modality with the counts."""

    def denoise(self, module: Any, data: Any, site: int | None = None) -> np.ndarray:
        """Return the expected share of each feature in an observation.

        Parameters
        ----------
        module, data
            What the task built, and what it read.
        site
            Number of the site at which it is as if measured (None: the mean over sites).

        Returns
        -------
        numpy.ndarray
            ``(n_obs, n_features)``; each row adds to 1.
        """


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
