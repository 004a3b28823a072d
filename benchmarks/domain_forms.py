"""Forms of domains that were tried on all pairs, triples and the four of patients A-D: python benchmarks/domain_forms.py.

All of them on pooled data, with the regions in sight, jointly, mean over four and six domains, one seed: to find a form, not to judge one.
The form that agreed best was read once on patients E and H (docs/decisions/0035); its rows are in ``benchmarks/results/domains.json``.
Needs harmonypy.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from itertools import combinations

import anndata as ad
import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from _evidence import data_file
from _table import Table
from domains import SETS, Sections, judged
from harmony import mixing

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


def along(axes: Callable, kind: str, d: int, *, mixed: bool = False, centred: bool = False) -> Callable:
    """Spots and their neighbours along axes, (n_obs, d); mixed by Harmony, or each section seen from its own mean."""

    def embed(data: Sections) -> np.ndarray:
        values = data.values(kind, 1)
        found = axes(data, values, d)
        z = np.concatenate([(x - x.mean(0) if centred else x) @ found for x in values.values()])
        z = z - z.mean(0)
        return data.harmony(z, 0.5, 0) if mixed else z

    return embed


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
    "the default: 2 principal axes within sections, roots, Harmony + k-means": (
        along(principal, "root", 2, mixed=True),
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
