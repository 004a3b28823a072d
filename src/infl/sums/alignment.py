"""Bringing the latents of all sections together, and naming domains alike: by sums over sites after the training rounds.

Everybody computes the same from the same sums. First the latent is whitened to as many axes as tell the domains apart. Then,
twice, from few clusters to many: k-means over all sites, and each section moves its share of every cluster to where all
sections have it, in mean and covariance, by the affine map of optimal transport between normal distributions (Gelbrich 1990).
That is what Harmony (Korsunsky et al. 2019) does to means, with clusters that follow from sums. Domains are the k-means of
what comes out: whitened and aligned, all are about equally wide. Only numbers, sums and products of a site's coordinates in a cluster leave it, never those of a spot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances_argmin

from infl.sums.mixture import FEWEST, MIXTURE_STARTS, moment_shapes, moments
from infl.sums.shape import Arrays, FederatedSum, Records, State

Sections = Callable[[Any, State], Sequence[np.ndarray]]
"""What gives the latents (n, d) of each of a site's sections."""
ITERATIONS = 15
"""Of each k-means."""
FINE = 20
"""Clusters of the second alignment."""
LEVELS = 2


@dataclass(frozen=True)
class Alignment:
    """Sums that align latents and find domains.

    Parameters
    ----------
    n_latent
        Size of the latent.
    n_domains
        How many domains there are (None: latents are aligned, and no domains named).
    """

    n_latent: int
    n_domains: int | None

    @property
    def n_axes(self) -> int:
        """Number of axes that hold the means of all domains."""
        return self.n_latent if self.n_domains is None else max(1, min(self.n_latent, self.n_domains - 1))

    def clusters(self, level: int) -> tuple[int, int]:
        """Beginnings and clusters of a level's k-means; the last level has the domains."""
        if level == LEVELS:
            return 1, self.n_domains or 0
        return MIXTURE_STARTS, FINE if level else (self.n_domains or self.n_axes + 1)

    def sums(self, sections_of: Sections) -> list[FederatedSum]:
        """Return all sums, in order, given a function that returns the latents (n, d) of a site's sections."""
        sums = [self._latent(sections_of)]
        for level in range(LEVELS + (self.n_domains is not None)):
            sums.append(self._centres(sections_of, level))
            sums += [self._align(sections_of, level)] if level < LEVELS else []
        return sums

    def _latent(self, sections_of: Sections) -> FederatedSum:
        """Moments of the latents, from which follow mean and axes."""

        def combine(total: Arrays, state: State) -> State:
            n = max(float(total["n"]), 1.0)
            mean = total["sum"] / n
            values, axes = np.linalg.eigh(total["products"] / n - np.outer(mean, mean))  # ascending
            values, axes = values[::-1][: self.n_axes], axes[:, ::-1][:, : self.n_axes]
            axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(self.n_axes)])
            scale = values if self.n_domains else np.full(len(values), values[0])
            return {**state, "latent_mean": mean, "latent_axes": axes / np.sqrt(np.maximum(scale, 1e-12))}

        shapes = moment_shapes(self.n_latent)
        return FederatedSum(
            name="latent",
            shapes=shapes,
            local=lambda site, state: _over_sections(moments, sections_of(site, state), shapes),
            combine=combine,
            says="sums and products of the values that the model gives to records",
            records=lambda site, state: sum(map(len, sections_of(site, state))),
            sensitivity={"n": 1},
        )

    def _centres(self, sections_of: Sections, level: int) -> FederatedSum:
        """Steps of Lloyd's algorithm over all sites, from several beginnings; the best is kept."""
        begun, k = self.clusters(level)
        shapes: dict[str, tuple[int, ...]] = {"n": (begun, k), "sum": (begun, k, self.n_axes), "squares": (begun,)}

        def local(site: Any, state: State) -> Arrays:
            centres = self._begin(level, state)
            found = _over_sections(lambda z: nearest(self.aligned(z, state), centres), sections_of(site, state), shapes)
            return _without_few(found)

        def moved(total: Arrays, state: State) -> np.ndarray:
            count = total["n"][..., None]
            to = total["sum"] / np.maximum(count, 1e-12)
            return np.where(count >= FEWEST - 0.5, to, self._begin(level, state))

        def combine(total: Arrays, state: State) -> State:
            return {**state, f"centres_{level}": moved(total, state)}

        def finish(total: Arrays, state: State) -> State:
            centres = moved(total, state)
            done = {name: value for name, value in state.items() if name != f"centres_{level}"}
            best, n = int(total["squares"].argmin()), max(float(total["n"][0].sum()), 1.0)
            done[f"clusters_{level}"] = centres[best][np.argsort(-total["n"][best], kind="stable")]  # the largest first
            done[f"variance_{level}"] = np.asarray(total["squares"][best] / n / self.n_axes)
            return done

        def records(site: Any, state: State) -> Records:
            n = local(site, state)["n"]
            return {"n": n, "sum": n[..., None], "squares": sum(map(len, sections_of(site, state)))}

        return FederatedSum(
            name="centres",
            shapes=shapes,
            local=local,
            combine=combine,
            says="for each group: number of records, sums and spread of the values that the model gives to them",
            records=records,
            steps=ITERATIONS,
            called=f"{{name}}_{level}_{{index}}",
            finish=finish,
        )

    def _align(self, sections_of: Sections, level: int) -> FederatedSum:
        """Mean and covariance of each cluster, to which every section moves its share of it."""
        k, q = self.clusters(level)[1], self.n_axes
        shapes = {"n": (k,), "sum": (k, q), "within": (k, q, q)}

        def local(site: Any, state: State) -> Arrays:
            found = _over_sections(
                lambda z: self._clusters(self.aligned(z, state), state, level), sections_of(site, state), shapes
            )
            return _without_few(found)

        def combine(total: Arrays, state: State) -> State:
            number, enough = np.maximum(total["n"], 1e-9), total["n"] >= FEWEST
            means = np.where(enough[:, None], total["sum"] / number[:, None], state[f"clusters_{level}"])
            sphere = state[f"variance_{level}"] * np.eye(q)
            covariances = np.where(enough[:, None, None], total["within"] / number[:, None, None], sphere)
            return {**state, f"means_{level}": means, f"covariances_{level}": covariances}

        def records(site: Any, state: State) -> Records:
            n = local(site, state)["n"]
            return {"n": n, "sum": n[:, None], "within": n[:, None, None]}

        return FederatedSum(
            name="align",
            shapes=shapes,
            local=local,
            combine=combine,
            says="for each group: number of records, sums and products of the values that the model gives to them",
            records=records,
            called=f"{{name}}_{level}",
        )

    def aligned(self, z: np.ndarray, state: State) -> np.ndarray:
        """Return one section's latents (n, n_axes) where all sections have them, as far as the sums go."""
        a = (z - state["latent_mean"]) @ state["latent_axes"]
        for level in range(LEVELS):
            if f"means_{level}" in state:
                a = self._moved(a, state, level)
        return a

    def label(self, aligned: np.ndarray, state: State) -> np.ndarray:
        """Return the domain of each spot, as a number."""
        return pairwise_distances_argmin(aligned, state[f"clusters_{LEVELS}"])

    # -- clusters --------------------------------------------------------------------------------------------------
    def _begin(self, level: int, state: State) -> np.ndarray:
        """Centres (beginnings, k, q) that a step begins with."""
        if f"centres_{level}" in state:
            return state[f"centres_{level}"]
        if level == LEVELS:
            return state["clusters_0"][None]
        begun, k = self.clusters(level)
        return np.random.default_rng(level).standard_normal((begun, k, self.n_axes))

    @staticmethod
    def _shares(a: np.ndarray, state: State, level: int) -> np.ndarray:
        """How much each spot belongs to each cluster (n, k)."""
        squares = ((a[:, None] - state[f"clusters_{level}"]) ** 2).sum(2)
        logits = -squares / (2 * max(float(state[f"variance_{level}"]), 1e-9))
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def _clusters(self, a: np.ndarray, state: State, level: int) -> Arrays:
        """Numbers, sums, and products about the section's own means."""
        shares = self._shares(a, state, level)
        n, sums = shares.sum(0), shares.T @ a
        centred = a[:, None] - sums / np.maximum(n, 1e-9)[:, None]
        return {"n": n, "sum": sums, "within": np.einsum("nk,nkq,nkr->kqr", shares, centred, centred)}

    def _moved(self, a: np.ndarray, state: State, level: int) -> np.ndarray:
        """Move a section's clusters to where all sections have them; those of few spots only a part of the way."""
        shares, own = self._shares(a, state, level), self._clusters(a, state, level)
        means, covariances = state[f"means_{level}"], state[f"covariances_{level}"]
        prior = a.shape[1] + 1.0
        moved = np.zeros_like(a)
        for k, n in enumerate(own["n"]):
            mean = (own["sum"][k] + prior * means[k]) / (n + prior)
            covariance = (own["within"][k] + prior * covariances[k]) / (n + prior)
            moved += shares[:, [k]] * (means[k] + (a - mean) @ transport(covariance, covariances[k]))
        return moved


def _over_sections(
    of: Callable[[np.ndarray], Arrays], sections: Sequence[np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> Arrays:
    """Add what a function finds in each section."""
    sums = {name: np.zeros(shape) for name, shape in shapes.items()}
    for z in sections:
        found = of(z)
        sums = {name: value + found[name] for name, value in sums.items()}
    return sums


def _without_few(sums: Arrays) -> Arrays:
    """Return sums with zeros for clusters of few spots, but for the squared distances, which are over all of them."""
    few = sums["n"] < FEWEST
    return {
        name: value if name == "squares" else np.where(_like(few, value), 0.0, value) for name, value in sums.items()
    }


def nearest(z: np.ndarray, centres: np.ndarray) -> Arrays:
    """Of each beginning: numbers (k,) and sums (k, q) of the latents nearest to each centre, and squared distances."""
    begun, k, q = centres.shape
    n, sums, squares = np.zeros((begun, k)), np.zeros((begun, k, q)), np.zeros(begun)
    if len(z):
        for i, own in enumerate(centres):
            distances = cdist(z, own, "sqeuclidean")
            member = np.eye(k)[distances.argmin(1)]
            n[i], sums[i], squares[i] = member.sum(0), member.T @ z, distances.min(1).sum()
    return {"n": n, "sum": sums, "squares": squares}


def _like(mask: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Give a mask as many axes as an array has."""
    return mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim))


def transport(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the symmetric map (q, q) that turns one covariance into another.

    Examples
    --------
    >>> transport(np.diag([4.0, 1.0]), np.diag([1.0, 9.0])).round(3)
    array([[0.5, 0. ],
           [0. , 3. ]])
    """
    floor = 1e-6 * max(np.trace(target), 1e-12) / len(target) * np.eye(len(target))
    root, back = _power(source + floor, 0.5), _power(source + floor, -0.5)
    return back @ _power(root @ (target + floor) @ root, 0.5) @ back


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T
