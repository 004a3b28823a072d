"""Data that a model was not fitted on, brought to its names, checked, and ready to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from infl._warn import warn
from infl.data.newcomer import filled, named_as
from infl.errors import DataError
from infl.models.phenotype.newcomer import FEWEST, fit_shift, most_seen
from infl.models.protocols import ReadsModality
from infl.tl._results import check_writable
from infl.tl._use import check_use, count_masked, with_layer

if TYPE_CHECKING:
    from infl._types import Data
    from infl.models.locked import LockedModel
    from infl.models.phenotype.data import LabelledRows
    from infl.models.task import Task
    from infl.nn.mlp import OnPanel

ONE_CLASS, USUAL = 0.9, 0.75
"""Share of observations that the model sees in one class, from which on a site may be of that class alone, unless the class had the
second share of the fit."""


@dataclass(frozen=True)
class Newcomer:
    """What a model reads of a new site.

    Attributes
    ----------
    site
        Name of the site.
    named
        The data with the model's names.
    called
        What the data call each feature of the model that they have.
    task
        Of the model, reading the layer that is asked for.
    rows
        Names of the observations that the task reads.
    """

    site: str
    named: Data
    called: Mapping[str, str]
    task: Task
    rows: pd.Index


def newcomer(
    model: LockedModel,
    adata: Data,
    *,
    aliases: Mapping[str, str] | None,
    layer: str | None,
    site: str,
    check_units: bool,
    fill: bool = False,
) -> Newcomer:
    """Bring data to a model's names and check them; with `fill`, features that are missing are 0, else the task masks them.

    Raises
    ------
    DataError
        There are no observations, no features of the model or too few, or values are of another kind.
    """
    if not adata.n_obs:
        raise DataError(f"{site} has no observations: there is nothing to use the model on")
    check_writable({site: adata})
    panel = model.header.panel
    task = with_layer(model.header.build_task(), layer, {site: adata})
    modality = task.modality if isinstance(task, ReadsModality) else None
    named, called = named_as(adata, panel["features"], modality=modality, aliases=aliases or {}, where=site)
    table = named if isinstance(named, AnnData) else named.mod.get(cast("str", modality))
    if fill and table is not None:
        lacking = pd.Index([name for name in panel["features"] if name not in called])
        count_masked(lacking, 0, len(panel["features"]), adata.n_obs, site, become="taken for 0")
        named = filled(table, panel["features"])
        if isinstance(adata, AnnData) is False:
            named = _as_modality(named, cast("str", modality))
    check_use({site: named}, task, panel, check_units=check_units)
    return Newcomer(site, named, called, task, adata.obs_names if table is None else table.obs_names)


def batch_shift(
    module: OnPanel, data: LabelledRows, private: Mapping[str, np.ndarray], panel: Mapping[str, Any], site: str
) -> np.ndarray:
    """Return the shift of each feature of a new site, which the module has from now on.

    Warns
    -----
    InflWarning
        The site looks as if it were of one class, which a shift cannot be told from.
    """
    number, share = most_seen(module, data)
    in_fit = float(private["class_counts"][number] / private["class_counts"].sum())
    if data.x.shape[0] >= FEWEST and share >= ONE_CLASS and in_fit < USUAL:
        warn(
            f"the model sees {panel['classes'][number]!r} in {share:.0%} of {site}, and in {in_fit:.0%} of the fit: if it is one class, "
            "the batch effect that is taken off is the class itself, so set batch_effect=False"
        )
    return fit_shift(module, data, private, len(panel["features"]))


def _as_modality(table: AnnData, modality: str) -> Data:
    from mudata import MuData

    from infl._mudata import without_pull

    with without_pull():
        return MuData({modality: table})
