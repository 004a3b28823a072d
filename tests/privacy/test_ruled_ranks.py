"""Wilcoxon's test under rules of disclosure: within its bounds of the pooled data's, from bins in which no site has a few values."""

from contextlib import nullcontext
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from tests.privacy.conftest import KEY, LOOSE

import infl
from infl.privacy import Disclosure
from infl.sums import over_sites
from infl.tl._ruled_ranks import Bins


def hospitals(n_sites: int = 4, n: int = 150) -> dict[str, AnnData]:
    """Logarithms of counts, sparse at one site: three groups, features from rare to common."""
    rng, sites = np.random.default_rng(0), {}
    for number in range(n_sites):
        group = rng.integers(0, 3, n)
        rate = np.linspace(0.3, 6, 12) * np.where(np.arange(12) % 3 == group[:, None], 2.0, 1.0)
        x = np.log1p(rng.poisson(rate * rng.gamma(5, 0.2, (n, 1)))).astype(np.float32)
        obs = pd.DataFrame({"type": np.array(["B", "NK", "T"])[group]}, index=[f"{number} {i}" for i in range(n)])
        sites[f"site_{number}"] = AnnData(
            sparse.csr_matrix(x) if number == 1 else x,
            obs=obs,
            var=pd.DataFrame(index=[f"gene {j}" for j in range(12)]),
        )
    return sites


def scores(adata: AnnData, field: str = "scores") -> pd.DataFrame:
    of = adata.uns["rank_genes_groups"]
    return pd.DataFrame(
        {g: pd.Series(of[field][g], index=of["names"][g]) for g in of["names"].dtype.names}
    ).sort_index()


@pytest.mark.parametrize("tie_correct", [False, True])
@pytest.mark.parametrize("reference", ["rest", "B"])
def test_scores_are_within_their_bounds_of_those_of_the_pooled_data(reference: str, tie_correct: bool) -> None:
    sites = hospitals(n=500)
    pooled = ad.concat([AnnData(sparse.csr_matrix(a.X), obs=a.obs, var=a.var) for a in sites.values()])
    options: dict[str, Any] = {"method": "wilcoxon", "reference": reference, "tie_correct": tie_correct}
    with Disclosure(LOOSE):
        infl.tl.rank_genes_groups(sites, "type", key=KEY, **options)
    pooled.obs["type"] = pooled.obs["type"].astype("category")
    sc.tl.rank_genes_groups(pooled, "type", **options)
    found, bounds = scores(sites["site_2"]), scores(sites["site_2"], "z_bounds")
    off = (found - scores(pooled)[found.columns]).abs()
    known = found.notna()
    assert known.mean(axis=None) > 0.8
    assert (off <= bounds + 1e-3)[known].where(known, True).all(axis=None)
    assert off[known].median(axis=None) < 1.0
    for adata in sites.values():
        pd.testing.assert_frame_equal(scores(adata), found)


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_who_knows_the_other_sites_gets_no_number_of_a_few_values(on: bool) -> None:
    """A bin with one value of a group has that of a record, to the width of the bin; what sites answer about bins is no number."""
    sites, seen = hospitals(n=60), []
    laid = over_sites.fitted

    def watched(update: Any, arrays: Any, *rest: Any, **named: Any) -> Any:
        if {*arrays} == {"n"} and np.ndim(arrays["n"]) == 3 and np.asarray(arrays["n"]).dtype.kind == "f":
            seen.append(np.asarray(arrays["n"]))
        return laid(update, arrays, *rest, **named)

    with pytest.MonkeyPatch.context() as patch, Disclosure(LOOSE) if on else nullcontext():
        patch.setattr(over_sites, "fitted", watched)
        infl.tl.rank_genes_groups(sites, "type", method="wilcoxon", key=KEY)
    numbers = np.concatenate([n.ravel() for n in seen])
    assert ((numbers > 0) & (numbers < 5)).any() is np.bool_(not on)
    assert (numbers >= 5).any()


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
def test_a_group_that_too_few_sites_have_is_closed(on: bool) -> None:
    sites = hospitals()
    for name in ("site_0", "site_1"):
        sites[name] = sites[name][sites[name].obs["type"] != "T"].copy()
    with Disclosure(LOOSE) if on else nullcontext():
        infl.tl.rank_genes_groups(sites, "type", method="wilcoxon", key=KEY)
    assert scores(sites["site_0"])["T"].isna().all() is np.bool_(on)


def test_bins_are_cut_where_nobody_objects() -> None:
    bins = Bins.whole(np.array([2]), 8)
    cuts = []
    while bins.open.any():
        feature, start, cut, end = bins.cuts()
        cuts += zip(start.tolist(), cut.tolist(), end.tolist(), strict=True)
        few = np.zeros((1, 8))
        few[feature, start] = (start < 2) & (cut != 1)  # below 0, only the first part may be cut off
        bins = bins.after(few)
    assert cuts[0] == (0, 2, 8) and (0, 3, 8) in cuts  # 0 gets a bin of its own first
    assert bins.begins[0].tolist() == [True, True, False, False, False, False, False, False]
    assert len(cuts) < 20
