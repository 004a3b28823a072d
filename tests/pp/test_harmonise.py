"""Laws of harmonise: the same features in one order at all sites, values follow names, nothing changes on error."""

import pickle

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import infl
from infl._mudata import without_pull
from infl.errors import DataError, SettingsError
from infl.pp import harmonise, panel_of

GENES = [f"g{i}" for i in range(12)]


def expression(gene: str, i: int) -> float:
    return 100 * int(gene[1:]) + i + 1


def make(genes, *, kind="dense", n=3) -> AnnData:
    """A site whose values tell their gene and observation."""
    x = np.array([[expression(gene, i) for gene in genes] for i in range(n)], dtype=np.float32)
    layers = {"twice": sparse.csc_matrix(2 * x)}
    x = {"dense": x, "csr": sparse.csr_matrix(x), "csc": sparse.csc_matrix(x), "integer": x.astype(np.int64)}.get(
        kind, x
    )
    adata = AnnData(
        x,
        obs=pd.DataFrame(index=[f"o{i}" for i in range(n)]),
        var=pd.DataFrame(
            {"rank": [int(gene[1:]) for gene in genes], "odd": [int(g[1:]) % 2 == 1 for g in genes]}, index=genes
        ),
        layers=layers,
        varm={"loading": np.array([[int(gene[1:])] for gene in genes])},
        uns={"note": "kept"},
    )
    adata.varp["near"] = sparse.csr_matrix(np.diag([int(gene[1:]) + 1.0 for gene in genes]))
    if kind == "view":
        wide = ad.concat([adata, adata], keys=["a", "b"], index_unique="_", merge="same", uns_merge="same")
        adata = wide[:n]
    return adata


def dense(matrix):
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


panels = st.lists(
    st.lists(st.sampled_from(GENES), min_size=1, unique=True).map(lambda g: g if "g0" in g else [*g, "g0"]),
    min_size=1,
    max_size=4,
)
kinds = st.sampled_from(["dense", "csr", "csc", "integer", "view"])


@given(panels, st.lists(kinds, min_size=4, max_size=4), st.sampled_from(["intersection", "union"]))
@settings(max_examples=40)
def test_features_agree_and_values_follow_names(genes, kinds, features):
    sites = {f"s{i}": make(own, kind=kind) for i, (own, kind) in enumerate(zip(genes, kinds, strict=False))}
    types = {site: type(adata.X) for site, adata in sites.items() if not adata.is_view}
    panel = harmonise(sites, features=features)
    sets = [set(own) for own in genes]
    assert set(panel.features) == (set.intersection(*sets) if features == "intersection" else set.union(*sets))
    for (site, adata), own in zip(sites.items(), genes, strict=True):
        assert list(adata.var_names) == list(panel.features)
        assert not adata.is_view
        assert type(adata.X) is types.get(site, type(adata.X))
        assert adata.uns["note"] == "kept"
        for gene in panel.features:
            here = gene in own
            want = [expression(gene, i) if here else 0 for i in range(3)]
            np.testing.assert_array_equal(dense(adata[:, gene].X).ravel(), want)
            if "twice" in adata.layers:
                np.testing.assert_array_equal(dense(adata[:, gene].layers["twice"]).ravel(), 2 * np.array(want))
            assert panel.present[site][panel.features.index(gene)] == here
            if features == "union":
                assert adata.var.loc[gene, "infl_present"] == here


@given(panels, st.permutations(range(4)), st.sampled_from(["intersection", "union"]))
@settings(max_examples=40)
def test_the_panel_does_not_depend_on_the_order_of_sites(genes, order, features):
    sites = {f"s{i}": make(own) for i, own in enumerate(genes)}
    other = {f"s{i}": make(genes[i]) for i in order if i < len(genes)}
    assert harmonise(sites, features=features).digest() == harmonise(other, features=features).digest()


@given(panels, st.sampled_from(["intersection", "union"]))
@settings(max_examples=40)
def test_twice_is_once_and_union_keeps_what_an_intersection_would_take(genes, features):
    sites = {f"s{i}": make(own) for i, own in enumerate(genes)}
    common = panel_of(sites).features
    panel = harmonise(sites, features=features)
    values = {site: dense(adata.X).copy() for site, adata in sites.items()}
    again = harmonise(sites, features=features)
    assert again == panel
    for site, adata in sites.items():
        np.testing.assert_array_equal(dense(adata.X), values[site])
        np.testing.assert_array_equal(again.present[site], panel.present[site])
    assert set(panel_of(sites).features) == set(common)  # what no site measured is never mistaken for a measurement
    harmonise(sites)
    assert all("infl_present" not in adata.var for adata in sites.values())
    assert all(set(adata.var_names) == set(common) for adata in sites.values())


def test_sites_that_agree_keep_their_order_and_their_arrays(khan_sites):
    arrays = {site: adata.X for site, adata in khan_sites.items()}
    panel = harmonise(khan_sites, target="tumour_class")
    assert panel.features[:3] == ("clone_0", "clone_1", "clone_2")
    assert panel.classes == ("class_1", "class_2", "class_3", "class_4")
    assert all(adata.X is arrays[site] for site, adata in khan_sites.items())


def test_annotations_of_absent_features_are_missing_and_can_be_written(tmp_path):
    sites = {"a": make(["g0", "g1"]), "b": make(["g2", "g0"])}
    sites["a"].raw = sites["a"].copy()
    harmonise(sites, features="union")
    a = sites["a"]
    assert list(a.var_names) == ["g0", "g1", "g2"]
    assert pd.isna(a.var.loc["g2", "rank"]) and pd.isna(a.var.loc["g2", "odd"])
    np.testing.assert_array_equal(a.varm["loading"].ravel(), [0, 1, np.nan])
    np.testing.assert_array_equal(dense(a.varp["near"]), np.diag([1.0, 2.0, 0.0]))
    assert list(a.raw.var_names) == ["g0", "g1"]
    for write, read, name in ((a.write_h5ad, ad.read_h5ad, "a.h5ad"), (a.write_zarr, ad.read_zarr, "a.zarr")):
        write(tmp_path / name)
        back = read(tmp_path / name)
        assert back.var["infl_present"].tolist() == [True, True, False]
        np.testing.assert_array_equal(back.X, a.X)


def test_backed_sites_may_stay_as_they_are_but_not_be_reordered(khan_sites, tmp_path):
    khan_sites["site_1"].write_h5ad(tmp_path / "a.h5ad")
    khan_sites["site_1"] = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert len(harmonise(khan_sites).features) == 2308
    assert khan_sites["site_1"].isbacked
    khan_sites["site_2"] = khan_sites["site_2"][:, ::-1].copy()
    before = state(khan_sites["site_2"])
    with pytest.raises(DataError, match=r"site_1 is backed and needs its features .* by its \.to_memory\(\)"):
        harmonise(khan_sites)
    assert state(khan_sites["site_2"]) == before
    khan_sites["site_1"] = khan_sites["site_1"].to_memory()
    harmonise(khan_sites)
    assert khan_sites["site_1"].var_names.equals(khan_sites["site_2"].var_names)


def state(adata) -> bytes:
    return pickle.dumps((dense(adata.X), list(adata.var_names), adata.var, adata.obs, dict(adata.layers)))


@pytest.mark.parametrize("features", ["intersection", "union"])
def test_on_error_all_objects_are_as_before(features):
    bad = make(["g1", "g0"])
    bad.X[1, 0] = np.nan
    sites = {"a": make(["g2", "g1", "g0"]), "b": make(["g0", "g1"], kind="view"), "c": bad}
    before = {site: state(adata) for site, adata in sites.items()}
    with pytest.raises(DataError, match="NaN in feature 'g1' at c"):
        harmonise(sites, features=features)
    assert {site: state(adata) for site, adata in sites.items()} == before
    assert sites["b"].is_view


def test_unknown_way_to_join():
    with pytest.raises(SettingsError, match="features='outer': give one of 'intersection', 'union'"):
        harmonise({"a": make(["g0"])}, features="outer")


@pytest.mark.data_dir
@pytest.mark.parametrize("features", ["intersection", "union"])
def test_mudata_with_modalities_that_differ_between_sites(breast, features):
    from infl.pp import split_sites

    sites = split_sites(breast, 3, stratify="subtype")
    with without_pull():
        first = sites["site_1"]
        rna = first["rna"][:, ::-1][:, :150].copy()
        shared = list(rna.var_names)
        sites["site_1"] = md.MuData({"rna": rna, "protein": first["protein"].copy()})
        sites["site_1"].obs["subtype"] = first.obs["subtype"]
    panel = harmonise(sites, target="subtype", features=features)
    assert panel.modalities == ("mirna", "protein", "rna")
    n_rna = 150 if features == "intersection" else 200
    assert len(panel.features) == n_rna + 142 + 184
    assert panel.features[0].startswith("mirna:")
    assert panel.present["site_1"].sum() == 150 + 142
    for site, mdata in sites.items():
        assert list(mdata["rna"].var_names) == [f.removeprefix("rna:") for f in panel.features[-n_rna:]]
        assert mdata.n_vars == (n_rna + 142 if site == "site_1" else n_rna + 142 + 184)
        want = breast["rna"][mdata["rna"].obs_names, shared].X
        np.testing.assert_array_equal(mdata["rna"][:, shared].X, want)


@pytest.mark.data_dir
def test_mudata_views_become_objects_of_their_own_and_files_stay_files(breast, tmp_path):
    with without_pull():
        breast.write_h5mu(tmp_path / "breast.h5mu")
        backed = md.read_h5mu(tmp_path / "breast.h5mu", backed="r")
        view = breast[np.arange(100)]
    panel = harmonise({"a": view, "b": backed}, target="subtype")
    assert len(panel.features) == 526
    assert not view.is_view and view.n_obs == 100
    assert backed.isbacked and backed["rna"].isbacked
    np.testing.assert_array_equal(view["rna"].X, breast["rna"].X[:100])


def annotated(genes: list[str]) -> AnnData:
    adata = make(genes, n=12)
    adata.X += np.random.default_rng(0).random(adata.shape, dtype=np.float32)
    n = len(genes)
    adata.obs["kind"] = ["p", "q"] * 6
    adata.var["highly_variable"] = [gene in ("g0", "g1", "g4") for gene in genes]
    adata.var["nullable"] = pd.array(range(n), dtype="Int64")
    adata.var["text"] = pd.array(["u"] * n, dtype="string")
    adata.var["category"] = pd.Categorical((["x", "y"] * n)[:n])
    index = adata.var_names
    adata.varm["frame"] = pd.DataFrame({"number": range(n), "text": ["z"] * n, "flag": [True] * n}, index=index)
    adata.varm["flags"], adata.varm["sparse"] = np.ones((n, 2), dtype=bool), sparse.csr_matrix(np.eye(n))
    adata.varm["texts"] = np.array([["t", "u"]] * n)
    adata.varp["dense"], adata.varp["sparse"] = np.eye(n), sparse.csr_matrix(np.eye(n))
    adata.raw = adata.copy()
    return adata


@pytest.mark.filterwarnings("ignore")
def test_a_united_object_keeps_all_annotations_and_can_be_worked_with(tmp_path):
    sites = {"s0": annotated(GENES[:4]), "s1": annotated(["g2", "g3", "g4", "g1"]), "s2": annotated(GENES[:5])}
    infl.pp.harmonise(sites, features="union")
    first = sites["s0"]
    frame = first.varm["frame"]
    assert (
        list(frame.index) == list(first.var_names) and frame.loc["g4"].isna().all() and frame.loc["g0", "text"] == "z"
    )
    assert np.isnan(first.varm["flags"][first.var_names.get_loc("g4")]).all()
    assert first.varm["texts"].loc["g4"].isna().all()
    assert first.raw.shape == (12, 4) and first.varp["sparse"].shape == (5, 5)
    first.write_h5ad(tmp_path / "a.h5ad")
    sites["s0"] = ad.read_h5ad(tmp_path / "a.h5ad")
    infl.pp.pca(sites, n_comps=2)  # by var['highly_variable'], missing where a site did not measure
    used = sites["s0"].varm["PCs"].any(axis=1)
    assert set(sites["s0"].var_names[used]) == {"g0", "g1", "g4"}
    infl.pp.qc_summary(sites, qc_vars="highly_variable")
    infl.pp.scale(sites, copy=True)
    infl.pp.highly_variable_genes(sites, inplace=False, check_values=False, flavor="cell_ranger")
    infl.tl.fit_federated(sites, target="kind", rounds=1, progress=False)
    sites["s1"].var["highly_variable"] = ~sites["s1"].var["highly_variable"]
    with pytest.raises(DataError, match="is not that of"):
        infl.pp.pca(sites, n_comps=2)


@pytest.mark.parametrize("dtype", [bool, "boolean", object])
def test_masks_may_be_of_any_type_of_truth_values(dtype):
    sites = {f"s{i}": annotated(GENES[:4]) for i in range(3)}
    for i, adata in enumerate(sites.values()):
        adata.obs_names = [f"{i}-{name}" for name in adata.obs_names]
        adata.obs["used"] = pd.Series([True, False] * 6, index=adata.obs_names, dtype=dtype)
        adata.var["used"] = pd.Series([True, True, True, False], index=adata.var_names, dtype=dtype)
    infl.pp.pca(sites, n_comps=2, mask_var="used")
    infl.pp.pca(sites, n_comps=2, mask_var=sites["s0"].var["used"].array)
    infl.pp.scale(sites, mask_obs="used")
    for adata in sites.values():
        adata.obs["used"] = [1, 0] * 6
    with pytest.raises(DataError, match="must be truth values"):
        infl.pp.scale(sites, mask_obs="used")
