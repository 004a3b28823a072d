"""The trunk: which features are read, how they are scaled, the network below the head, and what is known of a new site.

A phenotype is a class on it: which columns of ``obs`` it reads, how many numbers its head gives, its loss, its sums, what it says
and where that is written.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl._parameters import COLUMNS, LAYER, MODALITY, SHARE, Choice, Flag, Kind, Whole
from infl.errors import SettingsError
from infl.models.labelled import split_rows, stratified_split, write_rows
from infl.models.matrix import FeatureMatrix
from infl.models.phenotype.covariates import agree_on_covariates, names_of, values_of
from infl.models.phenotype.data import FUSED, LabelledRows, check_overlap, scale_of, table_of
from infl.models.phenotype.latent import fit_coordinate, latent_moments
from infl.models.spellings import ALIASES
from infl.models.task import Sums, Task
from infl.nn.mlp import LinearClassifier, OnPanel, ResidualMLP
from infl.sums import FederatedSum
from infl.sums.standardise import deviations, means

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.data.check import Features

LINEAR_DP_STEPS = 2.0
"""Under differential privacy Adam steps a linear model by this over √(rounds × features): noise that it gathers over all rounds then moves what
it says of a record by as much on any panel, in any number of rounds."""
NETWORK_DP_LR = 0.01
"""Adam's step for a network under differential privacy, where a round is one step."""


@dataclass(frozen=True)
class Phenotype(Task[LabelledRows, OnPanel]):
    """Base of tasks that predict something of a record from a panel of features.

    Parameters
    ----------
    layer
        Layer to read (None: ``X``).
    modality
        Which modality of a ``MuData`` to read; None: all of them together, masked where an observation lacks one.
    features
        ``"intersection"``: the features that all sites measured; ``"union"``: those that any site measured. What a site did
        not measure is masked: it has no part in its activations, its gradients or the federated moments.
    validation
        Share of each site's samples, by :meth:`strata`, that judges rounds and is not trained on.
    stratify
        Split the validation samples off by strata. Without it each sample is drawn by its name alone, whatever the others are:
        so it is under differential privacy.
    standardise
        ``"federated"``: features are scaled by moments summed over sites; ``"site"``: by each site's own, also at a site
        that joins later; ``"rank"``: the same after ranking the features of each sample; ``"sample"``: each sample by its
        own mean and deviation over the features; ``"none"``: not at all.
    width, n_blocks, dropout
        Of :class:`infl.nn.mlp.ResidualMLP`; with ``width=0`` the head is all there is, a linear model.
    coordinate
        Size of a site's own coordinate, learned there and never sent, which conditions a shared FiLM layer; at a site that
        joins later it is estimated from unlabelled data, so that the latent's moments are those of the other sites. 0: none.
    covariates
        Columns of ``obs`` that are read beside the features, such as ``["age", "sex"]``: numbers on one scale by moments over sites, labels as
        levels that all sites know. What a record lacks is masked. Data to predict must have the columns.
    """

    takes_missing: ClassVar[bool] = True

    layer: str | None = None
    modality: str | None = None
    features: Features = "intersection"
    validation: float = 0.2
    stratify: bool = True
    standardise: Literal["federated", "site", "rank", "sample", "none"] = "federated"
    width: int = 64
    n_blocks: int = 2
    dropout: float = 0.2
    coordinate: int = 0
    covariates: tuple[str, ...] = ()

    parameters: ClassVar[dict[str, Kind]] = Task.parameters | {
        "layer": LAYER,
        "modality": MODALITY,
        "features": Choice(("intersection", "union")),
        "validation": SHARE,
        "stratify": Flag(),
        "standardise": Choice(("federated", "site", "rank", "sample", "none")),
        "width": Whole(0),
        "n_blocks": Whole(0),
        "dropout": SHARE,
        "coordinate": Whole(0),
        "covariates": COLUMNS,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coordinate and not self.width:
            raise SettingsError(f"coordinate={self.coordinate}: give the size of a code, and a width= above 0 with it")
        if self.covariates and self.standardise in ("rank", "sample"):
            raise SettingsError(
                f"covariates= are not on the scale of features within a record: not with standardise={self.standardise!r}"
            )
        if twice := [name for name in self.covariates if name in self.columns]:
            raise SettingsError(f"covariates= names {twice[0]!r}, which is what is predicted: leave it out")

    # -- what a phenotype is ---------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns of ``obs`` that are read."""

    @abstractmethod
    def truth(self, table: AnnData, panel: Mapping[str, Any], site: str) -> np.ndarray:
        """Return what is known of each record, (n,) or (n, n_columns), checked."""

    @abstractmethod
    def strata(self, truth: np.ndarray) -> np.ndarray:
        """Return a number from 0 for each record (n,), whose shares validation parts keep."""

    @abstractmethod
    def n_outputs(self, panel: Mapping[str, Any]) -> int:
        """How many numbers the head gives of a record."""

    def named_outputs(self, panel: Mapping[str, Any]) -> Sequence[str] | None:
        """Names of what the head gives, where it has names that sites know."""
        return None

    def rows_of(
        self, x: FeatureMatrix, truth: np.ndarray, split: tuple[np.ndarray, np.ndarray], **how: Any
    ) -> LabelledRows:
        """Return a site's rows for training; `how` is given to :class:`LabelledRows`."""
        return LabelledRows(x, torch.from_numpy(truth), *split, **how)

    # -- agreement -------------------------------------------------------------------------------------------------
    def _agree(
        self, sites: Mapping[str, AnnData | MuData], classes_of: str | None = None
    ) -> tuple[dict[str, Any], list[str]]:
        """Return shared features and kinds of values, after checking the sites' data; and the classes of a column."""
        from infl.data.check import panel_of

        if self.modality is None and any(hasattr(adata, "mod") for adata in sites.values()):
            panel = panel_of(sites, target=classes_of, layer=self.layer, features=self.features)
        else:
            tables = {site: self._table(adata, site) for site, adata in sites.items()}
            panel = panel_of(tables, target=classes_of, layer=self.layer, features=self.features)
        check_overlap({site: np.asarray(has) for site, has in panel.present.items()})
        units = ["any"] if self.standardise == "rank" else list(panel.units)
        found: dict[str, Any] = {"features": list(panel.features), "units": units}
        if self.covariates:
            tables = {site: self._table(adata, site) for site, adata in sites.items()}
            found["covariates"] = agree_on_covariates(tables, self.covariates)
        return found, list(panel.classes)

    def _table(self, adata: AnnData | MuData, site: str) -> AnnData:
        return table_of(
            adata, site, columns=(*self.columns, *self.covariates), layer=self.layer, modality=self.modality
        )

    def _truth_of(self, adata: AnnData | MuData, panel: Mapping[str, Any]) -> np.ndarray:
        return self.truth(self._table(adata, "the data"), panel, "the data")

    def read(
        self,
        adata: AnnData | MuData,
        panel: Mapping[str, Any],
        *,
        site: str,
        rng: np.random.Generator | None = None,
        keyless: bool = False,
    ) -> LabelledRows:
        """Read features and, when training, labels; without the key, features are scaled by their own moments."""
        table = self._table(adata, site)
        x = self._matrix(table, panel, site, masked=rng is None)
        own_scale = scale_of(self.standardise, keyless=keyless)
        if rng is None:
            everything = np.arange(table.n_obs)
            return LabelledRows(x, None, everything, everything[:0], standardise=own_scale)
        truth = self.truth(table, panel, site)
        split = split_rows(table.obs_names, self.strata(truth), self.validation, rng, stratify=self.stratify)
        return self.rows_of(x, truth, split, standardise=own_scale, **({"keyless": True} if keyless else {}))

    def _matrix(self, table: AnnData, panel: Mapping[str, Any], site: str, *, masked: bool = False) -> FeatureMatrix:
        layer = None if FUSED in table.uns else self.layer
        masked = masked or self.features == "union" or FUSED in table.uns
        levels = panel.get("covariates")
        beside = values_of(table, levels, site) if levels else None
        return FeatureMatrix(table, panel["features"], layer=layer, site=site, masked=masked, beside=beside)

    def inputs(self, panel: Mapping[str, Any]) -> list[str]:
        """Return the names of what the network reads: features, and columns of covariates after them."""
        return [*panel["features"], *names_of(panel.get("covariates") or {})]

    def named_groups(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Classes, and levels of covariates."""
        levels = {name: of for name, of in (panel.get("covariates") or {}).items() if of}
        return {**super().named_groups(panel), **levels}

    def _features_of(self, adata: AnnData | MuData, panel: Mapping[str, Any]) -> np.ndarray:
        return self._matrix(self._table(adata, "the data"), panel, "the data").rows(slice(None))

    def observations(self, adata: AnnData | MuData, site: str) -> pd.DataFrame:
        """Return ``obs`` of the modality that is read, with the joint table's columns that it lacks."""
        if not hasattr(adata, "mod") or self.modality is None:
            return adata.obs
        own = self._table(adata, site).obs
        return own.join(adata.obs[adata.obs.columns.difference(own.columns)])

    def held_names(self, panel: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
        """Features, some of which a site may lack; a phenotype may add its own."""
        return {"feature": self.inputs(panel)}

    def held(self, data: LabelledRows, panel: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Features that were measured."""
        return {"feature": ~data.x.absent}

    # -- sums ------------------------------------------------------------------------------------------------------
    def _scales(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sums that bring features to one scale, where there are no classes to weight."""
        p = len(self.inputs(panel))
        return (means(None, p), deviations(p)) if self.standardise == "federated" else ()

    def after(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return moments of the latent that a new site is fitted to; a phenotype adds its own."""
        return (latent_moments(self.width),) if self.coordinate else ()

    def suited_to_dp(self, panel: Mapping[str, Any], rounds: int, given: Collection[str]) -> Self:
        """Take a linear model, whose few weights gather little noise, and steps after which that is alike on any panel."""
        width = self.width if "width" in given else 0
        lr = NETWORK_DP_LR if width else float(f"{LINEAR_DP_STEPS / (rounds * len(self.inputs(panel))) ** 0.5:.2g}")
        kept = {ALIASES.get(name, name) for name in given}
        return replace(self, width=width, lr=self.lr if "lr" in kept else lr)

    def _check_dp(self) -> None:
        """Refuse what has no noise."""
        if self.coordinate:
            raise SettingsError("coordinate= needs sums that have no noise; with privacy= leave it out")
        if self.covariates:
            raise SettingsError("covariates= are scaled by sums that have no noise; with privacy= leave them out")

    # -- model -----------------------------------------------------------------------------------------------------
    def build(self, panel: Mapping[str, Any]) -> OnPanel:
        """Return a fresh :class:`infl.nn.mlp.ResidualMLP`, or a linear model."""
        sizes = len(self.inputs(panel)), self.n_outputs(panel)
        if not self.width:
            return LinearClassifier(*sizes, unit_length=self.optimiser == "sgd")
        return ResidualMLP(
            *sizes,
            width=self.width,
            n_blocks=self.n_blocks,
            dropout=self.dropout,
            coordinate=self.coordinate,
        )

    def is_local(self, parameter: str) -> bool:
        """The site's coordinate stays at the site."""
        return parameter == "site"

    def local_arrays(self, data: LabelledRows) -> Sums:
        """Return the site's own moments, where features are scaled by them."""
        if data.standardise not in ("site", "rank"):
            return {}
        center, scale = data.own_moments
        return {"own_center": center, "own_scale": scale}

    def adapt(self, module: OnPanel, data: LabelledRows, private: Sums) -> None:
        """Move the coordinate until mean and deviation of the latent are those of the sites of the fit."""
        if isinstance(module, ResidualMLP) and module.site is not None and "latent_sum" in private:
            fit_coordinate(module, module.site, data, private)

    def _own_scale(self, data: LabelledRows, private: Sums) -> bool:
        """Scale data by a site's own moments, where the model keeps them; whether such are wanted and there are none."""
        if self.standardise not in ("site", "rank"):
            return False
        if "own_center" in private:
            data.scale_by(private["own_center"], private["own_scale"])
        return "own_center" not in private

    def configure(self, module: OnPanel, private: Sums) -> None:
        """Put private arrays into the module's buffers of their names."""
        for name, buffer in module.named_buffers():
            if name in private:
                buffer.copy_(torch.from_numpy(np.asarray(private[name], dtype=np.float64)))

    def units(self, panel: Mapping[str, Any]) -> dict[str, dict[int, Sequence[str]]]:
        """Columns of the first layer are features; rows of the last are what it gives, where that has names."""
        outputs = self.named_outputs(panel)
        rows: dict[int, Sequence[str]] = {} if outputs is None else {0: outputs}
        first: dict[int, Sequence[str]] = {1: self.inputs(panel)}
        if not self.width:
            found = {"head.weight": rows | first, "head.bias": rows}
        else:
            found = {"embed.weight": first, "head.weight": rows, "head.bias": rows}
        return {name: axes for name, axes in found.items() if axes}

    @abstractmethod
    def losses_of(self, module: OnPanel, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the loss (n,) of each observation from what the head gives and what is known."""

    def losses(self, module: OnPanel, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss (n,) of each observation."""
        x, truth = batch
        return self.losses_of(module, module(x), truth)

    # -- judging ---------------------------------------------------------------------------------------------------
    @abstractmethod
    def sums_of(self, module: OnPanel, outputs: Tensor, truth: Tensor) -> Sums:
        """Return the sums that :meth:`summarise` takes, of outputs (n, n_outputs) and what is known."""

    @torch.no_grad()
    def evaluate(self, module: OnPanel, data: LabelledRows, index: np.ndarray) -> Sums:
        """Return sums over the observations `index`."""
        parts = np.array_split(index, max(1, -(-len(index) // 2048)))
        found = [self.sums_of(module, module(x).double(), truth) for x, truth in map(data.batch, parts)]
        return {name: np.sum([one[name] for one in found], axis=0) for name in found[0]}

    # -- results ---------------------------------------------------------------------------------------------------
    def embed(self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], *, key_added: str) -> None:
        """Write ``obsm["X_" + key_added]`` alone."""
        write_rows(adata, f"X_{key_added}", outputs["latent"], self._table(adata, "data").obs_names)

    # -- comparing -------------------------------------------------------------------------------------------------
    def hold_out(self, adata: AnnData | MuData, share: float, rng: np.random.Generator) -> np.ndarray:
        """Hold out `share` of the samples by strata."""
        table = self._table(adata, "the data")
        _, test = stratified_split(self.strata_to_hold_out(table), share, rng)
        return np.asarray(adata.obs_names.isin(table.obs_names[test]))

    def strata_to_hold_out(self, table: AnnData) -> np.ndarray:
        """Return the strata of a table before anything was agreed on (n,)."""
        return self.strata(self.truth(table, {}, "the data"))
