"""Cox regression of the patients of all sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from infl._parameters import COLUMN, Choice, Real, Whole
from infl._warn import warn
from infl.data.consortium import alongside
from infl.data.design import Design, agree_on_design
from infl.data.sites import over_sites
from infl.data.times import warn_of_grid
from infl.errors import SettingsError
from infl.pp._frame import INTERCEPT, frame_sums
from infl.sums import run_sums
from infl.sums.concordance import concordance_of, concordance_of_pairs
from infl.sums.mixture import FEWEST
from infl.tl._concordance import concordance_sum, pairs_sum
from infl.tl._cox_search import Search, departures_of
from infl.tl._cox_sums import Patients, event_sum, newton_sum, ridge_of, stratified_sum
from infl.tl._glm import FORMULA
from infl.tl._regression import coefficient_table, written
from infl.tl._survival import GRID, LEVEL
from infl.tl._times import ends_of, grid_sums, times_of

if TYPE_CHECKING:
    from anndata import AnnData

    from infl.keys import Keyring
    from infl.sums import FederatedSum, State

_MOVED = 0.5  # standard errors


@dataclass(frozen=True)
class CoxModel:
    """What :func:`infl.tl.cox` found.

    Attributes
    ----------
    table
        A row for each coefficient: ``coefficient`` (logarithm of the hazard ratio), ``std_error``, ``z``, ``p_value``, ``lower``,
        ``upper``.
    covariance
        Of the coefficients.
    n_obs, n_events
        Number of patients, and of events.
    log_likelihood, null_log_likelihood
        Of the partial likelihood with the coefficients, and without any.
    baseline
        A row for each bin: ``start``, ``time``, ``events`` and cumulative ``hazard`` where all covariates are 0; None with strata.
    concordance, concordance_bounds
        How often, of two patients, the one with the higher score has the event first: from counts by parts of scores and times; and
        the least and the most that it can be. With strata, of pairs of one site, counted one by one.

    Examples
    --------
    >>> table = pd.DataFrame({"coefficient": [0.5]}, index=["age"])
    >>> nan = float("nan")
    >>> CoxModel(table, table, 80, 40, -120.0, -125.0, None, nan, (nan, nan)).n_events
    40
    """

    table: pd.DataFrame
    covariance: pd.DataFrame
    n_obs: int
    n_events: int
    log_likelihood: float
    null_log_likelihood: float
    baseline: pd.DataFrame | None
    concordance: float
    concordance_bounds: tuple[float, float]


@over_sites(
    between=True,
    time=COLUMN,
    event=COLUMN,
    formula=FORMULA,
    ties=Choice(("efron", "breslow")),
    strata=Choice(("site",), none=True),
    penalty=Real(0),
    grid=GRID,
    min_departures=Whole(FEWEST, none=True),
    level=LEVEL,
)
def cox(
    sites: Mapping[str, AnnData] | AnnData,
    time: str,
    event: str,
    formula: str,
    *,
    ties: Literal["efron", "breslow"] = "efron",
    strata: Literal["site"] | None = None,
    penalty: float = 0.0,
    grid: Sequence[float] | None = None,
    min_departures: int | None = None,
    level: float = 0.95,
    inplace: bool = False,
    key_added: str = "infl_cox",
    site_key: str | None = None,
    key: Keyring | None = None,
) -> CoxModel:
    """Fit Cox's proportional hazards to the patients of all sites, as R's ``coxph`` does to the pooled ones, on bins of time.

    With one baseline for all sites, times are in bins with `min_departures` departures or none (with ``ties="efron"``, of as many events
    or none and as many departures without one or none). The search begins where one with a baseline for each site ends, so that numbers
    about a bin are opened four times at most: for each of them the bin has two values of its patients. With ``strata="site"`` each site
    has its own baseline, risk sets stay at the site, and times are used as they are; take it where bins would be few.

    Parameters
    ----------
    sites
        AnnData by site name; a site may have a single patient, or no event.
    time, event
        Columns of ``obs``: time of observation, above 0, and whether an event ended it (0 or 1, or truth values).
    formula
        Terms, columns of ``obs``: ``"~ age + arm"``; see :func:`infl.tl.glm`.
    ties
        How events of one bin are counted.
    strata
        ``"site"`` gives each site a baseline hazard of its own.
    penalty
        Strength θ of a ridge penalty ½ θ Σ β², for more covariates than the events can tell apart.
    grid
        Ends of the narrowest bins, see :func:`infl.tl.survival`.
    min_departures
        Departures of each kind that a bin has, if it has any. None: from 16 for one covariate to 9 for many. With fewer, what is opened
        about a bin may tell the covariates of those who leave in it; with more, it may be opened more often.
    level
        Of the intervals.
    inplace
        Write the result into ``uns`` at every site, as tables and numbers.
    key_added
        Name of the field there.

    Returns
    -------
    The coefficients with standard errors, z, p-values and intervals, baseline hazard and concordance.

    Raises
    ------
    infl.errors.DataError
        Times, events or columns are missing or wrong; there are fewer than five events; terms follow from others, or a term tells those
        with an event apart.

    Warns
    -----
    infl.errors.InflWarning
        The coefficients did not come to a stand, or bins are so few that they move a coefficient.

    References
    ----------
    Cox (1972), Journal of the Royal Statistical Society B 34:187. Efron (1977), Journal of the American Statistical Association
    72:557. Harrell, Lee and Mark (1996), Statistics in Medicine 15:361.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> for adata in sites.values():
    ...     adata.obs["months"], adata.obs["died"] = np.arange(1, adata.n_obs + 1), True
    ...     adata.obs["gene"] = adata.X[:, 0]
    >>> found = infl.tl.cox(sites, "months", "died", "~ gene", ties="breslow")
    >>> found.n_events, found.table.index.tolist()
    (83, ['gene'])
    """
    design, rows = agree_on_design(sites, formula)
    kept = [j for j, name in enumerate(design.names) if name != INTERCEPT]
    names = [design.names[j] for j in kept]
    if not names or len(kept) == len(design.names):
        raise SettingsError(
            f"formula={formula!r}: write at least one term, without - 1; the baseline takes the intercept's place"
        )
    _check_strata(design, strata)
    patients = {
        site: Patients(one.time, one.event, one.group, rows[site][:, kept])
        for site, one in times_of(sites, time, event).items()
    }
    warn_of_grid({site: one.time for site, one in patients.items()}, time, grid)
    at = alongside(sites, patients)
    sums = cox_sums(
        names, efron=ties == "efron", stratified=strata is not None, penalty=penalty, grid=grid, least=min_departures
    )
    state = run_sums(sums, at, key, about="cox")
    if not state["search"].stands:
        more = "" if strata else ", strata='site', or a larger min_departures=, which allows more looks at bins"
        warn(f"cox: the coefficients did not come to a stand; look at the columns of formula=, or give penalty={more}")
    if "start" in state:
        _warn_of_bins(state, names, penalty)
    return written(_result(state, names, penalty, level), sites if inplace else {}, key_added)


def cox_sums(
    names: Sequence[str],
    *,
    efron: bool,
    stratified: bool,
    penalty: float,
    grid: Sequence[float] | None = None,
    least: int | None = None,
) -> list[FederatedSum]:
    """Return all sums of a fit; sites are :class:`infl.tl._cox_sums.Patients`."""
    frame = frame_sums(names, shifted=True, full_rank=penalty == 0)
    if stratified:
        return [*frame, stratified_sum(names, penalty, efron=efron), pairs_sum()]
    start, newton = (
        stratified_sum(names, penalty, efron=efron, start=True),
        newton_sum(names, penalty, efron=efron),
    )
    times = grid_sums(1, by_event=efron, given=grid, least=least or departures_of(len(names)))
    return [*times, *frame, start, event_sum(len(names), efron=efron), newton, concordance_sum()]


def _check_strata(design: Design, strata: str | None) -> None:
    if strata is not None and "site" in design.levels:
        raise SettingsError(
            "strata='site' gives each site its own baseline, so a term for the site tells nothing: leave it out"
        )


def _warn_of_bins(state: State, names: Sequence[str], penalty: float) -> None:
    """Say where bins move a coefficient more than baselines by site would."""
    frame, start, search = state["frame"], state["start"], state["search"]

    def variances(information: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(information + ridge_of(frame, penalty) + 1e-6 * np.eye(len(names)))
        return np.asarray(np.diag(frame.mix @ inverse @ frame.mix.T))

    of_bins, by_site = variances(search.information), variances(start.information)
    moved = np.abs(frame.mix @ (search.best - start.best)) - 2 * np.sqrt(np.maximum(by_site - of_bins, 0))
    j = int(np.argmax(moved / np.sqrt(of_bins)))
    if moved[j] > _MOVED * np.sqrt(of_bins[j]):
        warn(
            f"cox: bins of time are few ({len(ends_of(state))}), so {names[j]!r} is far from where exact times and a baseline for each site "
            "have it: take strata='site', which opens less too, or give min_departures= or more patients"
        )


def _result(state: State, names: list[str], penalty: float, level: float) -> CoxModel:
    search: Search = state["search"]
    assert search.information is not None
    frame, found = state["frame"], search.best
    covariance = frame.mix @ np.linalg.inv(search.information + ridge_of(frame, penalty)) @ frame.mix.T
    coefficients = frame.mix @ found
    baseline = None
    if "by_score" in state:
        baseline = _baseline(state, coefficients)
        concordance = concordance_of(state["by_score"])
    else:
        concordance = concordance_of_pairs(state["pairs"])
    n_events = state["n_events"] if baseline is None else int(state["events"].sum())
    shrunk = float(found @ ridge_of(frame, penalty) @ found) / 2
    return CoxModel(
        table=coefficient_table(names, coefficients, covariance, level),
        covariance=pd.DataFrame(covariance, index=names, columns=names),
        n_obs=state["n_obs"],
        n_events=n_events,
        log_likelihood=search.log_likelihood + shrunk,
        null_log_likelihood=search.null,
        baseline=baseline,
        concordance=concordance[0],
        concordance_bounds=concordance[1:],
    )


def _baseline(state: State, coefficients: np.ndarray) -> pd.DataFrame:
    ends, step = ends_of(state), state["search"].step
    n = len(ends)
    hazard = np.cumsum(step[:n]) * np.exp(-state["frame"].shift @ coefficients)
    start = np.concatenate([[0.0], ends[:-1]])
    return pd.DataFrame(
        {"start": start, "time": ends, "events": state["events"][:n].astype(np.int64), "hazard": hazard}
    )
