"""Using a model at a hospital that was not in the fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from infl import _tell
from infl._html import facts, notebook
from infl._parameters import LAYER, NEW_NAMES, SITE_NAME, Flag, door
from infl.errors import DataError, SettingsError
from infl.models.locked.outputs import infer, left_to_sites, open_model
from infl.models.phenotype.newcomer import alike, distances
from infl.models.phenotype.task import Phenotype
from infl.tl._newcomer import batch_shift, newcomer
from infl.tl._results import all_or_none, needed_key, use_facts

if TYPE_CHECKING:
    import pandas as pd

    from infl._types import Data
    from infl.federation.run import FederatedRun
    from infl.keys import Keyring
    from infl.models.locked import LockedModel
    from infl.models.task import Sums
    from infl.nn.mlp import OnPanel

FARTHEST = 5.0
"""Distance of the median observation beyond which data are refused; in the fit it is about 1."""
LEAST_ALIKE = 0.25
"""Rank correlation of features' means with those of the fit below which data are refused; of unrelated names it is about 0."""


@dataclass(frozen=True, repr=False)
class Adapted:
    """Result of :func:`adapt`.

    Attributes
    ----------
    site
        Name of the site.
    features
        One row per feature of the model: what the data call it (``called``, missing where it is masked) and the batch effect
        (``shift``, in the units of the data; NaN where none was estimated).
    distance
        Of the median observation from the mean of the fit: root mean square over features, in deviations of the fit, where
        it is about 1; NaN if the model has no moments to compare with.
    similarity
        Rank correlation of the features' means with those of the fit; NaN if the model has none, or if they hardly differ.
    coordinate
        The site's coordinate, if the model has such.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> late = sites.pop("site_5")
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> result = infl.tl.adapt(run, late)
    >>> result.distance < 2, result.similarity > 0.9, len(result.features)
    (True, True, 2308)
    """

    site: str
    features: pd.DataFrame = field(compare=False)
    distance: float
    similarity: float
    coordinate: np.ndarray | None = field(default=None, compare=False)

    @property
    def n_renamed(self) -> int:
        """How many features the data call otherwise."""
        called = self.features["called"]
        return int((called.notna() & (called != self.features.index)).sum())

    @property
    def n_masked(self) -> int:
        """How many features the data lack."""
        return int(self.features["called"].isna().sum())

    def facts(self) -> dict[str, str]:
        """Return what was found, in words."""
        p, shift = len(self.features), self.features["shift"].abs()
        far = "unknown: the model has no moments of features" if np.isnan(self.distance) else f"{self.distance:.2f}"
        like = "unknown" if np.isnan(self.similarity) else f"{self.similarity:.2f}"
        return {
            "features": f"{p - self.n_masked:,} of {p:,}, {self.n_renamed:,} of them by another name",
            "masked": f"{self.n_masked:,}",
            "batch effect": "none estimated" if shift.isna().all() else f"{shift.mean():.3g} on average",
            "distance": far if np.isnan(self.distance) else f"{far} (in the fit about 1, refused beyond {FARTHEST:g})",
            "similarity": f"{like} (refused below {LEAST_ALIKE:g})" if like != "unknown" else like,
        }

    def __repr__(self) -> str:
        return f"Adapted({self.site!r}: " + "; ".join(f"{name} {value}" for name, value in self.facts().items()) + ")"

    def _repr_html_(self) -> str:
        return notebook(facts(self.facts(), f"infl: the model at {self.site}"))


@door(layer=LAYER, aliases=NEW_NAMES, site=SITE_NAME, batch_effect=Flag(), check_distance=Flag(), check_units=Flag())
def adapt(
    model: LockedModel | FederatedRun | str | Path,
    adata: Data,
    *,
    key: Keyring | None = None,
    aliases: Mapping[str, str] | None = None,
    layer: str | None = None,
    site: str = "the data",
    batch_effect: bool = True,
    check_distance: bool = True,
    check_units: bool = True,
    key_added: str = "infl",
) -> Adapted:
    """Use a model at a hospital that was not in the fit, without its labels: names, batch effect, distance, predictions.

    Nothing is sent, and the model stays as it is. Names of features are brought to the model's; what is missing is masked.
    The distance from what the model saw is measured by the moments that it carries, encrypted. Then the site's coordinate
    and each feature's shift are estimated from the observations, and they are predicted.

    Parameters
    ----------
    model
        A run, ``run.model``, what :func:`infl.load_model` returns, or a path: of ``model="classifier"``, ``"regressor"`` or
        ``"survival"``.
    adata
        The hospital's data.
    key
        Key ring that opens the model (default: that of the run).
    aliases
        Other names of features, and what to call them: ``{"P53": "TP53", "ENSG00000136997": "MYC"}``, whatever the case; a
        table of identifiers and symbols serves in both directions. Case and Ensembl version need none.
    layer
        Layer to read instead of the one that the model was fitted on; ``"X"`` for X.
    site
        Name of the hospital, for messages.
    batch_effect
        Estimate each feature's shift, of a classifier that is scaled by moments of all sites; with fewer than ten observations
        it is 0. It takes the site to have the classes' shares of the fit: leave it out where a class is all there is.
    check_distance
        Refuse data that are too far from what the model saw.
    check_units
        Refuse values of another kind than those of the fit: counts for a model of logarithms.
    key_added
        Prefix of what is written.

    Returns
    -------
    Adapted
        What was found. Written into `adata` is what :func:`infl.tl.predict` writes, and
        ``obs["infl_distance"]``, each observation's distance, where the model has moments.

    Raises
    ------
    DataError
        The data have no features of the model or too few, too many are missing, values are of another kind or too far away.
    KeyringError
        There is no key, or it is another.

    Warns
    -----
    InflWarning
        Something is masked; or the observations look as if they were of one class, which a batch effect cannot be told from.

    References
    ----------
    Batch effect: Johnson, Li and Rabinovic, Biostatistics 8, 118-127 (2007), the location alone, with weights for classes.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> late = sites.pop("site_5")
    >>> late.var_names = late.var_names.str.upper()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> result = infl.tl.adapt(run.model, late, key=run.key, site="late")
    >>> result.n_renamed, result.n_masked
    (2308, 0)
    >>> [name for name in late.obs if name.startswith("infl")]
    ['infl_prediction', 'infl_probability', 'infl_distance']
    """
    import pandas as pd

    shared, key = needed_key(model, key)
    panel = shared.header.panel
    if not isinstance(shared.header.build_task(), Phenotype):
        raise SettingsError(f"model {shared.header.task!r} cannot be adapted to a new site: use infl.tl.predict")
    found = newcomer(shared, adata, aliases=aliases, layer=layer, site=site, check_units=check_units)
    named, called, task = found.named, found.called, found.task
    assert isinstance(task, Phenotype)
    opened = module, private = open_model(shared, key)
    left_to_sites(shared, module, task)
    data = task.read(named, panel, site=site, keyless=not private)
    distance, similarity, shift = np.full(data.x.shape[0], np.nan), float("nan"), None
    if "center" in private:
        distance = distances(data, private["center"], private["scale"])
        similarity = alike(data, private["center"], private["scale"], len(panel["features"]))
        if check_distance:
            _check_far(distance, similarity, site)
        if batch_effect and "class_counts" in private:
            shift = batch_shift(cast("OnPanel", module), data, private, panel, site)
    outputs = infer(named, shared, key, name=site, task=task, opened=opened)
    if "center" not in private and "latent_sum" in private:
        distance = _in_latent(outputs["latent"], private)
        if check_distance:
            _check_far(distance, similarity, site)
    names = pd.Index(panel["features"], name="feature")
    features = pd.DataFrame(
        {"called": [called.get(name) for name in names], "shift": np.nan if shift is None else shift}, index=names
    )
    own = getattr(module, "site", None)
    result = Adapted(
        site,
        features,
        float(np.median(distance)),
        similarity,
        None if own is None else own.detach().numpy().copy(),
    )
    _write(adata, result, distance, found.rows, shared, task, outputs, key_added)
    return result


def _write(
    adata: Data,
    result: Adapted,
    distance: np.ndarray,
    rows: pd.Index,
    model: LockedModel,
    task: Phenotype,
    outputs: Mapping[str, np.ndarray],
    key_added: str,
) -> None:
    import pandas as pd

    with all_or_none({result.site: adata}), _tell.added({result.site: adata}):
        task.write(adata, outputs, model.header.panel, key_added=key_added)
        if not np.isnan(distance).all():
            adata.obs[f"{key_added}_distance"] = pd.Series(distance, index=rows).reindex(adata.obs_names)
        adata.uns[key_added] = use_facts(None, model, opened=True, run=None) | {
            "adapted": {
                "site": result.site,
                "n_masked": result.n_masked,
                "n_renamed": result.n_renamed,
                "distance": result.distance,
                "similarity": result.similarity,
            }
        }


def _in_latent(latent: np.ndarray, private: Sums) -> np.ndarray:
    """Return how far each latent (n_obs, width) is from the mean of the fit, in its deviations."""
    mean = private["latent_sum"]
    deviation = np.sqrt(np.maximum(private["latent_square"] - mean**2, 1e-12))
    return np.sqrt((((latent - mean) / deviation) ** 2).mean(1))


def _check_far(distance: np.ndarray, similarity: float, site: str) -> None:
    """Refuse data that a model knows nothing of."""
    escape = "if they are meant for this model after all, set check_distance=False"
    if (median := float(np.median(distance))) > FARTHEST:
        raise DataError(
            f"{site} is {median:.1f} deviations from what the model saw, where the fit has about 1 and {FARTHEST:g} is too far: "
            f"check units and normalisation; {escape}"
        )
    if similarity < LEAST_ALIKE:
        raise DataError(
            f"features of {site} are high and low in another order than in the fit (rank correlation {similarity:.2f}, at least "
            f"{LEAST_ALIKE:g}): check that names belong to their values, and species and tissue; {escape}"
        )
