"""Features and labels that sites spell in several ways become one; what only looks alike is told apart or refused."""

import mudata as md
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import infl
from infl._mudata import without_pull
from infl.data.spelling import one_spelling, spelt_as
from infl.errors import MAX_LENGTH, DataError, InflWarning, SettingsError
from infl.pp import harmonise, panel_of


def site(names, seed=0) -> AnnData:
    """Logarithms; every feature's values tell its position."""
    x = np.tile(np.arange(len(names)) + 0.5, (4, 1)).astype(np.float32)
    x[1:] += np.random.default_rng(seed).random((3, len(names))).astype(np.float32) / 4
    return AnnData(x, obs=pd.DataFrame(index=list("abcd")), var=pd.DataFrame(index=list(names)))


def refused(sites, **how) -> str:
    before = {name: (adata.X.copy(), list(adata.var_names), adata.obs.copy()) for name, adata in sites.items()}
    with pytest.raises(DataError) as caught:
        harmonise(sites, **how)
    for name, (x, names, obs) in before.items():
        np.testing.assert_array_equal(sites[name].X, x)
        assert list(sites[name].var_names) == names
        pd.testing.assert_frame_equal(sites[name].obs, obs)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < MAX_LENGTH
    return str(caught.value)


@pytest.mark.parametrize("features", ["intersection", "union"])
def test_case_versions_and_aliases(features):
    sites = {
        "a": site(["TP53", "ENSG00000136997.21", "EGFR", "KRAS"]),
        "b": site(["egfr ", "tp53", "ENSG00000136997.18", "kras"]),
        "c": site(["KRAS", "p53", "EGFR", "ENSG00000136997", "BRCA1"]),
    }
    want = {name: adata.X.copy() for name, adata in sites.items()}
    panel = harmonise(sites, features=features, aliases={"P53": "TP53"})
    shared = ("EGFR", "ENSG00000136997", "KRAS", "TP53")
    assert panel.features == (shared if features == "intersection" else ("BRCA1", *shared))
    order = {"a": [2, 1, 3, 0], "b": [0, 2, 3, 1], "c": [2, 3, 0, 1]}
    for name, adata in sites.items():
        np.testing.assert_array_equal(adata[:, list(shared)].X, want[name][:, order[name]])
    assert sites["b"].var["infl_name_before"][list(shared)].tolist() == ["egfr ", "ENSG00000136997.18", "kras", "tp53"]
    if features == "union":
        assert sites["a"].var["infl_present"].tolist() == [False, True, True, True, True]
        assert pd.isna(sites["a"].var["infl_name_before"]["BRCA1"]) and (sites["a"][:, "BRCA1"].X == 0).all()
    again = harmonise(sites, features=features)
    assert again == panel
    assert sites["b"].var["infl_name_before"]["EGFR"] == "egfr "


names = st.lists(st.sampled_from(["ab", "AB", "aB", "cd", "CD", "ef", "x", "X"]), min_size=1, unique=True)


@given(st.lists(names, min_size=1, max_size=4))
def test_names_stay_unique_and_a_feature_is_never_another(lists):
    before = {f"s{i}": pd.Index(own) for i, own in enumerate(lists)}
    after = one_spelling(before, {})
    for name, index in before.items():
        assert after[name].is_unique
        assert [n.casefold() for n in after[name]] == [n.casefold() for n in index]
    clear = {key for key in ("ab", "cd", "ef", "x") if all([n.casefold() for n in own].count(key) < 2 for own in lists)}
    for key in clear:
        assert len({n for index in after.values() for n in index if n.casefold() == key}) <= 1


def test_two_spellings_at_one_site_are_two_features():
    sites = {"a": site(["Ab", "aB", "q"]), "b": site(["AB", "aB", "Q"])}
    assert harmonise(sites).features == ("Q", "aB")


def test_aliases_that_make_two_features_one():
    sites = {"a": site(["TP53", "P53", "MYC"]), "b": site(["TP53", "MYC"])}
    text = refused(sites, aliases={"p53": "TP53"})
    assert text.startswith("aliases call 'TP53', 'P53' at a all 'TP53': leave all but one of these features out")


def test_genes_of_another_species():
    human, mouse = ["ACTB", "GAPDH", "TP53", "MYC"], ["Actb", "Gapdh", "Trp53", "Myc"]
    text = refused({"a": site(human), "b": site(human), "c": site(mouse)})
    assert text.startswith("names of c are spelt like mouse genes ('Actb'), those of a like human genes ('ACTB')")
    assert "aliases=" in text
    ids = [f"ENSG0000000000{i}.3" for i in range(4)], [f"ENSMUSG0000000000{i}" for i in range(4)]
    assert "like mouse genes ('ENSMUSG00000000000')" in refused({"a": site(ids[0]), "b": site(ids[1])})
    sites = {"a": site(human), "b": site(mouse)}
    panel = harmonise(sites, aliases=dict(zip(mouse, human, strict=True)))
    assert set(panel.features) == set(human)


def test_identifiers_here_and_symbols_there():
    sites = {"a": site(["TP53", "MYC"]), "b": site(["ENSG00000141510.9", "ENSG00000136997.2"])}
    text = refused(sites)
    assert "one has Ensembl identifiers: harmonise(aliases={identifier: symbol, …}) makes them one" in text
    harmonise(sites, aliases={"ENSG00000141510": "TP53", "ENSG00000136997": "MYC"})
    assert list(sites["b"].var_names) == list(sites["a"].var_names)


@pytest.mark.parametrize(
    ("here", "there"), [("ENSG0000000000{}.1", "ENSG0000000000{}.7"), ("gene{}", "GENE{}"), ("g{} ", "g{}")]
)
def test_names_that_differ_by_version_case_or_space_alone_name_what_makes_them_one(khan_sites, here, there):
    sites = {site: adata[:, :9].copy() for site, adata in khan_sites.items()}
    for number, adata in enumerate(sites.values()):
        adata.var_names = [(here if number else there).format(i) for i in range(1, 10)]
    with pytest.raises(DataError, match=r"no feature is shared .*infl\.pp\.harmonise\(sites\) makes them one$"):
        infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)
    harmonise(sites)
    infl.tl.fit_federated(sites, target="tumour_class", rounds=1, progress=False)


def test_counts_among_logarithms(count_sites):
    infl.pp.log1p({"s1": count_sites["s1"]})
    text = refused_sparse(count_sites)
    assert text.startswith("values differ in kind: s1 has logarithms, s0 has raw counts; bring all sites to one")
    assert text.endswith("set check_units=False if they agree after all")
    with pytest.warns(InflWarning, match="values differ in kind: s1 has logarithms, s0 has raw counts"):
        panel_of(count_sites)
    assert len(harmonise(count_sites, check_units=False).features) == 500


def refused_sparse(sites) -> str:
    for adata in sites.values():
        adata.X = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    return refused(sites)


def half_relabelled(khan_sites, old, new):
    for name in ("site_4", "site_5"):
        labels = khan_sites[name].obs["tumour_class"].astype(str).replace(old, new)
        khan_sites[name].obs["tumour_class"] = labels.astype("category")
    return khan_sites


def test_labels_that_differ_by_case_or_spelling_are_suggested_and_made_one(khan_sites):
    half_relabelled(khan_sites, "class_2", "Class-2")
    with pytest.warns(InflWarning, match=r"infl.pp.harmonise\(…, labels=\{'Class-2': 'class_2'\}\)"):
        harmonise(khan_sites, target="tumour_class")
    assert "Class-2" in set(khan_sites["site_4"].obs["tumour_class"])
    panel = harmonise(khan_sites, target="tumour_class", labels={"Class-2": "class_2"})
    assert panel.classes == ("class_1", "class_2", "class_3", "class_4")
    for adata in khan_sites.values():
        assert adata.obs["tumour_class"].dtype == "category"
        assert "Class-2" not in adata.obs["tumour_class"].cat.categories


def test_new_names_for_labels_that_nobody_has(khan_sites):
    text = refused(khan_sites, target="tumour_class", labels={"class_9": "class_1"})
    assert text.startswith(
        "labels renames 'class_9', which no site has in 'tumour_class'; there are 'class_1', 'class_2'"
    )
    with pytest.raises(SettingsError, match="labels renames classes, so it needs target="):
        harmonise(khan_sites, labels={"class_1": "a"})


def test_modalities_are_spelt_alike_each_for_itself_and_must_be_measured_somewhere():
    def mdata(rna, protein):
        with without_pull():
            return md.MuData({"rna": site(rna), "protein": site(protein)})

    sites = {"a": mdata(["TP53", "MYC"], ["p-AKT", "AKT"]), "b": mdata(["myc", "tp53"], ["AKT", "P-AKT"])}
    panel = harmonise(sites)
    assert panel.features == ("rna:MYC", "rna:TP53", "protein:AKT", "protein:P-AKT")
    for adata in sites.values():
        assert list(adata["rna"].var_names) == ["MYC", "TP53"] and list(adata["protein"].var_names) == ["AKT", "P-AKT"]
        assert sorted(adata.var_names) == ["AKT", "MYC", "P-AKT", "TP53"]
        adata["protein"].var["infl_present"] = False
    with pytest.raises(DataError, match=r"modality 'protein' has no measured feature at any site: leave it out"):
        panel_of(sites)


TABLE = {"ENSG00000000001": "AAA", "ENSG00000000002": "BBB"}


@pytest.mark.parametrize(
    ("wanted", "names", "aliases", "found"),
    [
        (["AAA", "BBB"], ["bbb", "ENSG00000000001.7", "C"], TABLE, ["BBB", "AAA", "C"]),
        (["ENSG00000000001", "ENSG00000000002.3"], ["aaa", "BBB"], TABLE, ["ENSG00000000001", "ENSG00000000002.3"]),
        (["AAA", "BBB"], ["AAA", "BBB"], {"AAA": "BBB", "BBB": "AAA"}, ["BBB", "AAA"]),
        (["aaa", "AAA"], ["AAA", "Aaa"], {}, ["AAA", "Aaa"]),  # the model has both, so that the third is neither
        (["AAA"], ["AAA", "aaa"], {}, ["AAA", "aaa"]),
        (["P53"], ["p53 ", "TP53"], {}, ["P53", "TP53"]),
        (["old"], ["new_site"], {"old": "tp53", "new_site": "TP53"}, ["old"]),
        (["1", "7"], [7, 8, 1], {}, ["7", "8", "1"]),
    ],
)
def test_names_as_a_model_spells_them(wanted, names, aliases, found) -> None:
    assert spelt_as(pd.Index(wanted), pd.Index(names), aliases, where="late").tolist() == found


@pytest.mark.parametrize(
    ("wanted", "names", "aliases"),
    [
        (["AAA"], ["aaa", "Aaa"], {}),
        (["AAA"], ["ENSG00000000001", "AAA"], TABLE),
        (["AAA"], ["x", "y"], {"x": "AAA", "y": "AAA"}),
    ],
)
def test_two_features_that_are_one_of_the_model(wanted, names, aliases) -> None:
    with pytest.raises(DataError, match="at late are all the model's 'AAA': leave all but one"):
        spelt_as(pd.Index(wanted), pd.Index(names), aliases, where="late")
