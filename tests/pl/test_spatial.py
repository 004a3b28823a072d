from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy.sparse import csr_matrix

import infl
from infl.errors import DataError


def spots(domains: str) -> ad.AnnData:
    adata = ad.AnnData(np.arange(9.0)[:, None], obsm={"spatial": np.indices((3, 3)).reshape(2, 9).T})
    adata.obs["infl_domain"] = list(domains)
    adata.obs["region"] = list("xxxxxxyyy")
    return adata


def test_a_domain_has_one_colour_at_all_sites_and_nothing_is_written():
    sites = {"a": spots("000111222"), "b": spots("222222000")}
    before = sites["a"].obs["infl_domain"].dtype
    axes = infl.pl.spatial(sites)
    drawn = [[to_hex(c) for c in ax.collections[0].get_facecolors()] for ax in axes]
    of = {
        site: dict(zip(adata.obs["infl_domain"], [*drawn[i]], strict=True))
        for i, (site, adata) in enumerate(sites.items())
    }
    assert of["a"]["2"] == of["b"]["2"] and of["a"]["0"] == of["b"]["0"] != of["a"]["2"]
    assert not sites["a"].uns and sites["a"].obs["infl_domain"].dtype == before
    assert axes[0].yaxis_inverted() and len(infl.pl.spatial(sites, "0")) == 2


@pytest.mark.parametrize("stored", [np.asarray, csr_matrix])
@pytest.mark.parametrize("color", ["0", "depth"])
def test_a_number_has_one_scale_at_all_sites(color: str, stored: Callable):
    """A feature, stored dense or sparse, and a column of obs; the highest hundredth has the end's colour."""
    sites = {"a": spots("000111222"), "b": spots("222222000")}
    for site, adata in sites.items():
        adata.X = stored(adata.X + 10 * (site == "b"))
        adata.obs["depth"] = adata.to_df()["0"]
    axes = infl.pl.spatial(sites, color)
    values = np.concatenate([np.arange(9.0), np.arange(10.0, 19.0)])
    for ax in axes:
        assert np.allclose(ax.collections[0].get_clim(), (0, np.quantile(values, 0.99)))


def test_confusion_counts_all_sites():
    ax = infl.pl.confusion({"a": spots("000000111"), "b": spots("000111111")}, "region")
    assert np.allclose(ax.images[0].get_array(), [[9 / 12, 3 / 12], [0, 1]])


def test_missing_columns_are_named():
    with pytest.raises(DataError, match="a has neither an obs column nor a feature 'nothing'"):
        infl.pl.spatial({"a": spots("000111222")}, "nothing")
    with pytest.raises(DataError, match="a has no obs column 'nothing'"):
        infl.pl.confusion({"a": spots("000111222")}, "nothing")
