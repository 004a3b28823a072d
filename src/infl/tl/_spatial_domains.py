"""Spatial domains of the sections of all sites, from what neighbourhoods express."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from infl._parameters import LAYER, OTHER_COLUMN, SEED, Key, Real, Text, Whole
from infl.data.consortium import alongside
from infl.data.copy import own
from infl.data.sites import over_sites
from infl.errors import DataError, SettingsError
from infl.models.counts import check_counts
from infl.models.matrix import FeatureMatrix
from infl.models.neighbours import Sections, sections_of
from infl.models.spatial.neighbourhoods import Neighbourhoods
from infl.pp import harmony_integrate, pca
from infl.pp._matrix import SiteMatrix, matrices
from infl.sums import FINE_SCALE, FederatedSum, run_sums
from infl.tl._cluster import cluster
from infl.tl._domain_number import halves_of_sections, strengths, well_told

if TYPE_CHECKING:
    from infl.keys import Keyring

_REP = "X_pca"


@over_sites(
    between=True,
    n_domains=Whole(1, none=True),
    spatial_key=Text(says="the name of an array in obsm"),
    section_key=OTHER_COLUMN,
    layer=LAYER,
    n_neighbors=Whole(1),
    n_hops=Whole(0),
    n_axes=Whole(1),
    sigma=Real(0, open="low", none=True),
    theta=Real(0),
    n_init=Whole(1),
    seed=SEED,
    key_added=Key(),
)
def spatial_domains(
    sites: Mapping[str, AnnData] | AnnData,
    n_domains: int | None = None,
    *,
    spatial_key: str = "spatial",
    section_key: str | None = None,
    layer: str | None = None,
    n_neighbors: int = 8,
    n_hops: int = 1,
    n_axes: int = 5,
    sigma: float | None = None,
    theta: float = 0.5,
    n_init: int = 10,
    seed: int = 0,
    key_added: str = "infl_domain",
    site_key: str | None = None,
    key: Keyring | None = None,
) -> None:
    """Find regions of tissue that mean the same in the sections of all sites, without a network and without labels.

    A spot is what share each feature has in it, as a square root (Anscombe 1948), averaged over its neighbours in its own
    section. Axes are those along which spots differ within their sections, each section weighing alike (:func:`infl.pp.pca`).
    Along them all sections are seen from the mean of all spots, and what is near is a domain (``"spheres"`` of
    :func:`infl.tl.cluster`, which leave a large tissue in one piece).
    Where patients have much tissue in common, ``sigma=0.5`` mixes them first (:func:`infl.pp.harmony_integrate`); where they have
    not, that joins what differs. Sections need not have the same tissues in the same shares, so that clusters of which they
    have uneven shares are penalised less (`theta`) than for cells.

    All of it is sums over spots; only their totals over sites are opened.

    Parameters
    ----------
    sites
        AnnData with raw counts and coordinates by site name, harmonised. Where ``var["highly_variable"]`` is there, these
        features make the axes.
    n_domains
        Number of domains. None: the largest number, up to ten, that halves of the sections agree on (prediction strength of
        0.8 or more, Tibshirani and Walther 2005); ``uns`` has the strength of each.
    spatial_key
        Key of ``obsm`` with the coordinates, (n_obs, 2) or (n_obs, 3); each section may have its own unit.
    section_key
        Column of ``obs`` with the section of each spot (None: a site has one section).
    layer
        Layer with the raw counts (None: ``X``).
    n_neighbors
        Nearest spots of each that are its neighbours; 8 around one on a square grid, 6 on a hexagonal one.
    n_hops
        How many times shares are averaged over neighbours.
    n_axes
        Number of axes.
    sigma
        How softly sections are mixed, such as 0.5; see :func:`infl.pp.harmony_integrate`. None: not at all.
    theta
        How much uneven shares of sections in a cluster are penalised; see there.
    n_init
        Beginnings; the best is kept.
    seed
        Seed of everything that is random: one seed gives one result, with and without the seal.
    key_added
        Name of the fields.
    key
        Key ring: with it, and three sites or more, sums are sealed.

    Returns
    -------
    None. At every site are written ``obs["infl_domain"]``, categories ``"0"``, ``"1"`` and so on by size, alike everywhere;
    ``obsm["X_infl_domain"]``, where spots are near that are alike, (n_obs, n_axes); ``varm["infl_domain"]``, the axes, (n_vars,
    n_axes); and ``uns["infl_domain"]`` with ``params``, ``means`` (n_domains, n_axes), ``n_obs`` of each domain over all sites, what else
    :func:`infl.tl.cluster` says of them and, where the number was found, ``strength`` by number of domains.

    Raises
    ------
    infl.errors.DataError
        Values are no counts, coordinates are missing, or a section has too few spots.
    infl.errors.SettingsError
        There are too few features for the axes, or too few spots for the domains.

    Warns
    -----
    infl.errors.InflWarning
        As :func:`infl.pp.harmony_integrate`.

    References
    ----------
    A spot as its neighbourhood: Singhal et al., BANKSY, and Varrone et al., CellCharter, both Nature Genetics 2024.
    Tibshirani and Walther (2005), Cluster validation by prediction strength. J. Comput. Graph. Stat. 14:511.

    Examples
    --------
    >>> import infl, numpy as np, anndata as ad
    >>> rng = np.random.default_rng(0)
    >>> xy = np.indices((12, 12)).reshape(2, -1).T
    >>> rates = np.where(xy[:, :1] < 6, [1, 2, 3, 9, 5], [9, 5, 3, 1, 2])  # left and right
    >>> sites = {s: ad.AnnData(rng.poisson(rates).astype(float), obsm={"spatial": xy}) for s in ("a", "b", "c")}
    >>> infl.tl.spatial_domains(sites, 2, key=infl.keys.Keyring.create())
    >>> grid = sites["b"].obs["infl_domain"].to_numpy().reshape(12, 12)
    >>> grid[0, 0] == grid[4, 9] != grid[8, 2]
    True
    """
    at = matrices(sites, layer, key)
    n_vars = len(next(iter(at.values())).adata.var_names)
    if n_axes > n_vars:
        raise SettingsError(f"n_axes={n_axes} is more than the {n_vars} features that sites have: lower it")
    sections, near = {}, {}
    for site, matrix in at.items():
        sections[site] = sections_of(matrix.adata, spatial_key=spatial_key, section_key=section_key, site=site)
        near[site] = _neighbourhoods(matrix, sections[site], n_neighbors, n_hops)
    shares = {site: of.rows() for site, of in near.items()}
    axes = _axes(at, near, n_axes, seed, key)
    total = run_sums([mean_of_shares(n_vars)], alongside(at, shares), key, about="spatial domains")
    spots = {}
    for site, x in shares.items():
        z = (x - total["mean"]) @ axes
        spots[site] = AnnData(obs=_names_of_sections(site, sections[site]), obsm={_REP: z}, shape=(len(z), 0))
    mixed = alongside(at, spots)
    if sigma is not None:
        harmony_integrate(
            mixed,
            None if section_key is None else "section",
            basis=_REP,
            adjusted_basis=_REP,
            theta=theta,
            sigma=sigma,
            seed=seed,
            key=key,
        )
    facts = {}
    if n_domains is None:
        latents = alongside(at, {site: found.obsm[_REP] for site, found in spots.items()})
        found = strengths(latents, {s: halves_of_sections(of) for s, of in sections.items()}, seed, key)
        n_domains, facts["strength"] = well_told(found), {str(k): value for k, value in found.items()}
    cluster(mixed, n_domains, method="spheres", use_rep=_REP, n_init=n_init, seed=seed, key=key)
    params = {"spatial_key": spatial_key, "section_key": section_key or "", "layer": layer or "", "seed": seed}
    params |= {"n_neighbors": n_neighbors, "n_hops": n_hops, "n_axes": n_axes, "sigma": sigma or 0.0}
    params |= {"theta": theta, "n_init": n_init}
    for site, adata in sites.items():
        found_here = spots[site].uns["infl_cluster"]
        own(adata).obs[key_added] = pd.Series(spots[site].obs["infl_cluster"].array, index=adata.obs_names)
        adata.obsm[f"X_{key_added}"] = spots[site].obsm[_REP].astype(np.float32)
        adata.varm[key_added] = axes.copy()
        adata.uns[key_added] = found_here | {"params": dict(params)} | {name: dict(v) for name, v in facts.items()}


def _neighbourhoods(matrix: SiteMatrix, sections: Sections, n_neighbors: int, n_hops: int) -> Neighbourhoods:
    """What each spot's neighbourhood expresses."""
    x = FeatureMatrix(matrix.adata, list(matrix.adata.var_names), layer=matrix.layer, site=matrix.site)
    empty = check_counts(x, matrix.adata.obs_names, site=matrix.site, layer=matrix.layer, may_be_empty=True)
    if empty.all():
        raise DataError(f"no spot of {matrix.site} has a count: pass layer=, the layer with the counts")
    return Neighbourhoods(x, sections, n_neighbors=n_neighbors, n_hops=n_hops)


def _axes(
    at: Mapping[str, SiteMatrix], near: Mapping[str, Neighbourhoods], n_axes: int, seed: int, key: Keyring | None
) -> np.ndarray:
    """Along which spots differ within sections, (n_vars, n_axes)."""
    within = {site: AnnData(of.alike(), var=at[site].adata.var) for site, of in near.items()}
    pca(alongside(at, within), n_axes, dtype="float64", seed=seed, key=key)
    return np.asarray(next(iter(within.values())).varm["PCs"])


def mean_of_shares(n_vars: int) -> FederatedSum:
    """Return the mean of all spots, (n_vars,), of sites that are their shares."""
    return FederatedSum(
        name="shares",
        shapes={"n": (), "sum": (n_vars,)},
        local=lambda x, _: {"n": float(len(x)), "sum": x.sum(0)},
        combine=lambda total, state: {**state, "mean": total["sum"] / total["n"]},
        says="number of spots, and sums of the roots of each feature's share in them",
        scale=FINE_SCALE,
        records=lambda x, _: len(x),
        sensitivity={"n": 1},
    )


def _names_of_sections(site: str, sections: Sections) -> pd.DataFrame:
    """A name for each section that no other site has."""
    names = np.empty(len(sections.coordinates), dtype=object)
    for number, rows in enumerate(sections.rows.values()):
        names[rows] = f"{site}, section {number + 1}"
    return pd.DataFrame({"section": names}, index=[str(i) for i in range(len(names))])
