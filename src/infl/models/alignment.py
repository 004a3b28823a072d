"""Bringing the latents of all sections together, and naming domains alike: by sums over sites after the training rounds.

Everybody computes the same from the same sums. First the latent is whitened to as many axes as tell the domains apart. Then,
twice, from few clusters to many: k-means over all sites, and each section moves its share of every cluster to where all
sections have it, in mean and covariance, by the affine map of optimal transport between normal distributions (Gelbrich 1990).
That is what Harmony (Korsunsky et al. 2019) does to means, with clusters that follow from sums. Domains are the k-means of
what comes out: whitened and aligned, all are about equally wide. Only numbers, sums and products of a site's coordinates in a cluster leave it, never those of a spot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances_argmin

from infl.models import domains
from infl.models.domains import BEGINNINGS, FEWEST
from infl.models.task import Sums

ITERATIONS = 15
"""Of each k-means."""
FINE = 20
"""Clusters of the second alignment."""
LEVELS = 2
_CLUSTERED = ("n", "sum", "products", "within")


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
        """So many axes hold the means of all domains."""
        return self.n_latent if self.n_domains is None else max(1, min(self.n_latent, self.n_domains - 1))

    def clusters(self, level: int) -> tuple[int, int]:
        """Beginnings and clusters of a level's k-means; the last level has the domains."""
        if level == LEVELS:
            return 1, self.n_domains or 0
        return BEGINNINGS, FINE if level else (self.n_domains or self.n_axes + 1)

    def stages(self) -> list[str]:
        """Names of all sums, in order."""
        names = ["latent"]
        for level in range(LEVELS + (self.n_domains is not None)):
            names += [f"centres_{level}_{i}" for i in range(ITERATIONS)]
            names += [f"align_{level}"] if level < LEVELS else []
        return names

    def shapes(self, stage: str) -> dict[str, tuple[int, ...]]:
        """Shapes of a stage's sums."""
        d, q = self.n_latent, self.n_axes
        if stage == "latent":
            return domains.moment_shapes(d)
        what, level = stage.split("_")[:2]
        begun, k = self.clusters(int(level))
        if what == "align":
            return {"n": (k,), "sum": (k, q), "within": (k, q, q)}
        return {"n": (begun, k), "sum": (begun, k, q), "squares": (begun,)}

    def measure(self, stage: str, sections: Sequence[np.ndarray], private: Sums) -> Sums:
        """Return a site's part of a stage, from the latents (n, d) of its sections."""
        sums = {name: np.zeros(shape) for name, shape in self.shapes(stage).items()}
        for z in sections:
            if stage == "latent":
                found = domains.moments(z)
            elif stage.startswith("align"):
                found = self._clusters(self.aligned(z, private), private, int(stage.split("_")[1]))
            else:
                found = nearest(self.aligned(z, private), self._centres(stage, private))
            sums = {name: value + found[name] for name, value in sums.items()}
        few = sums["n"] < FEWEST
        return {
            name: np.where(_like(few, value), 0.0, value) if name in _CLUSTERED else value
            for name, value in sums.items()
        }

    def absorb(self, stage: str, sums: Sums, private: Sums) -> Sums:
        """Return the private arrays after a stage's sums came back."""
        if stage == "latent":
            n = max(float(sums["n"]), 1.0)
            mean = sums["sum"] / n
            values, axes = np.linalg.eigh(sums["products"] / n - np.outer(mean, mean))  # ascending
            values, axes = values[::-1][: self.n_axes], axes[:, ::-1][:, : self.n_axes]
            axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(self.n_axes)])
            scale = values if self.n_domains else np.full(len(values), values[0])
            return {**private, "latent_mean": mean, "latent_axes": axes / np.sqrt(np.maximum(scale, 1e-12))}
        what, level = stage.split("_")[:2]
        if what == "align":
            number, enough = np.maximum(sums["n"], 1e-9), sums["n"] >= FEWEST
            means = np.where(enough[:, None], sums["sum"] / number[:, None], private[f"clusters_{level}"])
            sphere = private[f"variance_{level}"] * np.eye(self.n_axes)
            covariances = np.where(enough[:, None, None], sums["within"] / number[:, None, None], sphere)
            return {**private, f"means_{level}": means, f"covariances_{level}": covariances}
        count = sums["n"][..., None]  # a step of Lloyd's algorithm
        moved = sums["sum"] / np.maximum(count, 1e-12)
        centres = np.where(count >= FEWEST - 0.5, moved, self._centres(stage, private))
        if not stage.endswith(f"_{ITERATIONS - 1}"):
            return {**private, f"centres_{level}": centres}
        done = {name: value for name, value in private.items() if name != f"centres_{level}"}
        best, total = int(sums["squares"].argmin()), max(float(sums["n"][0].sum()), 1.0)
        done[f"clusters_{level}"] = centres[best][np.argsort(-sums["n"][best], kind="stable")]  # the largest first
        done[f"variance_{level}"] = np.asarray(sums["squares"][best] / total / self.n_axes)
        return done

    def aligned(self, z: np.ndarray, private: Sums) -> np.ndarray:
        """Return one section's latents (n, n_axes) where all sections have them, as far as the sums go."""
        a = (z - private["latent_mean"]) @ private["latent_axes"]
        for level in range(LEVELS):
            if f"means_{level}" in private:
                a = self._moved(a, private, level)
        return a

    def label(self, aligned: np.ndarray, private: Sums) -> np.ndarray:
        """Return the domain of each spot, as a number."""
        return pairwise_distances_argmin(aligned, private[f"clusters_{LEVELS}"])

    # -- clusters --------------------------------------------------------------------------------------------------
    def _centres(self, stage: str, private: Sums) -> np.ndarray:
        """Centres (beginnings, k, q) that a stage begins with."""
        level = int(stage.split("_")[1])
        if f"centres_{level}" in private:
            return private[f"centres_{level}"]
        if level == LEVELS:
            return private["clusters_0"][None]
        begun, k = self.clusters(level)
        return np.random.default_rng(level).standard_normal((begun, k, self.n_axes))

    @staticmethod
    def _shares(a: np.ndarray, private: Sums, level: int) -> np.ndarray:
        """How much each spot belongs to each cluster (n, k)."""
        squares = ((a[:, None] - private[f"clusters_{level}"]) ** 2).sum(2)
        logits = -squares / (2 * max(float(private[f"variance_{level}"]), 1e-9))
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return shares / shares.sum(1, keepdims=True)

    def _clusters(self, a: np.ndarray, private: Sums, level: int) -> Sums:
        """Numbers, sums, and products about the section's own means."""
        shares = self._shares(a, private, level)
        n, sums = shares.sum(0), shares.T @ a
        centred = a[:, None] - sums / np.maximum(n, 1e-9)[:, None]
        return {"n": n, "sum": sums, "within": np.einsum("nk,nkq,nkr->kqr", shares, centred, centred)}

    def _moved(self, a: np.ndarray, private: Sums, level: int) -> np.ndarray:
        """Move a section's clusters to where all sections have them; those of few spots only a part of the way."""
        shares, own = self._shares(a, private, level), self._clusters(a, private, level)
        means, covariances = private[f"means_{level}"], private[f"covariances_{level}"]
        prior = a.shape[1] + 1.0
        moved = np.zeros_like(a)
        for k, n in enumerate(own["n"]):
            mean = (own["sum"][k] + prior * means[k]) / (n + prior)
            covariance = (own["within"][k] + prior * covariances[k]) / (n + prior)
            moved += shares[:, [k]] * (means[k] + (a - mean) @ transport(covariance, covariances[k]))
        return moved


def nearest(z: np.ndarray, centres: np.ndarray) -> Sums:
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
