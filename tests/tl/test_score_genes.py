"""Scores of gene sets are scanpy's on the pooled object, however it is split."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from tests.threads import at_every_site

import infl
from infl.errors import DataError, InflWarning
from infl.keys import Keyring
from infl.tl._score_genes import Choice, control_genes


@pytest.fixture(scope="module")
def blood():
    adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    adata.uns, adata.obsm, adata.obsp, adata.varm = {}, {}, {}, {}
    return adata


@pytest.fixture
def sites(blood):
    return infl.pp.split_sites(blood, 4, stratify="bulk_labels", alpha=0.5, seed=3)


@pytest.fixture
def pooled(sites):
    return ad.concat(sites, label="site", merge="same")


OPTIONS = [{}, {"ctrl_as_ref": False}, {"ctrl_size": 5, "n_bins": 10, "seed": 3}, {"seed": 7, "ctrl_size": 500}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("sealed", [False, True])
def test_as_scanpy_on_the_pooled_object(sites, pooled, options, sealed):
    genes = pooled.var_names[[3, 50, 200, 500, 501]]
    theirs = {"random_state" if name == "seed" else name: value for name, value in options.items()}
    sc.tl.score_genes(pooled, genes, **theirs)
    infl.tl.score_genes(sites, genes, **options, key=Keyring.create() if sealed else None)
    found = np.concatenate([adata.obs["score"] for adata in sites.values()])
    np.testing.assert_allclose(found, pooled.obs["score"], atol=1e-6)


def test_a_pool_and_a_layer(sites, pooled):
    for adata in (*sites.values(), pooled):
        adata.layers["twice"] = adata.X * 2
    pool = pooled.var_names[::2]
    genes = list(pool[[1, 7, 30]])
    sc.tl.score_genes(pooled, genes, gene_pool=pool, layer="twice", score_name="mine", ctrl_size=4)
    infl.tl.score_genes(sites, genes, gene_pool=pool, layer="twice", score_name="mine", ctrl_size=4)
    found = np.concatenate([adata.obs["mine"] for adata in sites.values()])
    np.testing.assert_allclose(found, pooled.obs["mine"], atol=1e-6)


def test_the_cell_cycle_is_scanpys(sites, pooled):
    s, g2m = pooled.var_names[5:25], pooled.var_names[40:70]
    whole = pooled.copy()
    sc.tl.score_genes_cell_cycle(pooled, s_genes=s, g2m_genes=g2m)
    infl.tl.score_genes_cell_cycle(sites, s_genes=s, g2m_genes=g2m)
    infl.tl.score_genes_cell_cycle(whole, s_genes=s, g2m_genes=g2m, site_key="site")
    apart = ad.concat(sites)
    for name in ("S_score", "G2M_score"):
        np.testing.assert_allclose(apart.obs[name], pooled.obs[name], atol=1e-6)
        np.testing.assert_array_equal(whole.obs[name], apart.obs[name])
    assert apart.obs["phase"].tolist() == pooled.obs["phase"].tolist() == whole.obs["phase"].tolist()
    assert set(apart.obs["phase"]) == {"S", "G2M", "G1"}


def test_control_genes_are_of_like_means(pooled):
    import pandas as pd

    mean = pd.Series(np.arange(100.0), index=[f"g{i}" for i in range(100)])
    found = control_genes(mean, pd.Index(["g51"]), Choice(None, True, 50, 11, 0))
    assert set(found) == {f"g{i}" for i in range(49, 59)} - {"g51"}  # ranks 50 to 59, by tens


def test_over_a_consortium(sites):
    apart = {site: adata.copy() for site, adata in sites.items()}
    genes = sites["site_1"].var_names[[3, 50, 200]]
    infl.tl.score_genes(sites, genes)
    at_every_site(lambda held: infl.tl.score_genes(held, genes), apart, Keyring.create())
    for site, adata in sites.items():
        np.testing.assert_array_equal(apart[site].obs["score"], adata.obs["score"])


def test_genes_that_a_site_did_not_measure_are_left_out(sites, pooled):
    names = pooled.var_names
    for adata in sites.values():
        adata.var["infl_present"] = True
    sites["site_2"].var.loc[names[::3], "infl_present"] = False
    measured = pooled[:, [i for i in range(pooled.n_vars) if i % 3]].copy()
    sc.tl.score_genes(measured, names[[1, 4, 200]], ctrl_size=10)
    with pytest.warns(InflWarning, match=r"2 of 5 genes are no features of all sites and are left out: 'no gene', "):
        infl.tl.score_genes(sites, [*names[[1, 4, 200]], "no gene", names[3]], ctrl_size=10)
    found = np.concatenate([adata.obs["score"] for adata in sites.values()])
    np.testing.assert_allclose(found, measured.obs["score"], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"gene_list": ["no", "none"]}, "no gene of the set is a feature that all sites measured: 'no', 'none'"),
        ({"gene_list": ["HES4"], "gene_pool": ["x"]}, "no gene of gene_pool is a feature that all sites measured: 'x'"),
        ({"gene_list": ["HES4"], "gene_pool": ["TNFRSF4"]}, "'HES4' of the set is not in gene_pool"),
        ({"gene_list": ["HES4"], "gene_pool": ["HES4"]}, "there are no control genes for 'HES4': give a larger"),
    ],
    ids=["none", "no pool", "not in pool", "no control"],
)
def test_sets_that_have_no_score(sites, options, line):
    with pytest.raises(DataError, match=line) as error:
        infl.tl.score_genes(sites, **options)
    assert "\n" not in str(error.value) and not any("score" in adata.obs for adata in sites.values())
