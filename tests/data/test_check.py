"""Each thing that can be wrong with sites' data gets one line, and what can be read is read."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from infl.errors import MAX_LENGTH, DataError, InflWarning, SettingsError
from infl.pp import panel_of


def refused(sites, **how) -> str:
    with pytest.raises(DataError) as caught:
        panel_of(sites, **how)
    text = str(caught.value)
    assert "\n" not in text and len(text) < MAX_LENGTH
    return text


def test_sites_must_be_a_dict_of_objects(khan_sites):
    adata = khan_sites["site_1"]
    with pytest.raises(SettingsError, match="sites= is one object: pass site_key="):
        panel_of(adata)
    assert refused(adata.X).startswith(
        "sites= takes a dict of AnnData or MuData, or one of them with site_key=, not ndarray"
    )
    assert refused({}) == "sites={}: give the sites' data by name"
    assert refused({"a": adata.X}).startswith("sites['a']=<ndarray>: give an AnnData or MuData")
    assert refused({"a": adata, "b": adata}).startswith("sites 'a' and 'b' are the same object")
    with pytest.raises(SettingsError, match="site name=1: give a name, as text"):
        panel_of({1: adata})
    assert "site names 'Ulm' and 'ulm ' are equal" in refused({"Ulm": adata, "ulm ": adata.copy()})


def test_target(khan_sites):
    del khan_sites["site_3"].obs["tumour_class"]
    text = refused(khan_sites, target="tumour_class")
    assert text.startswith("target 'tumour_class' is missing in obs of site_3; it has 'published_split'")
    text = refused(khan_sites, target="Tumour class")
    assert text.startswith("target 'Tumour class' is missing in obs of site_1; did you mean 'tumour_class'?")


def test_target_that_names_two_columns(khan_sites):
    obs = khan_sites["site_1"].obs
    khan_sites["site_1"].obs = pd.concat([obs, obs[["tumour_class"]]], axis=1)
    text = refused(khan_sites, target="tumour_class")
    assert text == "target 'tumour_class' is the name of 2 columns in obs of site_1; rename one"


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_labels_without_a_value(khan_sites, empty):
    labels = khan_sites["site_2"].obs["tumour_class"].astype(object)
    labels.iloc[[3, 5]] = empty
    khan_sites["site_2"].obs["tumour_class"] = labels
    text = refused(khan_sites, target="tumour_class")
    assert "has no value for 2 of 17 observations at site_2; fill them in" in text


def test_numbers_are_not_classes(khan_sites):
    for adata in khan_sites.values():
        adata.obs["age"] = np.linspace(0, 90, adata.n_obs)
        adata.obs["id"] = np.arange(adata.n_obs)
        adata.obs["grade"] = np.arange(adata.n_obs) % 3
        adata.obs["relapse"] = np.arange(adata.n_obs) % 2 == 0
    assert "target 'age' is numeric at site_1 (16 values) where classes are due" in refused(khan_sites, target="age")
    assert "target 'id' is numeric at site_1" in refused(khan_sites, target="id")
    assert panel_of(khan_sites, target="grade").classes == ("0", "1", "2")
    assert panel_of(khan_sites, target="relapse").classes == ("False", "True")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["dense", "csr", "csc", "view", "backed", "backed sparse", "backed view", "layer"])
def test_values_that_are_no_numbers(khan_sites, value, kind, tmp_path):
    adata = khan_sites["site_4"]
    adata.X[2, [7, 9]] = value
    adata.X[3, 9] = value
    how = {}
    if kind == "view":
        adata = adata[1:, :]
    elif kind == "layer":
        for site in khan_sites.values():
            site.layers["scaled"] = site.X.copy()
        how = {"layer": "scaled"}
        adata.X = np.zeros(adata.shape, dtype=np.float32)
    elif kind != "dense" and kind != "backed" and kind != "backed view":
        adata.X = sparse.csc_matrix(adata.X) if kind == "csc" else sparse.csr_matrix(adata.X)
    if kind.startswith("backed"):
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
        adata = adata[1:] if kind == "backed view" else adata
    khan_sites["site_4"] = adata
    name = "NaN" if np.isnan(value) else "infinite value"
    where = "scaled" if kind == "layer" else "X"
    text = refused(khan_sites, **how)
    assert text.startswith(f"{name} in feature 'clone_7' at site_4 (3 such values in 2 features of {where})")


def test_values_outside_the_panel_are_nobodys_business(khan_sites):
    khan_sites["site_1"].X[0, 5] = np.nan
    khan_sites["site_2"] = khan_sites["site_2"][:, [0, 1, 2]].copy()
    assert panel_of(khan_sites).features == ("clone_0", "clone_1", "clone_2")


@pytest.mark.parametrize("kind", ["integer", "sparse integer", "bool", "float64", "constant", "view", "backed"])
def test_what_can_be_read(khan_sites, kind, tmp_path):
    adata = khan_sites["site_1"]
    x = {"integer": adata.X.astype(int), "bool": adata.X > 0, "float64": adata.X.astype(float)}.get(kind, adata.X)
    x = sparse.csr_matrix(adata.X.astype(np.int32)) if kind == "sparse integer" else x
    x = np.zeros_like(adata.X) if kind == "constant" else x
    adata = AnnData(x, obs=adata.obs, var=adata.var)
    if kind == "view":
        adata = adata[::-1]
    if kind == "backed":
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    khan_sites["site_1"] = adata
    if kind == "bool":  # which looks like counts among scaled values
        with pytest.warns(InflWarning, match="values differ in kind: site_1 has raw counts, site_2 has scaled values"):
            assert len(panel_of(khan_sites).features) == 2308
    else:
        assert len(panel_of(khan_sites, target="tumour_class").features) == 2308


def test_matrix_of_objects(khan_sites):
    adata = khan_sites["site_1"]
    khan_sites["site_1"] = AnnData(obs=adata.obs, var=adata.var, layers={"text": adata.X.astype(str).astype(object)})
    assert refused(khan_sites).startswith("site_1 has no X; layer= can be 'text'")
    sites = {"site_1": khan_sites["site_1"]}
    assert refused(sites, layer="text").startswith("text of site_1 holds object values, not numbers")


def test_layer_that_some_lack(khan_sites):
    for site in ("site_1", "site_2"):
        khan_sites[site].layers["counts"] = khan_sites[site].X.copy()
    assert refused(khan_sites, layer="counts") == "layer 'counts' is missing at site_3: it has no layers"
    assert refused(khan_sites, layer="raw") == "layer 'raw' is missing at site_1: it has 'counts'"


def test_names_that_occur_twice(khan_sites):
    khan_sites["site_2"].var_names = ["TP53", "TP53", "MYC", "MYC", *khan_sites["site_2"].var_names[4:]]
    text = refused(khan_sites)
    assert text == "duplicate feature names at site_2: 'TP53', 'MYC'; call its var_names_make_unique()"
    khan_sites["site_1"].obs_names = ["s"] * 16
    assert refused(khan_sites) == "duplicate obs_names at site_1: 's'; call its obs_names_make_unique()"


def test_names_that_are_numbers(khan_sites):
    for adata in khan_sites.values():
        adata.var.index = pd.RangeIndex(adata.n_vars)
    with pytest.raises(
        DataError, match=r"feature names of site_1 are no text, the first is 0: set adata\.var_names to"
    ):
        panel_of(khan_sites)


def test_no_shared_feature(khan_sites):
    khan_sites["site_5"].var_names = [f"ENSG{i}" for i in range(2308)]
    text = refused(khan_sites)
    assert text.startswith("no feature is shared by all 5 sites: site_5 has none in common with those before it")
    assert "'clone_0' at site_1 and 'ENSG0' at site_5" in text
    empty = {site: adata[:, []].copy() for site, adata in khan_sites.items()}
    assert "no features at all" in refused(empty)


def test_site_without_observations(khan_sites):
    khan_sites["site_2"] = khan_sites["site_3"][:0].copy()
    assert refused(khan_sites) == "site_2 has no observations: leave it out"


@pytest.mark.parametrize("n_obs", [1, 2, None])
def test_site_with_one_class_is_a_warning_that_names_it(khan_sites, n_obs):
    adata = khan_sites["site_1"]
    khan_sites["site_2"] = adata[adata.obs["tumour_class"] == "class_2"][:n_obs].copy()
    with pytest.warns(InflWarning, match=r"one class only of 'tumour_class' at 'site_2 \(class_2\)'.*compare"):
        panel = panel_of(khan_sites, target="tumour_class")
    assert panel.classes == ("class_1", "class_2", "class_3", "class_4")
    with pytest.warns(InflWarning, match="one class only"):
        assert panel_of({"site_2": khan_sites["site_2"]}, target="tumour_class").classes == ("class_2",)


def test_class_at_one_site_only_is_a_warning(khan_sites):
    for site, adata in khan_sites.items():
        if site != "site_4":
            khan_sites[site] = adata[adata.obs["tumour_class"] != "class_1"].copy()
    with pytest.warns(InflWarning, match=r"one site alone has these classes of 'tumour_class': 'class_1 \(site_4\)'"):
        panel = panel_of(khan_sites, target="tumour_class")
    assert "class_1" in panel.classes


def relabelled(khan_sites, names):
    """The first half of the sites use names[0] for class_2, the others names[1]."""
    for i, adata in enumerate(khan_sites.values()):
        labels = adata.obs["tumour_class"].astype(str).replace("class_2", names[i >= 3])
        adata.obs["tumour_class"] = labels.astype("category")
    return khan_sites


@pytest.mark.parametrize(
    "names",
    [("Ewing", "ewing sarcoma"), ("Ewing sarcoma", "ewing-sarcoma"), ("neuroblastoma", "neuroblastom"), ("B ", "b")],
)
def test_labels_spelt_in_two_ways(khan_sites, names):
    with pytest.warns(InflWarning, match="look like one class; if they are, spell them alike at all sites") as caught:
        panel_of(relabelled(khan_sites, names), target="tumour_class")
    assert all(repr(name) in str(caught[0].message) for name in names)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("names", [("class_20", "class_21"), ("CD4+", "CD4-"), ("LumA", "LumB"), ("hESC", "hiPSC")])
def test_labels_that_differ_by_intention(khan_sites, names):
    with warnings.catch_warnings():
        warnings.simplefilter("error", InflWarning)
        panel_of(relabelled(khan_sites, names), target="tumour_class")


@pytest.mark.data_dir
def test_mudata_errors_name_the_modality(breast):
    from infl.pp import split_sites

    sites = split_sites(breast, 3, stratify="subtype")
    sites["site_2"]["protein"].X[0, 3] = np.nan
    assert "in feature '4E-BP1_pT37' at site_2 (protein)" in refused(sites, target="subtype")
    assert refused(sites, layer="counts").startswith("layer 'counts' is missing at site_1 (rna)")
    assert refused({**sites, "site_3": breast["rna"]}).startswith("sites mix AnnData and MuData")


def test_nothing_is_altered(khan_sites):
    before = {site: (adata.X.copy(), adata.obs.copy(), adata.var.copy()) for site, adata in khan_sites.items()}
    panel_of(khan_sites, target="tumour_class", features="union")
    for site, (x, obs, var) in before.items():
        np.testing.assert_array_equal(khan_sites[site].X, x)
        pd.testing.assert_frame_equal(khan_sites[site].obs, obs)
        pd.testing.assert_frame_equal(khan_sites[site].var, var)
