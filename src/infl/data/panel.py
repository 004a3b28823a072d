"""What sites agree on before a fit: features and classes, in one order."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infl._html import notebook, table, text


@dataclass(frozen=True, repr=False)
class Panel:
    """Features and classes on which sites agree.

    Attributes
    ----------
    features
        Names in the agreed order. Those of a MuData have their modality in front: ``"rna:TP53"``.
    classes
        Labels of `target` as text, sorted; empty without a target.
    target
        Column of ``obs`` that holds the labels.
    n_obs
        Observations of each site.
    present
        For each site, which of `features` it measured, ``(n_features,)`` booleans.
    modalities
        Names of the modalities; empty for AnnData.
    units
        Kinds of values that the sites have: ``"logarithms"``, of a MuData ``"rna:logarithms"``.

    Examples
    --------
    >>> import infl
    >>> infl.pp.harmonise(infl.datasets.khan_sites(), target="tumour_class")
    Panel: 2308 features, 4 classes of 'tumour_class', 83 observations at 5 sites
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]
    target: str | None
    n_obs: Mapping[str, int]
    present: Mapping[str, np.ndarray] = field(compare=False)
    modalities: tuple[str, ...] = ()
    units: tuple[str, ...] = field(default=(), compare=False)

    def digest(self) -> str:
        """SHA-256 of features, classes and target, in hexadecimal: equal digests mean equal panels.

        What a site keeps to itself (numbers of observations, features it lacks) has no part in it.
        """
        return hashlib.sha256(json.dumps(self.as_dict(), separators=(",", ":")).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return what all sites share, ready for JSON."""
        return {"features": list(self.features), "classes": list(self.classes), "target": self.target}

    def __repr__(self) -> str:
        return f"Panel: {self._summary()}"

    def _repr_html_(self) -> str:
        rows = [(site, f"{n:,}", f"{int(self.present[site].sum()):,}") for site, n in self.n_obs.items()]
        head = ("site", "observations", "features measured")
        labels = f"<p>Classes: {text(', '.join(self.classes))}</p>" if self.classes else ""
        return notebook(table(head, rows, f"infl panel: {self._summary()}", numbers=head[1:]), labels)

    def _summary(self) -> str:
        classes = f", {len(self.classes)} classes of {self.target!r}" if self.target is not None else ""
        return f"{len(self.features)} features{classes}, {sum(self.n_obs.values())} observations at {len(self.n_obs)} sites"
