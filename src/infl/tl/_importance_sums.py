"""What sites add up for the importance of features: moments of the values that are exchanged, and what features lower the loss by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from infl.errors import DataError
from infl.nn.mlp import OnPanel
from infl.pp._largest import contributions
from infl.sums import COUNT_SCALE, FINE_SCALE, FederatedSum, State
from infl.sums.cells import Cells, Sizes
from infl.sums.disclosure import persons_of
from infl.sums.shape import Arrays
from infl.tl._importance_gains import Losses, columns_of, exchanged, integrated, of_others

if TYPE_CHECKING:
    from infl.privacy.rules import DisclosureRules


@dataclass(frozen=True)
class Judged:
    """What a site's share is computed from.

    Attributes
    ----------
    site
        Its name.
    z
        What the first layer takes of each judged record (n, n_features).
    h, zero
        What it gives of them (n, width), and of an average record (1, width).
    columns
        By how much that changes with each feature (n_features, width).
    losses
        Of what the first layer gives.
    donors
        Whose value a record gets (n_repeats, n); None for integrated gradients.
    present
        Features that were measured (n_features,).
    rows
        Which of the site's observations are judged (n_obs,), truth values.
    """

    site: str
    z: Tensor
    h: Tensor
    zero: Tensor
    columns: Tensor
    losses: Losses
    donors: np.ndarray | None
    present: np.ndarray
    rows: np.ndarray
    _kept: Arrays = field(default_factory=dict, repr=False, compare=False)

    @property
    def values(self) -> np.ndarray:
        """Standardised values of the judged records, 0 for features that were not measured (n, n_features)."""
        return self.z.double().numpy() * self.present

    @property
    def n(self) -> np.ndarray:
        """Number of judged records, 0 for features that were not measured (n_features,)."""
        return len(self.z) * self.present.astype(float)

    def gains(self, state: State) -> Arrays:
        """Return how much each feature lowers each record's loss, ``gain`` (n, n_features), and the ``loss`` (n,); computed once."""
        if not self._kept:
            self._kept.update(self._gains(state))
        return self._kept

    @torch.no_grad()
    def _gains(self, state: State) -> Arrays:
        if not len(self.z):
            return {"gain": np.zeros(self.z.shape), "loss": np.zeros(0)}
        everybody, known = torch.arange(len(self.z)), self.present
        loss = self.losses(self.h, everybody).double().numpy()
        if self.donors is None:
            gain = integrated(self.z, self.h, self.zero, self.columns, lambda at: self.losses(at, everybody))
        else:
            targets = of_others(self.z, state["exchange_n"], state["exchange_mean"], state["exchange_square"])
            gain = exchanged(self.z, self.h, self.columns, self.losses, self.donors, *targets)
            known = known & ~_unknown(state)
        return {"gain": np.where(known, gain, 0.0), "loss": loss}


def judged(
    site: str,
    module: OnPanel,
    x: Tensor,
    losses_of: Callable[[Tensor, Tensor], Tensor],
    truth: Tensor,
    donors: np.ndarray | None,
    present: np.ndarray,
    rows: np.ndarray,
) -> Judged:
    """Return what a site's share follows from.

    Parameters
    ----------
    site
        Its name.
    module
        In evaluation mode.
    x, truth
        Of the judged records.
    losses_of
        Loss of outputs and truth.
    donors, present, rows
        See :class:`Judged`.
    """

    def losses(at: Tensor, whose: Tensor) -> Tensor:
        return losses_of(module.beyond(at), truth[whose])

    with torch.no_grad():
        z, zero = module.entering(x), module.first(torch.zeros(1, x.shape[1]))
        columns = columns_of(module.first, x.shape[1])
        return Judged(site, z, module.first(z), zero, columns, losses, donors, present, rows)


def exchange_sum(n_features: int) -> FederatedSum:
    """Return the sum of moments of what records are given in exchange; state: ``exchange_n``, ``exchange_mean``, ``exchange_square``."""

    def local(site: Judged, state: State) -> Arrays:
        return {"n": site.n, "sum": site.values.sum(0), "square": (site.values**2).sum(0)}

    def combine(total: Arrays, state: State) -> State:
        n = np.maximum(_checked(total["n"]), 1)
        found = {"n": total["n"], "mean": total["sum"] / n, "square": total["square"] / n}
        return {**state, **{f"exchange_{name}": value for name, value in found.items()}}

    names = ("n", "sum", "square")
    return FederatedSum(
        name="values to exchange",
        shapes=dict.fromkeys(names, (n_features,)),
        local=local,
        combine=combine,
        says="for each feature: number of judged records, sum of their standardised values, and of their squares",
        scale={"n": COUNT_SCALE, "sum": FINE_SCALE, "square": FINE_SCALE},
        records=lambda site, state: dict.fromkeys(names, site.n),
        sensitivity={"n": 1},
        cells=_cells(n_features, names, ("square",), lambda site, state: {"square": site.values**2}),
    )


def importance_sum(n_features: int) -> FederatedSum:
    """Return the sum of what each feature lowers the loss by; state: ``importance``, ``std``, ``n``, ``loss``."""
    of_features = ("n", "gain", "square")
    shape = (n_features,)

    def local(site: Judged, state: State) -> Arrays:
        found = site.gains(state)
        return {
            "n": site.n,
            "gain": found["gain"].sum(0),
            "square": (found["gain"] ** 2).sum(0),
            "n_obs": np.asarray(float(len(site.z))),
            "loss": np.asarray(found["loss"].sum()),
        }

    def combine(total: Arrays, state: State) -> State:
        n = np.where(_checked(total["n"]) > 0, total["n"], np.nan)
        mean = total["gain"] / n
        spread = np.maximum(total["square"] / n - mean**2, 0)
        found = {"importance": mean, "std": np.sqrt(spread / n), "n": total["n"]}
        n_obs = float(total["n_obs"])
        return {**state, **found, "n_obs": int(n_obs), "loss": float(total["loss"]) / n_obs if n_obs else np.nan}

    def records(site: Judged, state: State) -> Arrays:
        of_all = dict.fromkeys(("n_obs", "loss"), np.asarray(len(site.z)))
        return dict.fromkeys(of_features, site.n) | of_all

    def squares(site: Judged, state: State) -> Arrays:
        found = site.gains(state)
        return {"square": found["gain"] ** 2, "loss": found["loss"]}

    def closed(state: State) -> Arrays:
        return {} if "exchange_n" not in state else dict.fromkeys(("gain", "square"), _unknown(state))

    return FederatedSum(
        name="importance",
        shapes=dict.fromkeys(of_features, shape) | {"n_obs": (), "loss": ()},
        local=local,
        combine=combine,
        says="for each feature: number of judged records, sum of what it lowers their loss by, and of its squares; sum of their losses",
        scale={"n": COUNT_SCALE, "n_obs": COUNT_SCALE, "gain": FINE_SCALE, "square": FINE_SCALE, "loss": FINE_SCALE},
        records=records,
        sensitivity={"n": 1, "n_obs": 1},
        cells=_cells(n_features, of_features, ("square", "loss"), squares, closed),
    )


def _unknown(state: State) -> np.ndarray:
    """Return of which features rules of disclosure closed the moments, so that nothing is known to exchange (n_features,)."""
    return np.isnan(state["exchange_mean"] + state["exchange_square"])


def _checked(n: np.ndarray) -> np.ndarray:
    """Return numbers of records by feature.

    Raises
    ------
    DataError
        There is none, or rules of disclosure closed all of them.
    """
    if np.isnan(n).all():
        raise DataError(
            "importance of features: nothing is opened, since too few sites can give sums over the judged observations under their "
            "rules of disclosure: judge on more of them (validation_only=False, a larger max_obs=), or fit to fewer features"
        )
    if not np.nansum(n):
        raise DataError(
            "no site has an observation to judge on: fit with validation= above 0, or give validation_only=False"
        )
    return n


def _cells(
    n_features: int,
    on_features: tuple[str, ...],
    dominated: tuple[str, ...],
    values: Callable[[Judged, State], Arrays],
    closed: Callable[[State], Mapping[str, np.ndarray]] | None = None,
) -> Cells:
    """Return what stands behind sums over a site's judged records; `values` gives those that have no sign, by record."""

    def sizes(site: Judged, state: State, rules: DisclosureRules) -> Sizes:
        persons = persons_of(site.site, rules)
        persons = None if persons is None else persons[site.rows]
        found = {}
        for name, of_records in values(site, state).items():
            n, shape = len(of_records), of_records.shape[1:]
            flat = of_records.reshape(n, int(np.prod(shape)))
            largest, whole = contributions([(np.arange(n), np.zeros(n, dtype=int), flat)], 1, flat.shape[1], persons)
            found[name] = largest.reshape(shape), whole.reshape(shape)
        return found

    return Cells(
        sets=lambda site, state: site.rows[None],
        measured=lambda site: site.present,
        on_features=on_features,
        sizes=sizes,
        dominated=dominated,
        closed=closed,
        features=n_features,
        panel="importance of features",
        partly=True,
    )
