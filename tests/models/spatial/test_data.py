"""What the spatial model reads from sites, and what it refuses."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pytest
from tests.models.spatial.conftest import OPTIONS, section, sites

import infl
from infl.errors import DataError
from infl.models.matrix import FeatureMatrix
from infl.models.neighbours import sections_of
from infl.models.spatial.neighbourhoods import Neighbourhoods


def test_sections_of_one_site_and_a_mudata_read_alike():
    one, two = section(0), section(1)
    both = ad.concat([one, two])
    both.obs["section"] = np.repeat(["one", "two"], 144)
    task = infl.models.Spatial(section_key="section", n_neighbors=4)
    panel = {"features": list(both.var_names)}
    rows = task.read(both, panel, site="a").batch(slice(None))
    alone = infl.models.Spatial(n_neighbors=4)
    assert np.allclose(rows[:144], alone.read(one, panel, site="a").batch(slice(None)), atol=1e-5)
    assert np.allclose(rows[144:], alone.read(two, panel, site="a").batch(slice(None)), atol=1e-5)
    both.var_names = both.var_names.astype(str)
    multi = md.MuData({"rna": both})
    task = infl.models.Spatial(section_key="section", n_neighbors=4, modality="rna")
    assert np.array_equal(rows, task.read(multi, panel, site="a").batch(slice(None)))


def test_shares_are_those_worked_out_by_hand():
    spots = ad.AnnData(np.array([[4.0, 0], [1, 3], [0, 0], [9, 0]], dtype=np.float32))
    spots.obsm["spatial"] = np.array([[0.0, 0], [1, 0], [2, 0], [50, 0]])
    spots.obs["section"] = ["one", "one", "one", "one"]
    x = FeatureMatrix(spots, spots.var_names, site="a")
    near = Neighbourhoods(x, sections_of(spots, site="a"), n_neighbors=1, n_hops=1)
    root = np.sqrt(3) / 2  # of three quarters
    # Spot 2 has no count and takes what its neighbour has; spot 3 lies beyond a tear, alone.
    by_hand = np.array([[0.75, root / 2], [0.75, root / 2], [0.5, root], [1, 0]])
    np.testing.assert_allclose(near.rows(), by_hand, atol=1e-6)
    centred = by_hand - by_hand.mean(0)
    np.testing.assert_allclose(near.within(), centred, atol=1e-6)
    np.testing.assert_allclose(near.alike(), centred / np.sqrt((centred**2).sum()), atol=1e-6)
    np.testing.assert_allclose(near.alike(np.array([3, 0])), near.alike()[[3, 0]])


def test_a_spot_with_no_counts_near_is_as_its_section():
    spots = ad.AnnData(np.array([[4.0, 0], [1, 3], [0, 0], [0, 5]], dtype=np.float32))
    spots.obsm["spatial"] = np.array([[0.0, 0], [1, 0], [50, 0], [0, 0]])
    spots.obs["section"] = ["one", "one", "one", "two"]
    x = FeatureMatrix(spots[:3], spots.var_names, site="a")
    rows = Neighbourhoods(x, sections_of(spots[:3], site="a"), n_neighbors=1, n_hops=1).rows()
    np.testing.assert_allclose(rows[2], rows[:2].mean(0))


def test_rows_on_demand_are_those_in_memory(monkeypatch):
    task, panel = infl.models.Spatial(n_neighbors=4), {"features": [f"gene_{i}" for i in range(40)]}
    whole = task.read(section(0), panel, site="a").batch(np.array([3, 77]))
    monkeypatch.setattr("infl.models.spatial.neighbourhoods._IN_MEMORY", 0)
    assert np.allclose(task.read(section(0), panel, site="a").batch(np.array([3, 77])), whole, atol=1e-6)


def test_spots_without_counts_are_taken_and_values_that_are_no_counts_are_not():
    tables = sites()
    x = tables["a"].X.toarray()
    x[[5, 6]] = 0
    tables["a"].X = x
    infl.tl.fit_federated(tables, **OPTIONS | {"rounds": 1})
    assert np.isfinite(tables["a"].obsm["X_infl"]).all() and tables["a"].obs["infl_domain"].notna().all()
    for adata in tables.values():
        adata.X = np.log1p(sites()["b"].X.toarray())
    with pytest.raises(DataError, match="a has .* which is no count"):
        infl.tl.fit_federated(tables, **OPTIONS)


def test_bad_coordinates_are_named_before_the_fit_and_nothing_is_written():
    tables = sites()
    del tables["b"].obsm["spatial"]
    with pytest.raises(DataError, match=r"b has no coordinates in obsm\['spatial'\]"):
        infl.tl.fit_federated(tables, **OPTIONS)
    tables = sites()
    tables["b"].obsm["spatial"][1] = tables["b"].obsm["spatial"][0]
    with pytest.raises(DataError, match="b has 2 spots at the coordinates of '1_0'"):
        infl.tl.fit_federated(tables, **OPTIONS)
    tables = sites()
    tables["c"] = tables["c"][:4].copy()
    with pytest.raises(DataError, match="c has 4 spots, too few for n_neighbors=4"):
        infl.tl.fit_federated(tables, **OPTIONS)
    assert all("infl" not in s.uns and "infl_domain" not in s.obs for s in tables.values())


@pytest.mark.parametrize("key", ["section", None])
def test_sections_of_sites_stay_apart_in_what_is_pooled(key):
    from infl.models.pooling import pool

    tables = sites()
    for spots in tables.values():
        spots.obs["section"] = "s1"
        spots.obs_names = [f"AAAC{i}-1" for i in range(spots.n_obs)]
    together = pool(tables)
    assert together.obs_names.is_unique
    found = sections_of(together, section_key=key, site="pooled")
    assert [len(rows) for rows in found.rows.values()] == [144] * 3
    alone = sections_of(tables["a"], section_key=key, site="a")
    np.testing.assert_array_equal(found.graph(4)[:144, :144].toarray(), alone.graph(4).toarray())
    assert found.graph(4)[:144, 144:].nnz == 0
