"""What the mosaic reads from sites, and what it refuses."""

import numpy as np
import pytest
from mudata import MuData
from tests.models.mosaic.conftest import DOMAIN, XY, fit, section

import infl
from infl._mudata import without_pull
from infl.data.units import units_of
from infl.errors import DataError, InflWarning
from infl.models.mosaic import Mosaic
from infl.models.pooling import pool


def test_modalities_that_are_nowhere_together(sites):
    with pytest.raises(DataError, match="'adt' and 'rna' cannot be aligned: no site has 10 spots with both"):
        Mosaic().agree({"b": sites["b"], "c": sites["c"]})


def test_modalities_may_be_linked_by_a_third():
    linked = {"a": section("a", 0, "rna", "adt"), "b": section("b", 1, "adt", "atac")}
    assert list(Mosaic().agree(linked)["modalities"]) == ["adt", "atac", "rna"]


def test_spots_with_both_are_what_counts(sites):
    adt = sites["a"]["adt"].copy()
    adt.obs_names = [f"other-{i}" for i in range(adt.n_obs)]
    with without_pull():
        apart = MuData({"rna": sites["a"]["rna"], "adt": adt})
    with pytest.raises(DataError, match="cannot be aligned"):
        Mosaic(spatial_key=None).agree({"a": apart, "b": sites["b"]})


def test_an_empty_modality(sites):
    with without_pull():
        empty = MuData({"rna": sites["b"]["rna"], "adt": sites["a"]["adt"][:0].copy()})
    with pytest.raises(DataError, match="b has no observations in modality 'adt': take it out"):
        Mosaic().agree({**sites, "b": empty})


def test_values_of_two_kinds(sites):
    sites["b"]["rna"].X = np.log1p(sites["b"]["rna"].X)
    with pytest.raises(DataError, match="values differ in kind"):
        Mosaic().agree(sites)


def test_coordinates_at_some_sites_only(sites):
    del sites["c"].obsm["spatial"], sites["c"]["adt"].obsm["spatial"]
    with pytest.raises(DataError, match="c has no coordinates in obsm\\['spatial'\\], a has"):
        Mosaic().agree(sites)
    assert Mosaic(spatial_key=None).agree(sites)["spatial"] is False


def test_coordinates_in_other_units_are_told_of(sites):
    sites["b"].obsm["spatial"] = XY * 100
    with pytest.warns(InflWarning, match="different units"):
        Mosaic().agree(sites)


def test_sections_of_sites_that_were_put_together_stay_apart(sites):
    task, together = Mosaic(), pool(sites)
    panel = task.agree(sites)
    data = task.read(together, panel, site="pooled")
    assert [len(section) for section in data.sections] == [len(DOMAIN)] * 3
    alone = task.read(sites["b"], panel, site="b")
    rows = np.flatnonzero([name.startswith("b-") for name in together.obs_names])
    rna = list(panel["modalities"]).index("rna")
    inside = np.isin(data.measured[rna].rows, rows)
    np.testing.assert_allclose(data.measured[rna].x[inside], alone.measured[rna].x, atol=1e-5)


def test_a_few_negative_values_are_no_counts(sites):
    for site in ("a", "b"):
        x = np.log1p(sites[site]["rna"].X)
        x[::50, 0] = -0.3
        sites[site]["rna"].X = x
    assert units_of(sites["a"]["rna"]) is None
    assert Mosaic().agree(sites)["kinds"] == {"adt": "clr", "rna": "values"}
    fit(sites, rounds=1)
    with pytest.raises(DataError, match=r"'rna' has negative values \(at a\) where kind 'counts' needs raw counts"):
        Mosaic(kinds={"rna": "counts"}).agree(sites)
    sites["b"]["rna"].X = np.rint(np.abs(sites["b"]["rna"].X))
    assert Mosaic().agree(sites)["kinds"]["rna"] == "values"


def test_what_is_not_of_the_models_kind_is_refused_at_use(sites):
    run = fit(sites, rounds=1)
    query = section("q", 3, "rna", "adt")
    query["rna"].X = np.log1p(query["rna"].X)
    with pytest.raises(DataError, match="values differ in kind"):
        infl.tl.predict(query, run)
    with pytest.raises(DataError, match=r"kind 'counts' needs raw counts: .*set kinds=\{'rna': 'values'\}"):
        infl.tl.predict(query, run, check_units=False)
