"""Forms of domains that were tried on all pairs, triples and the four of patients A-D: python benchmarks/domain_forms.py.

All of them on pooled data, with the regions in sight, jointly, mean over four and six domains, one seed: to find a form, not to judge one.
Two forms were read on patients E and H, each once (docs/decisions/0035 and 0036); rows of the second, which is the default, are in
``benchmarks/results/domains.json``. Needs harmonypy.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from itertools import combinations

import anndata as ad
import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from _evidence import data_file
from _table import Table
from domains import SETS, Sections, judged
from harmony import harmony_of_pooled, mixing
from infl.sums import mixture

FRAME = 10
"""Principal axes in which shared ones are sought."""
RIVAL = "neighbours + PCA + k-means"


def within(data: Sections, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each section from its own mean, of unit size."""
    centred = {site: x - x.mean(0) for site, x in values.items()}
    return {site: x / np.sqrt((x**2).sum()) for site, x in centred.items()}


def principal(data: Sections, values: dict[str, np.ndarray], d: int) -> np.ndarray:
    """Axes along which spots vary within sections, (n_vars, d)."""
    scaled = np.concatenate(list(within(data, values).values()))
    return PCA(d, random_state=0, svd_solver="randomized").fit(scaled).components_.T


def shared(data: Sections, values: dict[str, np.ndarray], d: int) -> np.ndarray:
    """Axes of the sum of C C' over pairs of different sections' covariances: what one alone varies along adds nothing."""
    frame = principal(data, values, FRAME)
    each = [(x @ frame).T @ (x @ frame) for x in within(data, values).values()]
    total = sum(each)
    return frame @ np.linalg.eigh(total @ total - sum(c @ c for c in each))[1][:, ::-1][:, :d]


def along(axes: Callable, kind: str, d: int, *, theta: float | None = None, centred: bool = False) -> Callable:
    """Spots and their neighbours along axes, (n_obs, d); mixed by Harmony, or each section seen from its own mean."""

    def embed(data: Sections) -> np.ndarray:
        values = data.values(kind, 1)
        found = axes(data, values, d)
        z = np.concatenate([(x - x.mean(0) if centred else x) @ found for x in values.values()])
        z = z - z.mean(0)
        return z if theta is None else harmony_of_pooled(z, data.patient, 0, sigma=0.5, theta=theta)

    return embed


def equal_widths(z: np.ndarray, k: int) -> np.ndarray:
    """The mixture of ``model="spatial"``, without its vote of neighbours."""
    state = mixture.first(mixture.moments(z), k)
    for _ in range(25):
        state = mixture.moved(state, mixture.parts(z, state))
    best = mixture.best(state, mixture.parts(z, state))
    return mixture.assign(z, best, sparse.csr_matrix((len(z), len(z))), 0)


def own_widths(z: np.ndarray, k: int) -> np.ndarray:
    return GaussianMixture(k, covariance_type="spherical", n_init=16, random_state=0).fit_predict(z)


def k_means(z: np.ndarray, k: int) -> np.ndarray:
    return KMeans(k, n_init=5, random_state=0).fit_predict(z)


def tree(z: np.ndarray, k: int) -> np.ndarray:
    """Twice as many groups by k-means, joined by average linkage, so that a large tissue may stay whole."""
    fine = KMeans(2 * k, n_init=5, random_state=0).fit(z)
    means, n = fine.cluster_centers_, np.bincount(fine.labels_).astype(float)
    apart, branch = np.linalg.norm(means[:, None] - means, axis=2), np.arange(len(n))
    np.fill_diagonal(apart, np.inf)
    for _ in range(k):
        a, b = sorted(np.unravel_index(apart.argmin(), apart.shape))
        apart[a] = apart[:, a] = (n[a] * apart[a] + n[b] * apart[b]) / (n[a] + n[b])
        apart[b] = apart[:, b] = np.inf
        n[a] += n[b]
        branch[branch == b] = a
    return np.unique(branch, return_inverse=True)[1][fine.labels_]


FORMS: dict[str, tuple[Callable, Callable]] = {
    RIVAL: (lambda data: data.pooled_pca(data.values("log", 1), 5), k_means),
    "2 principal axes within sections, roots, Harmony with theta=2 + k-means": (
        along(principal, "root", 2, theta=2),
        k_means,
    ),
    "3 principal axes within sections, roots, Harmony with theta=2 + k-means": (
        along(principal, "root", 3, theta=2),
        k_means,
    ),
    "5 principal axes within sections, roots, Harmony with theta=0.5 + k-means": (
        along(principal, "root", 5, theta=0.5),
        k_means,
    ),
    "sigma=0.5: 5 principal axes within sections, roots, Harmony with theta=0.5 + mixture of equal widths": (
        along(principal, "root", 5, theta=0.5),
        equal_widths,
    ),
    "3 principal axes within sections, roots, Harmony with theta=0.5 + mixture of equal widths": (
        along(principal, "root", 3, theta=0.5),
        equal_widths,
    ),
    "the default: 5 principal axes within sections, roots, not mixed + mixture of equal widths": (
        along(principal, "root", 5),
        equal_widths,
    ),
    "3 principal axes within sections, roots, not mixed + mixture of equal widths": (
        along(principal, "root", 3),
        equal_widths,
    ),
    "5 principal axes within sections, roots, not mixed + mixture of own widths": (
        along(principal, "root", 5),
        own_widths,
    ),
    "5 principal axes within sections, roots, not mixed + k-means": (along(principal, "root", 5), k_means),
    "5 principal axes within sections, roots of amounts, not mixed + k-means": (
        along(principal, "amount", 5),
        k_means,
    ),
    "5 principal axes within sections, roots, sections from their own means + k-means": (
        along(principal, "root", 5, centred=True),
        k_means,
    ),
    "2 principal axes within sections, roots, not mixed + k-means": (along(principal, "root", 2), k_means),
    "10 principal axes within sections, roots, not mixed + k-means": (along(principal, "root", 10), k_means),
    "2 shared axes, logarithms, not mixed + k-means": (along(shared, "log", 2), k_means),
    "2 shared axes, logarithms, not mixed + average linkage": (along(shared, "log", 2), tree),
    "5 shared axes, logarithms, not mixed + k-means": (along(shared, "log", 5), k_means),
    "5 shared axes, logarithms, not mixed + average linkage": (along(shared, "log", 5), tree),
    "2 shared axes, roots, not mixed + average linkage": (along(shared, "root", 2), tree),
    "2 shared axes, logarithms, sections from their own means + k-means": (
        along(shared, "log", 2, centred=True),
        k_means,
    ),
}


def main() -> None:
    table = Table("domain_forms")
    whole = ad.read_h5ad(data_file(SETS[0]))
    subsets = [c for n in (2, 3, 4) for c in combinations("ABCD", n)]
    data = {c: Sections(whole[whole.obs["patient"].isin(c)].copy()) for c in subsets}
    rival: dict[tuple[str, ...], float] = {}
    for form, (embed, cluster) in FORMS.items():
        found, mixes = {}, []
        for c in subsets:
            z = embed(data[c])
            found[c] = float(np.mean([judged(data[c], cluster(z, k))["ARI, jointly"] for k in (4, 6)]))
            if len(c) == 2:
                mixes.append(mixing(z, data[c].patient))
        rival = rival or found
        for n, what in ((2, "mean over six pairs"), (3, "mean over four triples"), (4, "four patients")):
            table.add(f"{form}: ARI, {what}", "reported", float(np.mean([v for c, v in found.items() if len(c) == n])))
        worst = min(found[c] - rival[c] for c in subsets if len(c) == 2)
        table.add(f"{form}: ARI, the worst pair less {RIVAL}", "reported", worst)
        table.add(f"{form}: iLISI, mean over six pairs", "reported", float(np.mean(mixes)))
        table.save()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    main()
