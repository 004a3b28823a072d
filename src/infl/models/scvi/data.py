"""What scVI reads from a site: raw counts of cells with their covariates, as scvi-tools' modules take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl.errors import DataError
from infl.models.counts import check_counts
from infl.models.labelled import stratified_split
from infl.models.matrix import FeatureMatrix
from infl.models.task import SITE, SiteData

if TYPE_CHECKING:
    from anndata import AnnData

# The names under which scvi-tools' modules look for their input (scvi.REGISTRY_KEYS).
X, BATCH, LABELS = "X", "batch", "labels"
CATEGORICAL, CONTINUOUS, SIZE_FACTOR = "extra_categorical_covs", "extra_continuous_covs", "size_factor"


class CountRows(SiteData):
    """One site's raw counts and covariates, read in batches.

    Parameters
    ----------
    x
        Counts; checked here.
    site
        For messages.
    layer
        Where the counts are, for messages (None: ``X``).
    batch
        The site's number as batch covariate, or that of each cell's (n_obs,).
    covariates
        ``extra_categorical_covs``, ``extra_continuous_covs`` and ``size_factor``, those that there are
        (n_obs × n_columns).
    labels
        Class numbers (n_obs,), −1 where unknown; None for a model without classes.
    train, validation
        Indices.

    Raises
    ------
    DataError
        Values that are not counts, or cells without any.
    """

    def __init__(
        self,
        x: FeatureMatrix,
        *,
        site: str,
        layer: str | None = None,
        batch: int | np.ndarray = 0,
        covariates: Mapping[str, np.ndarray] | None = None,
        labels: np.ndarray | None = None,
        names: pd.Index,
        train: np.ndarray,
        validation: np.ndarray,
    ) -> None:
        check_counts(x, names, site=site, layer=layer)
        self.x, self.train, self.validation = x, train, validation
        self.number = torch.from_numpy(np.broadcast_to(np.int64(batch), x.shape[:1]).copy())[:, None]
        self.labels = None if labels is None else torch.from_numpy(labels)[:, None]
        self.covariates = {name: torch.from_numpy(values) for name, values in (covariates or {}).items()}

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the training rows in a random order, for an epoch."""
        return self.x.order(self.train, rng)

    def batch(self, index: np.ndarray | slice) -> dict[str, Tensor]:
        """Return what a module of scvi-tools takes: counts (n, n_genes), batch number (n, 1), covariates (n, …)."""
        x = torch.from_numpy(self.x.rows(index))
        tensors = {X: x, BATCH: self.number[index]}
        tensors[LABELS] = torch.zeros_like(tensors[BATCH]) if self.labels is None else self.labels[index]
        return tensors | {name: values[index] for name, values in self.covariates.items()}


@dataclass(frozen=True)
class Reader:
    """Reads sites' tables as the task's options of the same names say (:class:`infl.models.Scvi`)."""

    layer: str | None
    categorical_covariates: tuple[str, ...]
    continuous_covariates: tuple[str, ...]
    size_factor: str | None
    validation: float

    def agree(self, tables: Mapping[str, AnnData]) -> dict[str, Any]:
        """Return shared features, the sites' names and the categories of covariates."""
        from infl.data.check import panel_of

        return {
            "features": list(panel_of(tables, layer=self.layer).features),
            "sites": sorted(tables),
            "covariates": categories_of(tables, self.categorical_covariates),
        }

    def read(
        self,
        table: AnnData,
        panel: Mapping[str, Any],
        labels: np.ndarray | None,
        *,
        site: str,
        rng: np.random.Generator | None,
    ) -> CountRows:
        """Return counts and covariates of a table, beside its cells' class numbers (n_obs,) if the model has classes."""
        x = FeatureMatrix(table, panel["features"], layer=self.layer, site=site)
        train, validation = np.arange(table.n_obs), np.arange(0)
        if rng is not None:
            strata = np.zeros(table.n_obs, dtype=np.int64) if labels is None else labels + 1
            train, validation = stratified_split(strata, self.validation, rng)
        return CountRows(
            x,
            site=site,
            layer=self.layer,
            batch=batch_of(table, panel["sites"], site),
            covariates=self._covariates(table, panel, site),
            labels=labels,
            names=table.obs_names,
            train=train,
            validation=validation,
        )

    def _covariates(self, table: AnnData, panel: Mapping[str, Any], site: str) -> dict[str, np.ndarray]:
        from infl.data.columns import obs_column

        covariates = {}
        if self.categorical_covariates:
            columns = [
                codes(obs_column(table, name, where=site, role="categorical_covariates"), categories, site)
                for name, categories in panel["covariates"].items()
            ]
            covariates[CATEGORICAL] = np.stack(columns, 1)
        numeric = {CONTINUOUS: self.continuous_covariates, SIZE_FACTOR: (self.size_factor,) if self.size_factor else ()}
        for name, columns_of_obs in numeric.items():
            if columns_of_obs:
                role = "size_factor" if name == SIZE_FACTOR else "continuous_covariates"
                values = [_numbers(obs_column(table, c, where=site, role=role), site) for c in columns_of_obs]
                covariates[name] = np.stack(values, 1)
        if (covariates.get(SIZE_FACTOR, np.ones(1)) <= 0).any():
            raise DataError(f"{site} has size factors of 0 or less in obs[{self.size_factor!r}]: they must be above 0")
        return covariates


def batch_of(table: AnnData, sites: Sequence[str], site: str) -> int | np.ndarray:
    """Return the number of the site, or of each cell's where those of several were put together; 0 for a new site."""
    if site in sites:
        return sites.index(site)
    if SITE not in table.obs:
        return 0
    return np.maximum(pd.Categorical(table.obs[SITE], categories=list(sites)).codes.astype(np.int64), 0)


def categories_of(tables: Mapping[str, AnnData], columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the categories of covariates over all sites, sorted.

    Raises
    ------
    DataError
        A site lacks the column, or has cells without a value.
    """
    from infl.data.columns import obs_column
    from infl.data.labels import label_text

    found: dict[str, list[str]] = {}
    for column in columns:
        values = [
            obs_column(table, column, where=site, role="categorical_covariates") for site, table in tables.items()
        ]
        found[column] = sorted({label for series in values for label in label_text(series).unique()})
    return found


def codes(column: pd.Series, categories: Sequence[str], site: str) -> np.ndarray:
    """Return the numbers of a column's values among agreed categories (n_obs,).

    Raises
    ------
    DataError
        A value that the model was not fitted with.
    """
    from infl.data.labels import label_text

    numbers = pd.Index(list(categories), dtype=object).get_indexer(label_text(column)).astype(np.int64)
    if (numbers < 0).any():
        stranger = str(column.to_numpy()[int(np.argmax(numbers < 0))])
        raise DataError(
            f"{site} has {stranger!r} in obs[{column.name!r}], which the model does not know: "
            f"it has {', '.join(map(repr, list(categories)[:6]))}"
        )
    return numbers


def _numbers(column: pd.Series, site: str) -> np.ndarray:
    if not pd.api.types.is_numeric_dtype(column):
        raise DataError(
            f"{site} has text in obs[{column.name!r}], where numbers are due: name it as a categorical covariate"
        )
    return column.to_numpy(dtype=np.float32)
