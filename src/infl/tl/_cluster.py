"""Clusters of the observations of all sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.metrics import pairwise_distances_argmin

from infl._parameters import Choice, Real, Text, Whole
from infl.data.consortium import Consortium, alongside
from infl.data.coordinates import coordinates
from infl.data.copy import own
from infl.data.sites import over_sites
from infl.errors import DataError, SettingsError
from infl.pp._moments import whole_numbers
from infl.sums import n_observations, run_sums
from infl.sums.mixture import FEWEST
from infl.tl._centres import Centres, Latents, kmeans, mixture
from infl.tl._cluster_sums import sizes
from infl.tl._communities import communities, described, matched, numbered
from infl.tl._tree import ward

if TYPE_CHECKING:
    from mudata import MuData

    from infl.keys import Keyring

CLUSTER_METHODS: dict[str, Callable[..., Centres]] = {
    "kmeans": kmeans,
    "gmm": mixture,
    "spheres": partial(mixture, alike=True),
    "ward": ward,
}


@over_sites(
    between=True,
    ruled=True,
    n_clusters=Whole(none=True),
    method=Choice((*CLUSTER_METHODS, "leiden")),
    use_rep=Text(says="the name of an array in obsm"),
    n_init=Whole(1),
    max_iter=Whole(1),
    tol=Real(0),
    resolution=Real(0, open="low"),
    n_neighbors=Whole(1),
)
def cluster(
    sites: Mapping[str, AnnData | MuData] | AnnData | MuData,
    n_clusters: int | None = None,
    *,
    method: Literal["kmeans", "gmm", "spheres", "ward", "leiden"] = "kmeans",
    use_rep: str = "X_infl",
    n_init: int = 5,
    max_iter: int = 300,
    tol: float = 1e-4,
    resolution: float = 1.0,
    n_neighbors: int = 15,
    seed: int = 0,
    key_added: str = "infl_cluster",
    site_key: str | None = None,
    key: Keyring | None = None,
) -> None:
    """Cluster observations by their coordinates in a common space; labels mean the same at all sites.

    - ``"kmeans"``: sites send numbers and sums of the observations of each cluster, as often as it takes to converge, from
      several beginnings. The result is a k-means of the pooled data.
    - ``"gmm"``: a mixture of normal distributions with full covariances, from sums too; begins with k-means.
    - ``"spheres"``: such a mixture whose components are equally wide in all directions, as those of k-means, and have shares of
      their own, so that a large group need not be cut in parts.
    - ``"ward"``: thirty groups by k-means, joined two by two where that adds least to the squared distances, until
      `n_clusters` are left. With one cluster more, one of the others is cut in two and the rest stays as it was.
    - ``"leiden"``: each site clusters its own graph of nearest neighbours and sends centroid, radius and number of its
      communities (those of five observations or more), which are joined where centroids are near. Centroids are means
      over a site's own observations and are not sealed, so sites see what each other's communities are like.

    Parameters
    ----------
    sites
        Objects by site name.
    n_clusters
        Number of clusters, not for ``"leiden"``.
    method
        See above.
    use_rep
        Key of ``obsm`` with coordinates that are in common: ``"X_infl"`` of :func:`infl.tl.embed`, ``"X_pca"`` of
        :func:`infl.pp.pca`.
    n_init
        Beginnings of k-means; the best is kept.
    max_iter
        Most rounds of each.
    tol
        Centres that move by less than this share of the variance have converged; likelihood that grows by less than this an
        observation does not grow.
    resolution, n_neighbors
        Of ``"leiden"``; see :func:`scanpy.tl.leiden` and :func:`scanpy.pp.neighbors`.
    seed
        Seed of everything that is random: one seed gives one result, with and without the seal.
    key_added
        Name of the fields.
    key
        Key ring: with it, and three sites or more, sums are sealed.

    Returns
    -------
    None. At every site are written ``obs["infl_cluster"]``, categories ``"0"``, ``"1"`` and so on by size, alike
    everywhere; and ``uns["infl_cluster"]`` with ``params``, ``means`` (clusters × coordinates), ``n_obs`` of each cluster
    over all sites and, by method, ``inertia``, or ``bic``, ``covariances`` and ``weights``.

    Raises
    ------
    infl.errors.DataError
        Coordinates are missing, or sites have different ones.

    References
    ----------
    Su and Dy (2007), In search of deterministic methods for initializing K-means and Gaussian mixture clustering.
    Intelligent Data Analysis 11:319. Traag, Waltman and van Eck (2019), Scientific Reports 9:5233.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> infl.pp.pca(sites, n_comps=10)
    >>> infl.tl.cluster(sites, 4, use_rep="X_pca")
    >>> sites["site_1"].obs["infl_cluster"].cat.categories.tolist()
    ['0', '1', '2', '3']
    """
    if method == "leiden" and isinstance(sites, Consortium):
        raise SettingsError(
            "method 'leiden' sends centroids that are not sealed: between hospitals, give 'kmeans' or 'gmm'"
        )
    labels: Mapping[str, np.ndarray]
    latents = coordinates(sites, use_rep, role="use_rep")
    sizes_of = alongside(sites, {site: len(x) for site, x in latents.items()})
    n_obs = n_observations(sizes_of, key, about="cluster")
    if method not in (*CLUSTER_METHODS, "leiden"):
        raise SettingsError(f"method must be 'kmeans', 'gmm', 'spheres', 'ward' or 'leiden', not {method!r}")
    facts: dict[str, Any] = {}
    of_each: dict[str, np.ndarray] = {}
    if method == "leiden":
        if n_clusters is not None:
            raise SettingsError("method 'leiden' finds the number of clusters: give resolution= instead of n_clusters")
        labels, means = _leiden(latents, resolution, n_neighbors, seed)
    else:
        if n_clusters is None or not 1 <= n_clusters <= n_obs // FEWEST:
            raise SettingsError(
                f"n_clusters must be from 1 to {n_obs // FEWEST} for {n_obs} observations ({FEWEST} a cluster), not {n_clusters}"
            )
        if n_init < 1 or max_iter < 1:
            raise SettingsError(f"n_init and max_iter must be 1 or more, not {n_init} and {max_iter}")
        found = CLUSTER_METHODS[method](
            latents, n_clusters, n_init=n_init, max_iter=max_iter, tol=tol, seed=seed, key=key
        )
        labels, means = found.labels, found.means
        if found.covariances is None or found.weights is None:
            facts["inertia"] = found.score
        else:
            k, d = means.shape
            n_parameters = k * d + (1 if method == "spheres" else k * d * (d + 1) // 2) + k - 1
            facts["bic"] = 2 * found.score + n_parameters * np.log(n_obs)
            of_each = {"covariances": found.covariances, "weights": found.weights}

    n_of = run_sums([sizes(len(means))], alongside(sites, labels), key, about="cluster")["n"]
    n_of = whole_numbers(n_of)
    order = np.argsort(-np.nan_to_num(n_of), kind="stable")
    rank = np.argsort(order, kind="stable")
    facts |= {name: value[order] for name, value in of_each.items()}
    categories = [str(i) for i in range(len(means))]
    params = {"method": method, "use_rep": use_rep, "seed": seed}
    params |= {"resolution": resolution, "n_neighbors": n_neighbors} if method == "leiden" else {"n_init": n_init}
    for site, adata in sites.items():
        codes = pd.Categorical.from_codes(rank[labels[site]], categories=categories)
        own(adata).obs[key_added] = pd.Series(codes, index=adata.obs_names)
        adata.uns[key_added] = {"params": params, "means": means[order], "n_obs": n_of[order]} | facts


def _leiden(
    latents: Latents, resolution: float, n_neighbors: int, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Labels by site, and centroids (k, d)."""
    local = {
        site: communities(x, resolution=resolution, n_neighbors=n_neighbors, seed=seed) for site, x in latents.items()
    }
    found = matched([c for site, x in latents.items() for c in described(site, x, local[site])])
    if not found:
        raise DataError(
            f"no site has a community of {FEWEST} observations or more: lower the resolution, or join sites"
        )
    means = np.array([community.mean for community in found])
    number = numbered(found)
    labels = {}
    for site, x in latents.items():
        nearest = pairwise_distances_argmin(x, means)  # for members of communities too small to be described
        labels[site] = np.array(
            [number.get((site, int(label)), near) for label, near in zip(local[site], nearest, strict=True)]
        )
    return labels, means
