"""Every function of preprocessing, and clusters: each site by itself in a consortium gets what one process with all gets."""

import numpy as np
import pytest
from tests.threads import apart_as_together, at_every_site, same

import infl
from infl.errors import DataError, FederationError, SettingsError


def logs(sites):
    infl.pp.normalize_total(sites)
    infl.pp.log1p(sites)


def components(sites):
    logs(sites)
    infl.pp.pca(sites, n_comps=6)


def with_gaps(sites):
    for adata in sites.values():
        adata.X.data[::7] = np.nan
    return sites


STEPS = {
    "qc_summary": (None, lambda sites: infl.pp.qc_summary(sites, inplace=True).features),
    "normalize_total": (None, lambda sites: infl.pp.normalize_total(sites, key_added="factor")),
    "normalize_total, highly expressed": (
        None,
        lambda sites: infl.pp.normalize_total(sites, exclude_highly_expressed=True, max_fraction=0.02),
    ),
    "log1p": (None, infl.pp.log1p),
    "filter_genes": (None, lambda sites: infl.pp.filter_genes(sites, min_cells=20)),
    "quantiles": (logs, lambda sites: infl.pp.quantiles(sites, [0.5, 0.95])),
    "impute": (logs, lambda sites: infl.pp.impute(with_gaps(sites), method="low")),
    "score_genes_cell_cycle": (
        logs,
        lambda sites: infl.tl.score_genes_cell_cycle(
            sites, s_genes=["g1", "g7", "g9"], g2m_genes=["g2", "g30"], gene_pool=[f"g{i}" for i in range(300)]
        ),
    ),
    "moments": (logs, lambda sites: infl.pp.moments(sites, inplace=True)),
    "scale": (logs, lambda sites: infl.pp.scale(sites, max_value=5, zero_center=False)),
    "scale, mask": (logs, lambda sites: infl.pp.scale(sites, mask_obs="chosen", zero_center=False)),
    "seurat": (logs, lambda sites: infl.pp.highly_variable_genes(sites, n_top_genes=60)),
    "seurat, sites": (logs, lambda sites: infl.pp.highly_variable_genes(sites, n_top_genes=60, batch_key="site")),
    "seurat, donors": (logs, lambda sites: infl.pp.highly_variable_genes(sites, n_top_genes=60, batch_key="donor")),
    "cell_ranger": (
        logs,
        lambda sites: infl.pp.highly_variable_genes(sites, flavor="cell_ranger", n_top_genes=60, subset=True),
    ),
    "seurat_v3": (None, lambda sites: infl.pp.highly_variable_genes(sites, flavor="seurat_v3", n_top_genes=60)),
    "seurat_v3, sites": (
        None,
        lambda sites: infl.pp.highly_variable_genes(sites, flavor="seurat_v3", n_top_genes=60, batch_key="site"),
    ),
    "seurat_v3_paper, donors": (
        None,
        lambda sites: infl.pp.highly_variable_genes(sites, flavor="seurat_v3_paper", n_top_genes=60, batch_key="donor"),
    ),
    "pca": (logs, lambda sites: infl.pp.pca(sites, n_comps=6)),
    "pca, random directions": (logs, lambda sites: infl.pp.pca(sites, n_comps=6, svd_solver="randomized")),
    "pca, mask": (logs, lambda sites: infl.pp.pca(sites, n_comps=6, mask_var="half")),
    "harmony_integrate": (components, infl.pp.harmony_integrate),
    "harmony_integrate, donors": (components, lambda sites: infl.pp.harmony_integrate(sites, "donor")),
    "ward": (components, lambda sites: infl.tl.cluster(sites, 3, method="ward", use_rep="X_pca", n_init=1)),
    "kmeans": (components, lambda sites: infl.tl.cluster(sites, 4, use_rep="X_pca", n_init=2)),
    "gmm": (
        components,
        lambda sites: infl.tl.cluster(sites, 3, method="gmm", use_rep="X_pca", n_init=1, max_iter=20),
    ),
}


@pytest.fixture
def sites(count_sites):
    for i, adata in enumerate(count_sites.values()):
        adata.obs["chosen"] = np.arange(adata.n_obs) % 4 > i % 2
        adata.var["half"] = np.arange(adata.n_vars) % 2 == 0
    return count_sites


@pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
@pytest.mark.parametrize("name", STEPS)
def test_each_site_gets_what_one_process_gets(sites, key, name):
    apart, seats = apart_as_together(*STEPS[name], sites, key)
    for site in sites:
        assert same(apart[site], sites[site])
        assert seats[site].kinds == seats["s0"].kinds
    assert any(kind.startswith("sum") for kind in seats["s0"].kinds) or name == "log1p"


def messages(found):
    return {site: f"{type(error).__name__}: {error}" for site, error in found.items()}


def test_what_sites_do_not_share_is_refused_everywhere(sites, key):
    sites["s1"] = sites["s1"][:, ::-1].copy()
    with pytest.raises(DataError) as expected:
        infl.pp.moments(sites)
    found, seats = at_every_site(infl.pp.moments, sites, key)
    assert all(isinstance(error, DataError) and str(error) == str(expected.value) for error in found.values())
    assert not any(kind.startswith("sum") for kind in seats["s0"].kinds)


def test_an_error_of_one_site_is_told_in_words_only_there(sites, key):
    sites["s2"].X.data[0] = -1
    before = {site: adata.copy() for site, adata in sites.items()}
    for step in (infl.pp.log1p, infl.pp.normalize_total):
        found, _ = at_every_site(step, sites, key)
        assert isinstance(found["s2"], DataError) and "negative" in str(found["s2"])
        for site in ("s0", "s1"):
            assert isinstance(found[site], FederationError)
            assert "negative" not in str(found[site]) and str(found[site]).startswith("s2 left before")
        assert all(same(sites[site], before[site]) for site in sites)


def test_other_arguments_at_a_site_are_refused_before_anything_is_added(sites, key):
    found, seats = at_every_site(lambda held: infl.pp.pca(held, n_comps=5 + ("s1" in held)), sites, key)
    assert all(isinstance(error, FederationError) for error in found.values())
    assert all(seat.kinds[0].startswith("names pca") and len(seat.kinds) == 1 for seat in seats.values())


def test_a_rare_category_is_not_named(sites, key):
    logs(sites)
    sites["s1"].obs["donor"] = ["rare", *sites["s1"].obs["donor"][1:]]
    found, seats = at_every_site(lambda held: infl.pp.highly_variable_genes(held, batch_key="donor"), sites, key)
    assert isinstance(found["s1"], DataError) and "'rare' has 1 observations" in str(found["s1"])
    assert all("rare" not in str(found[site]) for site in ("s0", "s2"))
    assert not any("rare" in str(said) for said in seats["s0"].room.said)


def test_a_batch_of_one_site_is_refused_where_others_lack_its_figures(sites, key):
    sites["s1"].obs["donor"] = "alone"
    found, _ = at_every_site(
        lambda held: infl.pp.highly_variable_genes(held, flavor="seurat_v3", batch_key="donor"), sites, key
    )
    assert all("'alone' is at s1 only" in message for message in messages(found).values())


@pytest.mark.parametrize(
    "step",
    [infl.pp.harmonise, lambda held: infl.tl.cluster(held, method="leiden", use_rep="X_pca")],
    ids=["harmonise", "leiden"],
)
def test_what_sends_more_than_sums_does_not_run_over_a_consortium(sites, key, step):
    found, seats = at_every_site(step, sites, key)
    assert all(isinstance(error, SettingsError) for error in found.values())
    assert not any("sum" in kind for kind in seats["s0"].kinds)
