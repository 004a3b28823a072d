"""Dealing one object out to sites: the real ones named in a column, or simulated ones."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from infl._parameters import COLUMNS, OTHER_COLUMN, Real, Whole, door
from infl.data.columns import obs_column, shortlist
from infl.data.copy import reopened, subset_obs
from infl.data.labels import label_text
from infl.errors import DataError, SettingsError

_MIN_OBS = 5  # what every simulated site gets under label skew, where there are enough observations
_MIN_SECOND = 2  # observations that are not of the site's most frequent class, at least


@door(
    n_sites=Whole(1, says="a whole number of at least 1; a column of obs is by="),
    by=OTHER_COLUMN,
    stratify=replace(COLUMNS, none=True),
    alpha=Real(0, open="low", none=True),
)
def split_sites(
    adata: AnnData | MuData,
    n_sites: int = 5,
    *,
    by: str | None = None,
    stratify: str | Sequence[str] | None = None,
    alpha: float | None = None,
    seed: int = 0,
) -> dict:
    """Split one object into sites.

    With ``by``, sites are the values of a column: real hospitals, studies, donors. Otherwise they are simulated:
    observations are shuffled and dealt out evenly, within the strata of ``stratify`` if given, or with skewed labels
    if ``alpha`` is given too.

    Parameters
    ----------
    adata
        Annotated data: in memory, a view or backed. It is not changed.
    n_sites
        Number of simulated sites; not used with ``by``.
    by
        Column of ``obs`` whose values name the sites.
    stratify
        Column or columns of ``obs``, the most important first. Of every value of the first column (and every
        combination of all) each site gets the same number of observations, give or take one; so it does in total.
    alpha
        Label skew: the share of each class that goes to each site is drawn from a symmetric Dirichlet distribution
        with this parameter (Hsu et al. 2019). 100 is close to even, 0.1 gives most of a class to one site. A site
        that then has fewer than five observations, or fewer than two outside its most frequent class, is given what
        it lacks by the best supplied sites, as far as there are enough.
    seed
        Fixes who gets what.

    Returns
    -------
    One copy a site, in memory, observations in their old order. Keys are ``site_1``, ``site_2``, … or the values of
    ``by`` as text, sorted. Every observation is at exactly one site.

    Raises
    ------
    infl.errors.DataError
        A column is missing or has empty values, or there are fewer observations than sites.
    infl.errors.SettingsError
        Arguments that exclude each other, or out of range.

    References
    ----------
    Hsu, Qi and Brown (2019), Measuring the effects of non-identical data distribution for federated visual
    classification. arXiv:1909.06335.

    Examples
    --------
    >>> import infl
    >>> sites = infl.pp.split_sites(infl.datasets.khan(), 3, stratify="tumour_class", alpha=0.5, seed=1)
    >>> sum(site.n_obs for site in sites.values())
    83
    """
    adata = reopened(adata)
    if by is not None:
        if stratify is not None or alpha is not None:
            raise SettingsError("by takes the sites from a column, so stratify and alpha have no part in it: drop them")
        return _split_by(adata, by)

    _check_numbers(adata.n_obs, n_sites, stratify, alpha)
    rng = np.random.default_rng(seed)
    strata = _strata(adata, stratify)
    site_of = deal(strata, n_sites, rng) if alpha is None else deal_skewed(strata, n_sites, alpha, rng)
    return {f"site_{i + 1}": subset_obs(adata, np.flatnonzero(site_of == i)) for i in range(n_sites)}


def deal(strata: np.ndarray, n_sites: int, rng: np.random.Generator) -> np.ndarray:
    """Deal observations out evenly.

    Shuffled within strata and dealt like cards, one stratum after the other: what a site has of a stratum, of
    neighbouring strata together, or of all, differs by one at most from what another site has.

    Parameters
    ----------
    strata
        Stratum of each observation, ``(n_obs,)`` integers in nested order.
    n_sites
        Number of sites.
    rng
        Source of randomness.

    Returns
    -------
    Site of each observation, ``(n_obs,)``.
    """
    shuffled = rng.permutation(len(strata))
    order = shuffled[np.argsort(strata[shuffled], kind="stable")]
    site_of = np.empty(len(strata), dtype=np.intp)
    site_of[order] = rng.permutation(n_sites)[np.arange(len(strata)) % n_sites]
    return site_of


def deal_skewed(labels: np.ndarray, n_sites: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Deal observations out with label skew; arguments as in :func:`deal`."""
    sizes = np.bincount(labels)
    counts = np.stack([rng.multinomial(size, _shares(alpha, n_sites, rng)) for size in sizes])  # (n_classes, n_sites)
    counts = _supply(counts)
    site_of = np.empty(len(labels), dtype=np.intp)
    for label, row in enumerate(counts):
        site_of[rng.permutation(np.flatnonzero(labels == label))] = np.repeat(np.arange(n_sites), row)
    return site_of


def _shares(alpha: float, n_sites: int, rng: np.random.Generator) -> np.ndarray:
    shares = rng.dirichlet(np.full(n_sites, alpha))
    if np.isfinite(shares).all() and np.isclose(shares.sum(), 1):
        return shares
    return np.eye(n_sites)[rng.integers(n_sites)]  # the limit alpha → 0, where the draw underflows


def _supply(counts: np.ndarray) -> np.ndarray:
    """Move single observations from the best supplied sites to those short of them; counts is (n_classes, n_sites)."""
    counts = counts.copy()
    floor = min(_MIN_OBS, counts.sum() // counts.shape[1])
    for _ in range(counts.sum()):
        if (move := _next_move(counts, floor)) is None:
            break
        label, giver, taker = move
        counts[label, giver] -= 1
        counts[label, taker] += 1
    return counts


def _next_move(counts: np.ndarray, floor: int) -> tuple[int, int, int] | None:
    total, main = counts.sum(axis=0), counts.max(axis=0)
    taker = int(np.argmin(total))
    if total[taker] < floor:
        giver = int(np.argmax(total))
        return int(np.argmax(counts[:, giver])), giver, taker

    second = total - main
    taker = int(np.argmin(second))
    if len(counts) < 2 or second[taker] >= _MIN_SECOND:
        return None
    # A class that the taker mostly has is no help to it, and no giver may fall short by giving.
    is_main = counts == main
    only_main = is_main & (is_main.sum(axis=0) == 1)
    second_after = total - 1 - (main - only_main)
    offers = counts * ((total > floor) & (only_main | (second_after >= _MIN_SECOND)))
    offers[np.argmax(counts[:, taker]), :] = 0
    offers[:, taker] = 0
    if not offers.any():
        return None
    best, source = np.unravel_index(np.argmax(offers), offers.shape)
    return int(best), int(source), taker


def _strata(adata: AnnData | MuData, stratify: str | Sequence[str] | None) -> np.ndarray:
    """Number of each observation's stratum, (n_obs,): combinations of the columns, the first varying slowest."""
    names = [stratify] if isinstance(stratify, str) else list(stratify or [])
    strata = np.zeros(adata.n_obs, dtype=np.intp)
    for name in names:
        values = obs_column(adata, name, where="the data", role="stratify")
        if pd.api.types.is_float_dtype(values.dtype) and values.nunique() > len(values) // 2:
            raise DataError(f"stratify {name!r} is numeric with {values.nunique()} values; cut it into classes first")
        codes, levels = pd.factorize(values, sort=True)
        strata = np.unique(strata * len(levels) + codes, return_inverse=True)[1]
    return strata


def _split_by(adata: AnnData | MuData, by: str) -> dict:
    names = label_text(obs_column(adata, by, where="the data", role="by")).to_numpy()
    found = sorted(set(names.tolist()))
    folded: dict[str, list[str]] = {}
    for name in found:
        folded.setdefault(" ".join(name.split()).casefold(), []).append(name)
    for alike in folded.values():
        if len(alike) > 1:
            raise DataError(
                f"by {by!r} has values that differ in case or white space only: {shortlist(alike)}; make them one"
            )
    return {name: subset_obs(adata, np.flatnonzero(names == name)) for name in found}


def _check_numbers(n_obs: int, n_sites: int, stratify: object, alpha: float | None) -> None:
    if n_sites > n_obs:
        raise DataError(f"n_sites is {n_sites}, but there are {n_obs} observations: ask for fewer sites")
    if alpha is None:
        return
    if stratify is None:
        raise SettingsError("alpha skews labels, so it needs stratify: the column of obs that holds them")
