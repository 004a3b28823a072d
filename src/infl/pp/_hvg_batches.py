"""Batches within which features are marked as variable: who belongs to one, and its moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from packaging.version import Version

from infl.data.columns import obs_column
from infl.data.consortium import Consortium, agreed, agreed_categories, alongside
from infl.data.consortium import members as all_sites
from infl.data.labels import holders, label_text, warn_of_near_misses
from infl.data.values import in_rows
from infl.errors import DataError
from infl.pp._matrix import SiteMatrix
from infl.pp._moments import Transform, federated_moments

if TYPE_CHECKING:
    from infl.keys import Keyring

V = TypeVar("V")
_SITE = "site"


@dataclass(frozen=True)
class Batches:
    """Who belongs to which batch, and who gets to see a batch's sums.

    Attributes
    ----------
    members
        For each batch, the sites that have a part in it and which of their observations (None: all); one batch without
        a name where there are none. Of sites of this process.
    holders
        For each batch of all processes, the sites that have a part in it.
    inner
        Key ring for sums within a batch.
    outer
        Key ring for sums over batches; None where all sites know each batch's figures already.
    named
        Whether there are batches.
    of_sites
        Whether each batch is a site, which alone knows its figures.
    """

    members: dict[str, dict[str, np.ndarray | None]]
    inner: Keyring | None
    outer: Keyring | None
    holders: dict[str, list[str]]
    named: bool = True

    of_sites: bool = False

    def within(self, at: Mapping[str, Any], values: Mapping[str, V]) -> Mapping[str, V]:
        """Return values by site that can be added within a batch: at the one site that it is, or over all."""
        return values if self.of_sites else alongside(at, values)

    def over(self, at: Mapping[str, Any], values: Mapping[str, V]) -> Mapping[str, V]:
        """Return values by batch that can be added over batches: each known to one site, or all of them to all sites."""
        return alongside(at, values) if self.of_sites else values


def batches_of(at: Mapping[str, SiteMatrix], batch_key: str | None, key: Keyring | None) -> Batches:
    """Return the batches of a column of ``obs``, of sites, or one of everything."""
    if batch_key is None:
        return Batches({"all sites": dict.fromkeys(at)}, key, None, {"all sites": list(all_sites(at))}, named=False)
    is_there = agreed(at, "obs['site']", {site: _SITE in matrix.adata.obs for site, matrix in at.items()})
    if batch_key == _SITE and not any(is_there.values()):
        own = {site: [site] for site in all_sites(at)}
        return Batches({site: {site: None} for site in at}, None, key, own, of_sites=True)
    columns = {
        site: label_text(obs_column(matrix.adata, batch_key, where=site, role="batch_key"))
        for site, matrix in at.items()
    }
    told = agreed_categories(at, "batches", columns)
    found = sorted({name for names in told.values() for name in names})
    members: dict[str, dict[str, np.ndarray | None]] = {
        name: {site: (column == name).to_numpy() for site, column in columns.items()} for name in found
    }
    at_sites = holders(told)
    warn_of_near_misses(at_sites, batch_key, numbered=True)
    return Batches(members, key, None, at_sites)


def moments_of_batch(
    at: Mapping[str, SiteMatrix], batches: Batches, batch: str, transform: Transform | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return numbers of observations, means and variances of a batch, (n_vars,) each."""
    members = batches.members[batch]
    rows = {site: mask for site, mask in members.items() if mask is not None}
    found = federated_moments(
        batches.within(at, {site: at[site] for site in members}),
        batches.inner,
        transform=transform,
        rows=rows or None,
        purpose="variable features",
        textbook=True,
    )
    return found.n, found.mean, found.var


def moments_of_one_site(
    at: Mapping[str, SiteMatrix], batches: Batches, batch: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return moments of a batch that one site has to itself, rounded as the installed scanpy rounds them; else None.

    The regression of ``"seurat_v3"`` cuts features with one mean apart by their last digit, and moves visibly
    where another digit is there. scanpy 1.12 goes through the rows of each batch by Welford's algorithm.
    """
    import scanpy

    sites, members = batches.holders[batch], batches.members[batch]
    if len(sites) == 1 and isinstance(at, Consortium) and not batches.of_sites:
        raise DataError(
            f"batch {batch!r} is at {sites[0]} only, which alone can compute its figures: between processes, flavor "
            "'seurat_v3' takes batches that several sites have, or batch_key='site'"
        )
    if len(sites) != 1 or at[sites[0]].adata.isbacked or Version(version("scanpy")) < Version("1.12rc1"):
        return None
    matrix, mask = at[sites[0]], members[sites[0]]
    values = in_rows(matrix.raw if mask is None else matrix.raw[np.flatnonzero(mask)])
    rows = pd.DataFrame({"batch": "all"}, index=[str(row) for row in range(values.shape[0])])
    found = scanpy.get.aggregate(AnnData(values, obs=rows), "batch", ["mean", "var"])
    mean, var = (np.where(matrix.present, np.nan_to_num(found.layers[name][0]), 0) for name in ("mean", "var"))
    return np.where(matrix.present, float(len(rows)), 0), mean, var
