"""The protocol of survival: times and events, hazards in bins, and what is written back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from infl._parameters import COLUMN, Flag, Kind, Real, Several, Whole
from infl._warn import warn
from infl.data.times import times_and_events, warn_of_grid
from infl.errors import DataError, SettingsError
from infl.models.labelled import write_rows
from infl.models.matrix import FeatureMatrix
from infl.models.phenotype.data import LabelledRows
from infl.models.phenotype.steps import LinearByDefault
from infl.models.survival.cox import ridge_cox
from infl.models.survival.data import TimedRows, bins_of_own, read_grid, time_sums
from infl.models.survival.scoring import (
    losses_of,
    metrics_of,
    risk_of,
    scores_of,
    shapes_of,
    sums_of,
    survival_of,
)
from infl.models.task import Predictor, Sums
from infl.nn.mlp import OnPanel
from infl.sums import FederatedSum

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


@dataclass(frozen=True)
class Survival(LinearByDefault):
    """Predict how long it takes to an event from a panel of features: hazards in bins of time that sites agree on.

    Parameters
    ----------
    time, event
        Columns of ``obs``: time of observation, above 0, and whether an event ended it (0 or 1, or truth values).
    n_bins
        Bins of time at most. There are about as many events in each, and five at least; where they end follows from counts over sites.
    grid
        Ends of the bins in place of that, in units of `time`; later times are in the last one.
    proportional
        One number for each patient raises or lowers the hazards of all bins; without it each bin has a number of its own.
    width, optimiser, lr, weight_decay, min_steps
        By default a linear model that descends along the gradient by steps of 1, three per round at least, whose end after a few rounds is the
        ridge penalty: the better one of a few hundred records. With a width, such as 64, the network of
        :class:`infl.models.Classifier`, trained by AdamW with its step.
    layer, modality, features, validation, stratify, standardise, n_blocks, dropout, coordinate, covariates
        As for :class:`infl.models.Classifier`; validation parts are stratified by events.

    Notes
    -----
    The logarithm of the odds of an event in a bin is that of all patients, from a sum over sites, and what the network adds. The
    likelihood is a sum over patients, so that averages over sites have no bias from risk sets that sites do not share. Who leaves a bin
    without an event counts as having survived the bins before it.

    References
    ----------
    Gensheimer, Narasimhan, A scalable discrete-time survival model for neural networks, PeerJ 2019.

    Examples
    --------
    >>> import infl, numpy as np
    >>> sites = infl.datasets.khan_sites()
    >>> for adata in sites.values():
    ...     adata.obs["months"], adata.obs["died"] = 1 + np.arange(adata.n_obs), True
    >>> run = infl.tl.fit_federated(sites, "survival", time="months", event="died", rounds=2, progress=False)
    >>> [name for name in sites["site_1"].obs if name.startswith("infl")]
    ['infl_risk', 'infl_median']
    """

    name: ClassVar[str] = "survival"
    headline: ClassVar[str] = "concordance"

    time: str = ""
    event: str = ""
    n_bins: int = 12
    grid: tuple[float, ...] | None = None
    proportional: bool = True

    parameters: ClassVar[dict[str, Kind]] = LinearByDefault.parameters | {
        "time": COLUMN,
        "event": COLUMN,
        "n_bins": Whole(1),
        "grid": Several(
            Real(0, open="low"), none=True, says="the ends of the bins of time, increasing numbers above 0"
        ),
        "proportional": Flag(),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "grid", read_grid(self.grid))

    @property
    def columns(self) -> tuple[str, ...]:
        """Time and event."""
        return self.time, self.event

    @property
    def _n_bins(self) -> int:
        return self.n_bins if self.grid is None else len(self.grid)

    # -- data ------------------------------------------------------------------------------------------------------
    def agree(self, sites: Mapping[str, AnnData | MuData]) -> dict[str, Any]:
        """Return shared features, after checking the sites' data."""
        if not self.time or not self.event:
            raise SettingsError(
                "model='survival' needs time= and event=, the obs columns with time and kind of the end"
            )
        panel, _ = self._agree(sites)
        truths = {s: self.truth(self._table(adata, s), panel, s) for s, adata in sites.items()}
        warn_of_grid({s: truth[:, 0] for s, truth in truths.items()}, self.time, self.grid)
        events = {s: truth[:, 1].sum() for s, truth in truths.items()}
        if len(sites) > 1 and not any(events.values()):
            raise DataError(
                f"event {self.event!r} is 0 for all observations of all sites: there is nothing to learn from it"
            )
        if len(sites) > 1 and len(np.unique(np.concatenate([truth[:, 0] for truth in truths.values()]))) < 2:
            raise DataError(
                f"time {self.time!r} is the same for all observations of all sites: nobody has the event sooner than another"
            )
        for site in [s for s, n in events.items() if not n]:
            warn(
                f"event {self.event!r} is 0 for all observations at {site}: they tell who has none, but not who has it sooner"
            )
        return panel

    def truth(self, table: AnnData, panel: Mapping[str, Any], site: str) -> np.ndarray:
        """Return times and events (n, 2)."""
        return np.stack(times_and_events(table, self.time, self.event, site), 1)

    def strata(self, truth: np.ndarray) -> np.ndarray:
        """Return whether there was an event."""
        return truth[:, 1].astype(np.int64)

    def rows_of(
        self,
        x: FeatureMatrix,
        truth: np.ndarray,
        split: tuple[np.ndarray, np.ndarray],
        *,
        keyless: bool = False,
        **how: Any,
    ) -> LabelledRows:
        """Keep times and events; for somebody without the key times by their order."""
        truth = bins_of_own(truth, self._n_bins) if keyless else truth
        return TimedRows(x, torch.from_numpy(truth), *split, **how)

    # -- sums ------------------------------------------------------------------------------------------------------
    def before(self, panel: Mapping[str, Any]) -> Sequence[FederatedSum]:
        """Return the sums that bring features to one scale, and those that decide on the bins."""
        return (*self._scales(panel), *time_sums(self._n_bins, self.grid))

    # -- model -----------------------------------------------------------------------------------------------------
    def n_outputs(self, panel: Mapping[str, Any]) -> int:
        """One number, or one for each bin."""
        return 1 if self.proportional else self._n_bins

    def build(self, panel: Mapping[str, Any]) -> OnPanel:
        """Return a fresh network that keeps the bins, their mean hazards, and how many are still observed."""
        module, n = super().build(panel), self._n_bins
        bins = {
            "ends": torch.arange(1, n + 1).double(),
            "base": torch.zeros(n).double(),
            "censor": torch.ones(n).double(),
        }
        for name, value in bins.items():
            module.register_buffer(name, value, persistent=False)
        return module

    def losses_of(self, module: OnPanel, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the negative log-likelihood of each observation."""
        return losses_of(module, outputs, truth)

    # -- judging ---------------------------------------------------------------------------------------------------
    def metric_shapes(self, panel: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Loss, counts by event, risk and time, and squared errors at the ends of bins."""
        return shapes_of(self._n_bins)

    @torch.no_grad()
    def sums_of(self, module: OnPanel, outputs: Tensor, truth: Tensor) -> Sums:
        """Return sums of hazards against times and events."""
        return sums_of(module, outputs, truth)

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Return loss, concordance, and the Brier score, its mean over bins."""
        return metrics_of(sums)

    # -- results ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def infer(self, module: OnPanel, data: LabelledRows, private: Sums) -> dict[str, np.ndarray]:
        """Return risk and median time (n,), survival at the ends of bins and these (n, n_bins), and the latent."""
        self._own_scale(data, private)
        ends: Tensor = module.ends  # type: ignore[assignment]
        found: list[tuple[Tensor, ...]] = []
        for chunk in data.x.chunks():
            z = module.latent(torch.from_numpy(data.rows(chunk)))
            outputs = module.head(z)
            survival = survival_of(module, outputs.double())
            half = (survival > 0.5).sum(1)  # bins that most survive; who survives all has no median
            median = torch.cat([ends, ends.new_tensor([torch.inf])])[half]
            risk, times = risk_of(module, outputs.double()), ends.expand(len(z), -1)
            found.append(
                (
                    risk,
                    torch.where(torch.isfinite(median), median, torch.nan),
                    survival,
                    times,
                    z if self.width else outputs,
                )
            )
        names = ("risk", "median", "survival", "times", "latent")
        return {name: torch.cat(values).numpy() for name, values in zip(names, zip(*found, strict=True), strict=True)}

    def write(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any], *, key_added: str
    ) -> None:
        """Write ``obs["infl_risk"]`` and ``obs["infl_median"]``, ``obsm["infl_survival"]`` and ``obsm["X_infl"]``.

        The columns of the survival are at the times ``uns["infl_times"]``. A median is the end of the bin in which half of such patients
        have had the event, missing where more than half never have it. In a ``MuData``, observations without the modality get missing values.
        """
        names = self._table(adata, "data").obs_names
        for kind in ("risk", "median"):
            adata.obs[f"{key_added}_{kind}"] = pd.Series(outputs[kind], index=names).reindex(adata.obs_names)
        ends = outputs["times"][0] if len(names) else np.empty(0)
        used = np.isfinite(ends)
        write_rows(adata, f"{key_added}_survival", outputs["survival"][:, used], names)
        write_rows(adata, f"X_{key_added}", outputs["latent"], names)
        adata.uns[f"{key_added}_times"] = ends[used]

    # -- comparing -------------------------------------------------------------------------------------------------
    def chance(self, panel: Mapping[str, Any]) -> float:
        """Of two patients either may be first."""
        return 0.5

    def score(
        self, adata: AnnData | MuData, outputs: Mapping[str, np.ndarray], panel: Mapping[str, Any]
    ) -> dict[str, float]:
        """Return the concordance, of pairs counted one by one, and the Brier score, its mean over bins."""
        return scores_of(self._truth_of(adata, panel), outputs)

    def baseline(self, train: AnnData | MuData, panel: Mapping[str, Any], *, seed: int) -> Predictor:
        """Cox regression on pooled, standardised data with a ridge penalty, chosen by cross-validated partial likelihood."""
        time, event = self._truth_of(train, panel).T
        risk = ridge_cox(self._features_of(train, panel), time, event == 1, seed=seed)
        return lambda adata: {"risk": risk(self._features_of(adata, panel))}
