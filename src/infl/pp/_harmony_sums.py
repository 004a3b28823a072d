"""Harmony as sums over sites: soft clusters that every batch has its share of, then a ridge regression in each.

An observation's memberships follow from the centres and the weights of each batch in each cluster. So all that sites have to
agree on is a table of weights, and clustering is a search for the table that reproduces itself: each step, all sites
compute memberships from the last table at once, and add up the next one. No order of observations comes into it.

Of a batch that one site alone has, the weights stay there: others only need the totals of clusters, and the mean of a cluster
that its regression finds, which is a sum over batches. Of a batch that several sites have, these add up weights and sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.pp._harmony_cells import STEP, Cells
from infl.pp._sphere import FEWEST, directions
from infl.sums import FINE_SCALE, FederatedSum, Scale, State

if TYPE_CHECKING:
    from infl.sums.shape import Arrays, Records

COORDINATES = Scale(-80, limbs=5)
"""Of sums of coordinates, whose size nobody knows."""
_WEIGHTLESS = 1e-9


def start(centres: np.ndarray, n_shared: int) -> State:
    """Return what all sites know before the first sum: centres (k, d), as directions."""
    centres = directions(centres)
    none = np.zeros((len(centres), n_shared))
    return {"centres": centres, "shared": none, "damped": False, "moved": True, "objectives": ()}


def harmony_sums(k: int, d: int, n_shared: int, *, steps: int) -> tuple[FederatedSum, FederatedSum, FederatedSum]:
    """Return the first memberships, the steps of clustering, and the regressions.

    Parameters
    ----------
    k, d
        Most clusters, and number of coordinates. What there are less of, is 0.
    n_shared
        Batches that several sites have.
    steps
        Of clustering.
    """
    shared: dict[str, tuple[int, ...]] = {"shared": (k, n_shared)} if n_shared else {}
    shapes: dict[str, tuple[int, ...]] = {"totals": (k,), "objective": ()} | shared
    also = ", also of each batch that several sites have" if n_shared else ""
    clusters = FederatedSum(
        name="clusters",
        shapes=shapes,
        local=lambda site, state: _clustered(site, state, k, n_shared),
        combine=lambda total, state: _reached(total, state, STEP),
        finish=lambda total, state: _reached(total, state, 1.0),
        says=f"for each cluster: weight of the observations in it{also}; how well they fit",
        scale=FINE_SCALE,
        records=lambda site, state: _behind(site, shapes),
        sensitivity={"totals": 1} | dict.fromkeys(shared, 1),
        steps=steps,
    )
    memberships = replace(clusters, name="memberships", steps=1)
    shared = {"shared_sum": (k, n_shared, d)} if n_shared else {}
    sums: dict[str, tuple[int, ...]] = {"sum": (k, d), "weight": (k,), "objective": ()} | shared
    regressions = FederatedSum(
        name="regressions",
        shapes=sums,
        local=lambda site, state: _regressed(site, state, k, n_shared),
        combine=_corrected,
        says=f"for each cluster: sum of coordinates, weighted by batch, and the weight{also}; how well clusters fit",
        scale={"sum": COORDINATES, "weight": FINE_SCALE, "objective": FINE_SCALE} | dict.fromkeys(shared, COORDINATES),
        records=lambda site, state: _behind(site, sums),
    )
    return memberships, clusters, regressions


def converged(state: State, tol: float) -> bool:
    """Whether the last regressions made clusters fit better by less than this share.

    Examples
    --------
    >>> converged({"objectives": (100.0, 99.5)}, 0.01), converged({"objectives": (100.0, 90.0)}, 0.01)
    (True, False)
    """
    before, now = state["objectives"][-2:]
    return bool(before - now < tol * abs(before))


def _clustered(site: Cells, state: State, k: int, n_shared: int) -> Arrays:
    first = site.found is not None and not state["objectives"]  # of the memberships before any step
    objective = np.asarray(site.objective(state) if first else 0.0)
    weights = site.cluster(state)
    share = {"totals": _padded(weights.sum(1), k), "objective": objective}
    return share | ({"shared": _padded(site.of_shared(weights, n_shared), k)} if n_shared else {})


def _regressed(site: Cells, state: State, k: int, n_shared: int) -> Arrays:
    of_batches, sums, weights = site.regress(state)
    share = {"sum": _padded(sums, k), "weight": _padded(weights, k), "objective": np.asarray(site.objective(state))}
    if n_shared:
        large = (state["totals"] >= FEWEST)[:, None, None]
        share["shared_sum"] = _padded(np.where(large, site.of_shared(of_batches, n_shared), 0), k)
    return share


def _padded(values: np.ndarray, k: int) -> np.ndarray:
    """Return values (found, …) as (k, …): shapes of sums do not follow from values."""
    return np.concatenate([values, np.zeros((k - len(values), *values.shape[1:]))])


def _behind(site: Cells, shapes: Mapping[str, tuple[int, ...]]) -> Records:
    """Observations behind each number: all of the site, or those of a batch that several sites have."""
    of_batches = np.array([rows.stop - rows.start for rows in site.batches.rows], dtype=float)[None]
    n: dict[str, Any] = dict.fromkeys(shapes, len(site.x))
    for name in {"shared", "shared_sum"} & set(shapes):
        of_shared = site.of_shared(of_batches, shapes[name][1])
        n[name] = of_shared if name == "shared" else of_shared[..., None]
    return n


def _reached(total: Arrays, state: State, step: float) -> State:
    """Return the state with the weights that all sites go to, so far as the step goes."""
    k, shared = len(state["centres"]), state["shared"]
    totals = state.get("totals", np.zeros(k))
    objectives = state["objectives"] or ((float(total["objective"]),) if "totals" in state else ())
    if "shared" in total:
        shared = shared + step * (total["shared"][:k] - shared)
    return {
        **state,
        "totals": totals + step * (total["totals"][:k] - totals),
        "shared": shared,
        "damped": step < 1,
        "moved": False,
        "objectives": objectives,
    }


def _corrected(total: Arrays, state: State) -> State:
    """Return the state with each cluster's intercept, and the centre that it is the direction of."""
    k = len(state["centres"])
    weight = total["weight"][:k, None]
    known = weight > _WEIGHTLESS
    intercepts = np.where(known, total["sum"][:k] / np.where(known, weight, 1), 0)
    return {
        **state,
        "intercepts": intercepts,
        "centres": np.where(known, directions(intercepts), state["centres"]),
        "shared_sum": total["shared_sum"][:k] if "shared_sum" in total else np.zeros((k, 0, intercepts.shape[1])),
        "moved": True,
        "objectives": (*state["objectives"], float(total["objective"])),
    }
