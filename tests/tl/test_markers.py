"""Markers over sites are scanpy's on the pooled object, however its observations are split into sites."""

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy import sparse

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.keys import Keyring

FIELDS = ["scores", "pvals", "pvals_adj", "logfoldchanges"]


@pytest.fixture(scope="module")
def blood() -> AnnData:
    """700 blood cells × 765 genes, logarithms, sparse; scanpy brings it along."""
    adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    adata = AnnData(adata.X.astype(np.float64), obs=adata.obs[["bulk_labels"]], var=adata.var[[]])
    kept = adata.obs["bulk_labels"].value_counts()[:4].index
    adata = adata[adata.obs["bulk_labels"].isin(kept)].copy()
    adata.obs["bulk_labels"] = adata.obs["bulk_labels"].cat.rename_categories(lambda name: name.replace("/", " "))
    return adata


def table(adata: AnnData, group: str, key: str = "rank_genes_groups") -> pd.DataFrame:
    return sc.get.rank_genes_groups_df(adata, group, key=key).set_index("names")


def assert_as_pooled(ours: AnnData, pooled: AnnData, rtol: float = 1e-6) -> None:
    ours_, theirs = (x.uns["rank_genes_groups"] for x in (ours, pooled))
    assert ours_["params"] == theirs["params"]
    assert ours_["names"].dtype.names == theirs["names"].dtype.names
    for group in theirs["names"].dtype.names:
        a, b = table(ours, group), table(pooled, group)
        for field in set(FIELDS) & set(b):
            np.testing.assert_allclose(
                a[field].loc[b.index], b[field], rtol=rtol, atol=1e-300, err_msg=f"{group} {field}"
            )
        assert (np.diff(a["scores"]) <= 0).all()


def split(adata: AnnData, codes: np.ndarray) -> dict[str, AnnData]:
    return {f"s{i}": adata[codes == i].copy() for i in np.unique(codes)}


@pytest.mark.parametrize("storage", ["sparse", "dense", pytest.param("layer", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "options",
    [{}, {"method": "t-test_overestim_var"}, {"reference": "Dendritic"}, {"corr_method": "bonferroni", "pts": True},
     {"groups": ["CD19+ B", "Dendritic"]}, {"groups": ["CD19+ B"], "reference": "Dendritic", "pts": True}],
    ids=str,
)  # fmt: skip
def test_as_scanpy_on_the_pooled_object(blood: AnnData, storage: str, options: dict[str, Any]) -> None:
    pooled = blood.copy()
    layer = None
    if storage != "sparse":
        pooled.X = pooled.X.toarray()
    if storage == "layer":
        pooled.layers["log"], layer = pooled.X, "log"
    sites = infl.pp.split_sites(pooled, 4, stratify="bulk_labels", alpha=0.5, seed=3)
    sc.tl.rank_genes_groups(pooled, "bulk_labels", layer=layer, use_raw=False, **({"method": "t-test"} | options))
    infl.tl.rank_genes_groups(sites, "bulk_labels", layer=layer, key=Keyring.create(), **options)
    for adata in sites.values():
        assert_as_pooled(adata, pooled)
    for name in {"pts", "pts_rest"} & set(pooled.uns["rank_genes_groups"]):
        ours, theirs = sites["site_1"].uns["rank_genes_groups"][name], pooled.uns["rank_genes_groups"][name]
        pd.testing.assert_frame_equal(ours[theirs.columns], theirs, check_names=False)


@given(st.lists(st.integers(0, 4), min_size=30, max_size=30), st.lists(st.sampled_from("xyz"), min_size=30, max_size=30),
       st.booleans(), st.sampled_from([None, 2.0]))  # fmt: skip
@settings(max_examples=12)
def test_any_split_gives_the_pooled_answer(
    codes: list[int], groups: list[str], stored: bool, base: float | None
) -> None:
    """Sites of one observation, sites of one group, groups that sites lack."""
    groups[:6] = "xxyyzz"
    rng = np.random.default_rng(sum(codes))
    x = rng.gamma(1, 1, (30, 7)) * (rng.random((30, 7)) < 0.6)
    obs = pd.DataFrame({"group": pd.Categorical(groups)}, index=[f"c{i}" for i in range(30)])
    pooled = AnnData(sparse.csr_matrix(x) if stored else x, obs=obs)
    pooled.uns["log1p"] = {"base": base}
    sites = split(pooled, np.array(codes))
    sc.tl.rank_genes_groups(pooled, "group", method="t-test", use_raw=False)
    infl.tl.rank_genes_groups(sites, "group")
    for adata in sites.values():
        assert_as_pooled(adata, pooled)


@pytest.mark.parametrize("storage", ["sparse", "dense"])
@pytest.mark.parametrize("options", [{}, {"groups": ["CD19+ B", "Dendritic"]}], ids=str)
def test_a_regression_of_groups_is_scanpys_at_its_optimum(
    blood: AnnData, storage: str, options: dict[str, Any]
) -> None:
    pooled = blood[:, :150].copy()
    if storage == "dense":
        pooled.X = pooled.X.toarray()
    sites = infl.pp.split_sites(pooled, 4, stratify="bulk_labels", alpha=0.5, seed=3)
    sc.tl.rank_genes_groups(pooled, "bulk_labels", method="logreg", use_raw=False, tol=1e-7, max_iter=10_000, **options)
    infl.tl.rank_genes_groups(sites, "bulk_labels", method="logreg", key=Keyring.create(), **options)
    ours, theirs = (adata.uns["rank_genes_groups"] for adata in (sites["site_3"], pooled))
    assert ours.keys() == theirs.keys() and ours["scores"].dtype.names == theirs["scores"].dtype.names
    for group in theirs["names"].dtype.names:
        a, b = (pd.Series(of["scores"][group], index=of["names"][group]) for of in (ours, theirs))
        np.testing.assert_allclose(a[b.index], b, atol=0.01)
        assert len({*a.index[:20]} & {*b.index[:20]}) >= 19


@given(st.lists(st.integers(0, 4), min_size=40, max_size=40), st.booleans())
@settings(max_examples=5)
def test_a_regression_of_any_split_is_that_of_the_pooled_observations(codes: list[int], three: bool) -> None:
    rng = np.random.default_rng(sum(codes))
    obs = pd.DataFrame({"group": pd.Categorical(np.arange(40) % (2 + three)).rename_categories(lambda c: f"g{c}")})
    pooled = AnnData(rng.gamma(1, 1, (40, 5)), obs=obs.set_axis([f"c{i}" for i in range(40)]))
    sites = split(pooled, np.array(codes))
    infl.tl.rank_genes_groups({"all": pooled}, "group", method="logreg")
    infl.tl.rank_genes_groups(sites, "group", method="logreg")
    a, b = (adata.uns["rank_genes_groups"] for adata in (next(iter(sites.values())), pooled))
    for group in b["names"].dtype.names:
        of_a, of_b = (pd.Series(x["scores"][group], index=x["names"][group]).sort_index() for x in (a, b))
        np.testing.assert_allclose(of_a, of_b, rtol=1e-4, atol=1e-5)


def test_a_regression_needs_two_groups_and_all_features(blood: AnnData) -> None:
    sites = infl.pp.split_sites(blood[:, :9].copy(), 3, stratify="bulk_labels", seed=3)
    with pytest.raises(SettingsError, match="name two groups or more"):
        infl.tl.rank_genes_groups(sites, "bulk_labels", groups=["Dendritic"], method="logreg")
    sites["site_2"].var["infl_present"] = np.arange(9) > 0
    with pytest.raises(DataError, match="site_2 did not measure .*, and 'logreg' is of all features"):
        infl.tl.rank_genes_groups(sites, "bulk_labels", method="logreg")


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:scanpy")
@pytest.mark.parametrize("storage", ["sparse", "dense"])
@pytest.mark.parametrize(
    "options", [{}, {"tie_correct": True}, {"reference": "Dendritic", "tie_correct": True}], ids=str
)
def test_ranks_are_scanpys_within_the_bounds(blood: AnnData, storage: str, options: dict[str, Any]) -> None:
    pooled = blood.copy()
    if storage == "dense":
        pooled.X = pooled.X.toarray() - 0.5  # negative values, and ties elsewhere than at 0
        pooled.X[pooled.X == -0.5] = 0
    sites = infl.pp.split_sites(pooled, 4, stratify="bulk_labels", alpha=0.5, seed=3)
    sc.tl.rank_genes_groups(pooled, "bulk_labels", method="wilcoxon", use_raw=False, **options)
    infl.tl.rank_genes_groups(sites, "bulk_labels", method="wilcoxon", key=Keyring.create(), **options)
    found = sites["site_2"].uns["rank_genes_groups"]
    for group in found["names"].dtype.names:
        ours, theirs = table(sites["site_2"], group), table(pooled, group)
        bounds = pd.Series(found["z_bounds"][group], index=found["names"][group])[theirs.index]
        assert ((ours["scores"][theirs.index] - theirs["scores"]).abs() <= bounds + 1e-5).all()
        assert bounds.median() < 0.05 and len({*ours.index[:100]} & {*theirs.index[:100]}) >= 99
        np.testing.assert_allclose(ours["logfoldchanges"][theirs.index], theirs["logfoldchanges"], rtol=1e-6)


def test_ranks_of_few_values_are_exact() -> None:
    """Zeros and ones: what is in one bin is tied."""
    rng = np.random.default_rng(0)
    x = (rng.random((60, 5)) < 0.4).astype(float)
    pooled = AnnData(x, obs=pd.DataFrame({"g": np.resize(["a", "b", "c"], 60)}, index=[f"c{i}" for i in range(60)]))
    sites = split(pooled, np.arange(60) % 7 // 2)
    sc.tl.rank_genes_groups(pooled, "g", method="wilcoxon", tie_correct=True, use_raw=False)
    with pytest.warns(InflWarning, match="raw counts"):
        infl.tl.rank_genes_groups(sites, "g", method="wilcoxon", tie_correct=True)
    for group in "abc":
        np.testing.assert_allclose(table(sites["s0"], group)["scores"][table(pooled, group).index], table(pooled, group)["scores"], atol=1e-5)  # fmt: skip


@given(st.lists(st.integers(0, 4), min_size=40, max_size=40), st.booleans(), st.booleans())
@settings(max_examples=10)
def test_ranks_of_any_split_are_within_the_bounds(codes: list[int], stored: bool, tie_correct: bool) -> None:
    rng = np.random.default_rng(sum(codes))
    x = np.round(rng.gamma(1, 1, (40, 6)), 1) * (rng.random((40, 6)) < 0.7)
    obs = pd.DataFrame({"g": np.resize(["a", "b"], 40)}, index=[f"c{i}" for i in range(40)])
    pooled = AnnData(sparse.csr_matrix(x) if stored else x, obs=obs)
    sites = split(pooled, np.array(codes))
    sc.tl.rank_genes_groups(pooled, "g", method="wilcoxon", tie_correct=tie_correct, use_raw=False)
    infl.tl.rank_genes_groups(sites, "g", method="wilcoxon", tie_correct=tie_correct, n_bins=16)
    for adata in sites.values():
        ours, theirs, found = table(adata, "a"), table(pooled, "a"), adata.uns["rank_genes_groups"]
        bounds = pd.Series(found["z_bounds"]["a"], index=found["names"]["a"])[theirs.index]
        assert ((ours["scores"][theirs.index] - theirs["scores"]).abs() <= bounds + 1e-5).all()


def test_ranks_in_pieces_are_those_of_one_piece(blood: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = infl.pp.split_sites(blood, 2, seed=1)
    infl.tl.rank_genes_groups(sites, "bulk_labels", method="wilcoxon", key_added="whole")
    monkeypatch.setattr("infl.tl._rank_sums._AT_ONCE", 4 * 67 * 100)  # 100 features at a time
    infl.tl.rank_genes_groups(sites, "bulk_labels", method="wilcoxon", key_added="pieces")
    whole, pieces = sites["site_1"].uns["whole"], sites["site_1"].uns["pieces"]
    assert all((whole[field] == pieces[field]).all() for field in ("names", "scores", "z_bounds"))


def test_a_feature_that_a_site_did_not_measure_is_tested_at_the_others(blood: AnnData) -> None:
    sites = infl.pp.split_sites(blood, 3, stratify="bulk_labels", seed=1)
    gene = blood.var_names[4]
    others = ad.concat([sites["site_2"], sites["site_3"]])
    sc.tl.rank_genes_groups(others, "bulk_labels", method="t-test", use_raw=False)
    sites["site_1"] = sites["site_1"][:, blood.var_names != gene].copy()
    infl.pp.harmonise(sites, features="union")
    infl.tl.rank_genes_groups(sites, "bulk_labels")
    for group in ("Dendritic", "CD19+ B"):
        found = table(sites["site_1"], group).loc[gene]
        np.testing.assert_allclose(found[["scores", "pvals", "logfoldchanges"]], table(others, group).loc[gene, ["scores", "pvals", "logfoldchanges"]].astype(float), rtol=1e-6)  # fmt: skip


def test_a_feature_that_a_group_has_nowhere_comes_last() -> None:
    rng = np.random.default_rng(0)
    a = AnnData(rng.random((6, 3)), obs=pd.DataFrame({"g": list("xxxyyy")}, index=[f"a{i}" for i in range(6)]))
    b = AnnData(rng.random((4, 2)), obs=pd.DataFrame({"g": list("zzzz")}, index=[f"b{i}" for i in range(4)]))
    sites = {"a": a, "b": b}
    infl.pp.harmonise(sites, features="union")
    infl.tl.rank_genes_groups(sites, "g")
    found = table(sites["b"], "z")
    assert found.index[-1] == "2" and found.loc["2"].isna().all() and found.iloc[:2].notna().all().all()
    assert table(sites["b"], "x")["scores"].notna().all()


def test_scanpys_pictures_and_files_take_it(blood: AnnData, tmp_path) -> None:
    sites = infl.pp.split_sites(blood, 3, stratify="bulk_labels", seed=1)
    infl.tl.rank_genes_groups(sites, "bulk_labels", pts=True, n_genes=20)
    one = sites["site_2"]
    sc.pl.rank_genes_groups(one, show=False)
    sc.pl.rank_genes_groups_dotplot(one, n_genes=2, show=False, dendrogram=False)
    sc.pl.rank_genes_groups_violin(one, groups="Dendritic", n_genes=2, show=False)
    plt.close("all")
    one.write_h5ad(tmp_path / "a.h5ad")
    again = table(ad.read_h5ad(tmp_path / "a.h5ad"), "Dendritic")
    assert len(again) == 20 and {"pct_nz_group", "pct_nz_reference"} <= set(again)


def test_names_are_ranked_by_size_where_that_is_asked(blood: AnnData) -> None:
    sites = infl.pp.split_sites(blood, 2, seed=1)
    infl.tl.rank_genes_groups(sites, "bulk_labels", rankby_abs=True, key_added="m")
    scores = table(sites["site_1"], "Dendritic", "m")["scores"].abs()
    assert (np.diff(scores) <= 0).all() and "rank_genes_groups" not in sites["site_1"].uns


def groups_of(*groups: str) -> dict[str, AnnData]:
    rng = np.random.default_rng(0)
    return {
        f"s{i}": AnnData(
            rng.random((len(g), 3)), obs=pd.DataFrame({"g": list(g)}, index=[f"{i}{j}" for j in range(len(g))])
        )
        for i, g in enumerate(groups)
    }


def test_what_cannot_work_is_one_line_and_alters_nothing(khan_sites: dict[str, AnnData]) -> None:
    def refused(
        kind: type[Exception], match: str, sites: dict[str, AnnData] = khan_sites, by: str = "g", **options: Any
    ) -> None:
        with pytest.raises(kind, match=match):
            infl.tl.rank_genes_groups(sites, by, **options)
        assert all("rank_genes_groups" not in adata.uns for adata in sites.values())

    refused(SettingsError, "'tumour_class' has no group 'class_9' at any site", by="tumour_class", reference="class_9")
    refused(SettingsError, "no group 'b' at any site; there are", by="tumour_class", groups=["class_1", "b"])
    refused(
        SettingsError, "has no group beside the reference", by="tumour_class", groups=["class_1"], reference="class_1"
    )
    refused(SettingsError, "method='anova': give one of", by="tumour_class", method="anova")
    refused(DataError, "groupby 'tumor_class' is missing in obs of site_1; did you mean", by="tumor_class")
    refused(DataError, "group 'b' cannot be tested: 'b' has 1 observation at all sites", groups_of("aaa", "aab"))
    refused(DataError, "the rest of it has 1 observation", groups_of("aaa", "aab"), groups=["a"])
    refused(DataError, "has one group only, 'a'", groups_of("aa", "aa"))
    numbers = groups_of("aaaaaa", "bbb")
    for adata in numbers.values():
        adata.obs["g"] = np.arange(adata.n_obs) + 0.5
    refused(DataError, "groupby 'g' is numeric at s0", numbers)
    bases = groups_of("aab", "abb")
    bases["s0"].uns["log1p"], bases["s1"].uns["log1p"] = {"base": 2}, {"base": 10}
    refused(DataError, "base'] is 2 at s0 and 10 at s1", bases)


def test_counts_and_two_spellings_are_noticed() -> None:
    sites = groups_of("aab", "abb")
    for adata in sites.values():
        adata.X = np.round(adata.X * 9)
    with pytest.warns(InflWarning, match="X of s0 has raw counts"):
        infl.tl.rank_genes_groups(sites, "g")
    sites = groups_of("aab", "bbb")
    sites["s0"].obs["g"] = ["Tumour 1", "Tumour 1", "stroma"]
    sites["s1"].obs["g"] = ["tumour-1", "tumour-1", "stroma"]
    with pytest.warns(InflWarning, match="look like one"):
        infl.tl.rank_genes_groups(sites, "g", groups=["Tumour 1"])


def test_groups_are_in_the_order_that_sites_share_else_by_number(blood: AnnData) -> None:
    sites = infl.pp.split_sites(blood, 2, seed=1)
    order = list(blood.obs["bulk_labels"].cat.categories[::-1])
    for adata in sites.values():
        adata.obs["c"] = adata.obs["bulk_labels"].cat.reorder_categories(order)
        adata.obs["n"] = (
            adata.obs["c"].cat.rename_categories(dict(zip(order, ["10", "9", "1", "2"], strict=True))).astype(str)
        )
    infl.tl.rank_genes_groups(sites, "c", n_genes=1)
    assert list(sites["site_1"].uns["rank_genes_groups"]["names"].dtype.names) == order
    infl.tl.rank_genes_groups(sites, "n", n_genes=1)
    assert sites["site_1"].uns["rank_genes_groups"]["names"].dtype.names == ("1", "2", "9", "10")
