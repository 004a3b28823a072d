"""Domains that mean the same at all sites: a mixture of normal distributions over the latents of all sites, from sums.

All domains are equally wide in all directions, as for k-means, and each has a share of its own, so that a large tissue
need not be cut in parts (expectation maximisation for spherical normal distributions of one variance). Several beginnings go
abreast in the same exchanges, so they cost none. Their first centres are drawn from the normal distribution with mean and
covariance of all latents: no spot is ever anybody's centre.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from infl.sums.shape import Arrays, FederatedSum, Records, State

Latents = Callable[[Any, State], np.ndarray]
"""What gives the latents (n, d) of a site's records."""

MIXTURE_STARTS = 16
FEWEST = 5
"""Least number of spots that a centre is the mean of; smaller domains keep their centre."""
NARROWEST = 1e-3
"""Least variance within domains, of the latents' mean one: equal spots must not draw all likelihood to themselves."""


def mixture(latents: Latents, k: int, d: int, *, steps: int) -> list[FederatedSum]:
    """Return the sums that find the likeliest of several mixtures; state: ``centres``, ``variance``, ``shares``.

    Parameters
    ----------
    latents
        What gives the latents (n, d) of a site's records.
    k, d
        Number of domains, and of coordinates.
    steps
        Of expectation maximisation.
    """

    def local(site: Any, state: State) -> Arrays:
        return parts(latents(site, state), state)

    def finish(total: Arrays, state: State) -> State:
        return {name: value for name, value in state.items() if name != "floor"} | best(state, total)

    def records(site: Any, state: State) -> Records:
        found = local(site, state)["n"]
        return {"n": found, "sum": found[..., None], "squares": found.sum(-1), "likelihood": found.sum(-1)}

    begin = FederatedSum(
        name="latents",
        shapes=moment_shapes(d),
        local=lambda site, state: moments(latents(site, state)),
        combine=lambda total, state: {**state, **first(total, k)},
        says="number of spots, sums and products of the values that the model gives to them",
        records=lambda site, state: len(latents(site, state)),
        sensitivity={"n": 1},
    )
    go_on = FederatedSum(
        name="domains",
        shapes=part_shapes(k, d),
        local=local,
        combine=lambda total, state: moved(state, total),
        says="for each domain: number of spots and sums of the values that the model gives to them; their spread within domains",
        records=records,
        steps=steps,
        called="{name} {step}",
        finish=finish,
    )
    return [begin, go_on]


def moment_shapes(d: int) -> dict[str, tuple[int, ...]]:
    """Shapes of :func:`moments`."""
    return {"n": (), "sum": (d,), "products": (d, d)}


def moments(z: np.ndarray) -> Arrays:
    """Number, sum (d,) and products (d, d) of latents (n, d)."""
    return {"n": np.asarray(float(len(z))), "sum": z.sum(0), "products": z.T @ z}


def first(sums: Mapping[str, np.ndarray], k: int) -> Arrays:
    """Mixtures to begin with, the same at all sites: centres (beginnings, k, d), variance (beginnings,), shares (beginnings, k)."""
    n = max(float(sums["n"]), 1.0)
    mean = sums["sum"] / n
    values, axes = np.linalg.eigh(sums["products"] / n - np.outer(mean, mean))
    values = np.maximum(values, 0)
    draws = np.random.default_rng(0).standard_normal((MIXTURE_STARTS, k, len(mean)))
    return {
        "centres": mean + draws * np.sqrt(values) @ axes.T,
        "variance": np.full(MIXTURE_STARTS, max(values.mean(), 1e-12)),
        "shares": np.full((MIXTURE_STARTS, k), 1 / k),
        "floor": np.asarray(NARROWEST * max(values.mean(), 1e-12)),
    }


def part_shapes(k: int, d: int, beginnings: int = MIXTURE_STARTS) -> dict[str, tuple[int, ...]]:
    """Shapes of :func:`parts`."""
    each = (beginnings, k)
    return {"n": each, "sum": (*each, d), "squares": (beginnings,), "likelihood": (beginnings,)}


def log_joint(squares: np.ndarray, mixture: Mapping[str, np.ndarray]) -> np.ndarray:
    """Log-density of spots and domains (n, k) for squared distances (n, k) to a mixture's centres, up to a constant."""
    variance, d = mixture["variance"], mixture["centres"].shape[-1]
    return np.log(mixture["shares"]) - d / 2 * np.log(variance) - squares / (2 * variance)


def parts(z: np.ndarray, mixtures: Mapping[str, np.ndarray]) -> Arrays:
    """Of each beginning: numbers (k,) and sums (k, d) of each domain, squares about the centres, and log-likelihood."""
    begun, k, d = mixtures["centres"].shape
    sums: Arrays = {name: np.zeros(shape) for name, shape in part_shapes(k, d, begun).items()}
    if len(z):
        for i in range(begun):
            own = {name: mixtures[name][i] for name in ("centres", "variance", "shares")}
            squares = cdist(z, own["centres"], "sqeuclidean")
            joint = log_joint(squares, own)
            total = logsumexp(joint, axis=1, keepdims=True)
            belongs = np.exp(joint - total)
            sums["n"][i], sums["sum"][i], sums["likelihood"][i] = belongs.sum(0), belongs.T @ z, total.sum()
            sums["squares"][i] = (belongs * squares).sum()
    return sums


def moved(mixtures: Mapping[str, np.ndarray], sums: Mapping[str, np.ndarray]) -> Arrays:
    """Mixtures after a step of expectation maximisation."""
    before, n = mixtures["centres"], np.maximum(sums["n"], 1e-12)
    enough = sums["n"] >= FEWEST - 0.5
    centres = np.where(enough[..., None], sums["sum"] / n[..., None], before)
    about = sums["squares"] - (sums["n"] * ((centres - before) ** 2).sum(-1)).sum(-1)  # about the new centres
    variance = np.maximum(about / np.maximum(sums["n"].sum(-1) * before.shape[-1], 1e-12), mixtures["floor"])
    weights = np.maximum(sums["n"], 1.0)
    return {**mixtures, "centres": centres, "variance": variance, "shares": weights / weights.sum(-1, keepdims=True)}


def best(mixtures: Mapping[str, np.ndarray], sums: Mapping[str, np.ndarray]) -> Arrays:
    """The likeliest mixture, its largest domain first: centres (k, d), variance () and shares (k,)."""
    chosen = int(sums["likelihood"].argmax())
    order = np.argsort(-mixtures["shares"][chosen], kind="stable")
    of_domains = {name: mixtures[name][chosen][order] for name in ("centres", "shares")}
    return of_domains | {"variance": np.asarray(mixtures["variance"][chosen])}


def named(domain: np.ndarray, k: int, names: pd.Index) -> pd.Series:
    """Return domains (n,) as categories ``"0"``, ``"1"`` … of the observations `names`; missing where it is −1.

    Examples
    --------
    >>> named(np.array([1, -1]), 2, pd.Index(["x", "y"])).tolist()
    ['1', nan]
    """
    return pd.Series(pd.Categorical.from_codes(domain, categories=[str(i) for i in range(k)]), index=names)


def assign(z: np.ndarray, mixture: Mapping[str, np.ndarray], graph: sparse.csr_matrix, smooth: int) -> np.ndarray:
    """Return the domain of each spot (n,): the likeliest, then `smooth` times that of most of its neighbours.

    A spot's own domain counts as one vote and stays where votes are even.

    Examples
    --------
    >>> path = sparse.csr_matrix(np.eye(5, k=1) + np.eye(5, k=-1))
    >>> z = np.array([[0.0], [0.0], [9.0], [0.0], [0.0]])
    >>> two = {"centres": np.array([[0.0], [9.0]]), "variance": np.array(1.0), "shares": np.array([0.5, 0.5])}
    >>> assign(z, two, path, 0).tolist(), assign(z, two, path, 1).tolist()
    ([0, 0, 1, 0, 0], [0, 0, 0, 0, 0])
    """
    label = log_joint(cdist(z, mixture["centres"], "sqeuclidean"), mixture).argmax(1)
    one_hot = np.eye(len(mixture["shares"]))
    for _ in range(smooth):
        label = (graph @ one_hot[label] + (1 + 1e-6) * one_hot[label]).argmax(1)
    return label
