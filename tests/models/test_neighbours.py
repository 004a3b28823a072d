from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from infl.errors import DataError, InflWarning
from infl.models.neighbours import averaging, sections_of, warn_of_spacings


def grid(rows: int = 4, columns: int = 5, *, step: float = 1.0, name: str = "s") -> ad.AnnData:
    """Spots on a square grid."""
    xy = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2) * step
    spots = ad.AnnData(np.ones((len(xy), 2), dtype=np.float32), obsm={"spatial": xy})
    spots.obs_names = [f"{name}_{i}" for i in range(len(xy))]
    spots.obs["section"] = name
    return spots


def test_neighbours_on_a_grid_are_those_around_a_spot():
    graph = sections_of(grid(5, 5), site="a").graph(n_neighbors=4)
    middle = 2 * 5 + 2
    assert set(graph[middle].indices) == {middle - 1, middle + 1, middle - 5, middle + 5}
    assert (graph != graph.T).nnz == 0
    assert graph.diagonal().sum() == 0


def test_sections_that_lie_over_each_other_share_no_edge():
    both = ad.concat([grid(name="one"), grid(name="two")])
    graph = sections_of(both, section_key="section", site="a").graph(n_neighbors=4)
    assert graph[:20, 20:].nnz == 0 and graph[:20, :20].nnz == graph[20:, 20:].nnz > 0
    alone = sections_of(grid(), site="a").graph(n_neighbors=4)
    assert (graph[:20, :20] != alone).nnz == 0


def test_units_do_not_change_the_graph():
    near, far = (sections_of(grid(step=step), site="a").graph(n_neighbors=4) for step in (1.0, 250.0))
    assert (near != far).nnz == 0


def test_a_gap_is_not_bridged():
    spots = ad.concat([grid(5, 5, name="tissue"), grid(1, 3, name="scrap")])
    spots.obsm["spatial"][25:] += [0, 8]  # three spots that came off, 4 spacings away
    sections = sections_of(spots, site="a")
    assert sections.graph(n_neighbors=4)[:25, 25:].nnz == 0
    assert sections.graph(n_neighbors=4, reach=np.inf)[:25, 25:].nnz > 0


def test_averaging_has_rows_that_add_to_one():
    graph = sections_of(grid(), site="a").graph(n_neighbors=4)
    assert np.allclose(averaging(graph).sum(1), 1)
    path = sparse.csr_matrix([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    assert np.allclose(averaging(path, own=2).toarray(), [[2 / 3, 1 / 3, 0], [1 / 4, 2 / 4, 1 / 4], [0, 1 / 3, 2 / 3]])
    assert averaging(sparse.csr_matrix((1, 1))).toarray().tolist() == [[1]]  # a spot without neighbours stays as it is


def test_errors_name_the_site_and_the_remedy():
    spots = grid()
    del spots.obsm["spatial"]
    with pytest.raises(DataError, match=r"site_1 has no coordinates in obsm\['spatial'\]: set spatial_key="):
        sections_of(spots, site="site_1")
    spots = grid()
    spots.obsm["spatial"][3, 0] = np.nan
    with pytest.raises(DataError, match="1 spots of site_1 have no coordinates .* first 's_3'"):
        sections_of(spots, site="site_1")
    spots = grid()
    spots.obsm["spatial"] = spots.obsm["spatial"][:, :1]
    with pytest.raises(DataError, match="two or three numbers"):
        sections_of(spots, site="site_1")
    both = ad.concat([grid(name="one"), grid(name="two")])
    with pytest.raises(DataError, match="site_1 has 2 spots at the coordinates of 'one_0': .* section_key="):
        sections_of(both, site="site_1")
    with pytest.raises(DataError, match="no obs column 'slide'"):
        sections_of(both, section_key="slide", site="site_1")
    both.obs["section"] = both.obs["section"].astype(object)
    both.obs.iloc[5, 0] = None
    with pytest.raises(DataError, match="1 spots of site_1 have no section .* first 'one_5'"):
        sections_of(both, section_key="section", site="site_1")


def test_a_section_smaller_than_the_neighbour_count_is_named():
    both = ad.concat([grid(name="one"), grid(2, 2, name="two")])
    sections = sections_of(both, section_key="section", site="site_1")
    with pytest.raises(DataError, match="section 'two' of site_1 has 4 spots, too few for n_neighbors=6"):
        sections.graph(n_neighbors=6)


def test_different_units_are_told_of():
    at = {"a": sections_of(grid(), site="a"), "b": sections_of(grid(step=220), site="b")}
    with pytest.warns(InflWarning, match="different units: spots lie 1 apart in a and 220 in b"):
        warn_of_spacings(at)
    warn_of_spacings({"a": at["a"], "c": sections_of(grid(step=1.5), site="c")})


def test_a_table_without_spots_is_refused_in_one_line() -> None:
    nobody = grid()[:0].copy()
    nobody.obs["section"] = []
    for section_key, said in (("section", "new has no spots: leave it out"), (None, "new has 0 spots, too few")):
        with pytest.raises(DataError, match=said):
            sections_of(nobody, section_key=section_key, site="new").graph(n_neighbors=4)
