"""Harmony over all sites: principal components in which batches are mixed where cells are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from infl._parameters import PARAMETERS, SEED, Key, Kind, Real, Text, Whole
from infl._renamed import spelled
from infl._warn import warn
from infl.data.columns import obs_column
from infl.data.consortium import agreed, agreed_categories, alongside
from infl.data.coordinates import coordinates
from infl.data.copy import own
from infl.data.labels import holders, label_text, near_misses
from infl.data.sites import over_sites
from infl.errors import DataError, SettingsError
from infl.pp._harmony_cells import Batches, Cells, Options
from infl.pp._harmony_sums import converged, harmony_sums, start
from infl.pp._matrix import real_type
from infl.pp._sphere import FEWEST, Directions, first_centres
from infl.sums import COUNT_SCALE, FederatedSum, State, n_observations, run_sums

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from infl.keys import Keyring

_SITE = "site"
_MOST_CLUSTERS, _IN_A_CLUSTER = 100, 30


@dataclass(frozen=True, kw_only=True)
class _KeyRing(Kind):
    """A key ring, or the name of a column: scanpy calls the batches ``key``."""

    @property
    def wants(self) -> str:
        return "a key ring, e.g. infl.keys.Keyring.load(path), or the name of one obs column"

    def take(self, value: Any) -> Any:
        return Text().take(value) if isinstance(value, str) else PARAMETERS["key"].take(value)


@spelled(random_state="seed")
@over_sites(
    between=True,
    batch_key=Text(none=True, says="the name of one obs column"),
    basis=Text(says="the name of an array in obsm"),
    adjusted_basis=Key(),
    n_clusters=Whole(1, none=True),
    max_iter_harmony=Whole(1),
    max_iter_clustering=Whole(1),
    tol_harmony=Real(0),
    sigma=Real(0, open="low"),
    theta=Real(0),
    tau=Real(0),
    alpha=Real(0, open="low"),
    batch_prune_threshold=Real(0, 1, none=True),
    seed=SEED,
    key=_KeyRing(none=True),
)
def harmony_integrate(
    sites: Mapping[str, AnnData | MuData] | AnnData | MuData,
    batch_key: str | None = None,
    *,
    basis: str = "X_pca",
    adjusted_basis: str = "X_pca_harmony",
    dtype: str = "float64",
    n_clusters: int | None = None,
    max_iter_harmony: int = 10,
    max_iter_clustering: int = 4,
    tol_harmony: float = 1e-2,
    sigma: float = 0.1,
    theta: float = 2.0,
    tau: float = 0.0,
    alpha: float = 0.2,
    batch_prune_threshold: float | None = 1e-5,
    seed: int = 0,
    site_key: str | None = None,
    key: Keyring | str | None = None,
) -> None:
    """Correct coordinates of all sites for their batches by Harmony, as ``scanpy.pp.harmony_integrate`` does pooled data.

    Soft clusters are found in which batches are represented as in the whole; in each cluster a ridge regression tells what
    the batch adds to the coordinates, which is taken off; and again, until clusters fit no better. It is the Harmony of
    scanpy 1.13's default (``flavor="harmony2"``), but for the order in which memberships are updated: all at once and
    half the way, in place of random blocks, so that clustering takes one sum per step.

    Cells stay at their sites, and what is particular to a batch that one site alone has is in no sum of its own. Sites add up,
    for each cluster, the weight of the observations in it, and sum and weight of coordinates, weighted so that all batches count
    alike. Of a batch that several sites have, these add up its weight and its sum in each cluster; one of fewer than five
    observations counts as a batch of each site. Where one site alone has batches of its own, and all others are shared, what the
    shared ones add up to can be taken off the sums of all, and its own is left: then there is a warning.

    Parameters
    ----------
    sites
        AnnData or MuData by site name.
    batch_key
        Column of ``obs`` with the batches. None or ``"site"``: each site is a batch. scanpy calls it ``key``, and a text given
        as `key` is taken for it.
    basis
        Key of ``obsm`` with coordinates that are in common, e.g. by :func:`infl.pp.pca`.
    adjusted_basis
        Key of ``obsm`` to write to.
    dtype
        Of what is written; the computation is in float64.
    n_clusters
        None: one for 30 observations, at least 2 and at most 100.
    max_iter_harmony
        Most corrections.
    max_iter_clustering
        Steps of clustering before each.
    tol_harmony
        Corrections end when the objective falls by less than this share.
    sigma
        Width of clusters: the larger, the softer.
    theta
        Strength of the penalty for clusters that have more of a batch than its share; 0: none.
    tau
        The penalty is weaker for batches with few observations, less than about `tau` per cluster; 0: for none.
    alpha
        The ridge of a batch's effect in a cluster is `alpha` times the weight that is expected of it.
    batch_prune_threshold
        A batch is not corrected in a cluster that has less than this share of it. None: in all.
    seed
        Seed of the first centres; all sites use the same.
    site_key
        Of one object in place of the dict: the column of ``obs`` that says which site a row belongs to.

    Returns
    -------
    None. At every site are written ``obsm["X_pca_harmony"]`` and ``uns["X_pca_harmony"]``, with ``params``, the ``objective``
    after each correction, and whether it ``converged``, which are alike everywhere.

    Raises
    ------
    infl.errors.DataError
        The basis is missing, has NaN, or differs in width between sites; an observation has no batch; there are too few.
    infl.errors.SettingsError
        There are more clusters than observations for them.

    Warns
    -----
    infl.errors.InflWarning
        There is one batch alone, names of batches look alike, sums of one site's own batches follow from the others, or
        `max_iter_harmony` corrections were not enough.

    References
    ----------
    Korsunsky et al. (2019), Fast, sensitive and accurate integration of single-cell data with Harmony. Nature Methods 16:1289.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.pca(sites, n_comps=10)
    >>> infl.pp.harmony_integrate(sites)
    >>> sites["site_2"].obsm["X_pca_harmony"].shape[1]
    10
    """
    if isinstance(key, str):
        if batch_key is not None:
            raise SettingsError(
                f"key={key!r} and batch_key={batch_key!r} both name a column: give batches by one of them"
            )
        batch_key, key = key, None
    written = real_type(dtype)
    x = coordinates(sites, basis, role="basis")
    n_obs = n_observations(alongside(sites, {site: len(of) for site, of in x.items()}), key, about="harmony")
    k = _n_clusters(n_clusters, n_obs)
    labels, notes = _labels(sites, batch_key)
    options = Options(theta, sigma, tau, alpha, batch_prune_threshold or 0.0)
    shared, of_sums = _shared(x, labels, key)
    cells, order = _cells(x, labels, n_obs, shared, options)
    state = _run(cells, k, len(shared), max_iter_harmony, max_iter_clustering, tol_harmony, seed, key)
    done = converged(state, tol_harmony)
    if not done:
        notes.append(f"Harmony did not converge in {max_iter_harmony} corrections: raise max_iter_harmony")
    params = {"batch_key": batch_key or _SITE, "basis": basis, "n_clusters": len(state["centres"]), "theta": theta}
    params |= {"sigma": sigma, "tau": tau, "alpha": alpha, "random_state": seed}
    results = {site: _unsorted(cells[site].corrected(state), order[site]).astype(written) for site in cells}
    for note in [*notes, *of_sums]:
        warn(note)
    for site, adata in sites.items():
        own(adata).obsm[adjusted_basis] = results[site]
        objective = np.array(state["objectives"])
        adata.uns[adjusted_basis] = {"params": dict(params), "objective": objective, "converged": done}


def _n_clusters(n_clusters: int | None, n_obs: int) -> int:
    most = n_obs // FEWEST
    if most < 1:
        raise DataError(f"there are {n_obs} observations at all sites together: Harmony needs {FEWEST} or more")
    if n_clusters is None:
        return min(max(round(n_obs / _IN_A_CLUSTER), 2), _MOST_CLUSTERS, most)
    if n_clusters > most:
        raise SettingsError(
            f"n_clusters must be from 1 to {most} for {n_obs} observations ({FEWEST} a cluster), not {n_clusters}"
        )
    return n_clusters


def _labels(sites: Mapping[str, AnnData | MuData], batch_key: str | None) -> tuple[Mapping[str, np.ndarray], list[str]]:
    """The batch of each observation as text, (n_obs,), and what to warn of."""
    is_there = agreed(sites, "obs['site']", {site: _SITE in adata.obs for site, adata in sites.items()})
    if batch_key is None or (batch_key == _SITE and not any(is_there.values())):
        labels = alongside(sites, {site: np.full(adata.n_obs, site, dtype=object) for site, adata in sites.items()})
        return labels, _notes(labels, "sites")
    columns = {site: obs_column(adata, batch_key, where=site, role="batch_key") for site, adata in sites.items()}
    labels = alongside(sites, {site: label_text(column).to_numpy() for site, column in columns.items()})
    return labels, _notes(labels, repr(batch_key))


def _notes(labels: Mapping[str, np.ndarray], column: str) -> list[str]:
    at = _holders(labels)
    if len(at) == 1:
        return [f"all observations are of one batch ({next(iter(at))!r}): there is nothing to correct for"]
    if column == "sites":
        return []
    return [
        f"batches {a!r} ({at[a][0]}) and {b!r} ({at[b][0]}) in {column} look like one; if they are, spell them "
        "alike at all sites"
        for a, b in near_misses(at)
    ]


def _holders(labels: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Which sites have each batch."""
    return dict(sorted(holders(agreed_categories(labels, "batches", labels)).items()))


def _shared(
    x: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], key: Keyring | None
) -> tuple[dict[str, float], list[str]]:
    """Observations of each batch that several sites have, and what to warn of; one of few observations is each site's own."""
    at = _holders(labels)
    shared = [name for name, of in at.items() if len(of) > 1]
    if not shared:
        return {}, []
    counts = {site: {name: int((of == name).sum()) for name in shared} for site, of in labels.items()}
    n = run_sums([size_sum(shared)], alongside(x, counts), key, about="harmony")["sizes"]
    large = {name: float(of) for name, of in zip(shared, n, strict=True) if of >= FEWEST}
    apart = sorted({site for name, of in at.items() if name not in large for site in of})
    if len(apart) != 1 or not large:
        return large, []
    return large, [
        f"{apart[0]} alone has batches that no other site has: as all other batches are summed by themselves, its own sums "
        "follow from those of all"
    ]


def _cells(
    x: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    n_obs: int,
    shared: Mapping[str, float],
    options: Options,
) -> tuple[Mapping[str, Cells], dict[str, np.ndarray]]:
    """Each site's observations by batch, and the order that they are in."""
    number = {name: i for i, name in enumerate(shared)}
    cells, orders = {}, {}
    for site, of in labels.items():
        batches = {name: np.flatnonzero(of == name) for name in sorted(set(of))}
        ends = np.cumsum([0, *map(len, batches.values())])
        rows = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        numbers = np.array([number.get(name, -1) for name in batches], dtype=int)
        n = np.array([shared.get(name, float(len(own_rows))) for name, own_rows in batches.items()])
        orders[site] = np.concatenate([*batches.values(), np.zeros(0, dtype=int)])
        cells[site] = Cells(x[site][orders[site]], Batches(rows, numbers, n, n_obs), options)
    return alongside(x, cells), orders


def size_sum(names: Sequence[str]) -> FederatedSum:
    """Return the sum of observations of each batch that several sites have; state: ``sizes``."""
    return FederatedSum(
        name="batches",
        shapes={"n": (len(names),)},
        local=lambda site, state: {"n": np.array([site.get(name, 0) for name in names], dtype=float)},
        combine=lambda total, state: {**state, "sizes": total["n"]},
        says="number of observations of each batch that several sites have",
        scale=COUNT_SCALE,
        records=lambda site, state: np.array([site.get(name, 0) for name in names]),
        sensitivity={"n": 1},
    )


def _run(
    cells: Mapping[str, Cells],
    k: int,
    n_shared: int,
    max_iter: int,
    steps: int,
    tol: float,
    seed: int,
    key: Keyring | None,
) -> State:
    """What all sites know after Harmony converged, or after the last correction."""
    looks = alongside(cells, {site: Directions.of(of_site.x) for site, of_site in cells.items()})
    centres = first_centres(looks, k, seed=seed, key=key, about="harmony")
    memberships, clusters, regressions = harmony_sums(k, centres.shape[1], n_shared, steps=steps)
    state = run_sums([memberships], cells, key, state=start(centres, n_shared), about="harmony")
    for _ in range(max_iter):
        state = run_sums([clusters, regressions], cells, key, state=state, about="harmony")
        if converged(state, tol):
            break
    return state


def _unsorted(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    result = np.empty_like(values)
    result[order] = values
    return result
