"""Beside a result stands which number a rule of disclosure has closed."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests.privacy.conftest import KEY, LOOSE, sites_of

import infl
from infl.data.closed import COLUMNS
from infl.privacy import Disclosure

GROUPS = {"B": 12, "T": 14}


def sites() -> dict[str, ad.AnnData]:
    """Four sites; of one feature a record has most at one of them, and one group is at two."""
    found = sites_of(GROUPS, GROUPS, GROUPS | {"rare": 9}, GROUPS | {"rare": 9})
    found["site_1"].X[:, 4] = np.where(np.arange(26) == 2, 2.0, 0.0)
    return found


def closed(adata: ad.AnnData, function: str) -> set[tuple[str, ...]]:
    table = adata.uns["infl_closed"][function]
    assert tuple(table.columns) == COLUMNS
    return {(row.group, row.feature, row.rule) for row in table.itertuples()}


def test_it_names_groups_features_and_rules_and_survives_a_file(tmp_path: Path) -> None:
    these = sites()
    with Disclosure(LOOSE):
        infl.tl.rank_genes_groups(these, "group", key=KEY)
        infl.pp.moments(these, key=KEY)
    for adata in these.values():
        found = closed(adata, "rank_genes_groups")
        assert ("group: rare", "", "sites") in found and ("group: B", "gene 4", "dominance") in found
        scores = pd.DataFrame(adata.uns["rank_genes_groups"]["scores"])
        assert scores["rare"].isna().all()
        assert closed(adata, "moments") == {("", "gene 4", "dominance")}
        assert adata.var["mean"].isna().tolist() == [name == "gene 4" for name in adata.var_names]
    these["site_0"].write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    assert closed(back, "rank_genes_groups") == closed(these["site_0"], "rank_genes_groups")


def test_what_is_open_has_none_and_an_earlier_one_goes() -> None:
    these = sites()
    with Disclosure(LOOSE):
        infl.pp.moments(these, key=KEY)
    assert "moments" in these["site_0"].uns["infl_closed"]
    these["site_1"].X[:, 4] = 1.0
    with Disclosure(LOOSE):
        infl.pp.moments(these, key=KEY)
    assert "infl_closed" not in these["site_0"].uns
    infl.pp.moments(these, key=KEY)
    assert "infl_closed" not in these["site_0"].uns


@pytest.mark.parametrize("how", ["inplace", "copy", "one object"])
def test_it_is_written_where_the_function_writes(how: str) -> None:
    these = sites()
    with Disclosure(LOOSE):
        if how == "inplace":
            infl.pp.moments(these, inplace=False, key=KEY)
        elif how == "copy":
            copies = infl.pp.scale(these, copy=True, key=KEY)
            assert closed(copies["site_0"], "scale") == {("", "gene 4", "dominance")}
        else:
            whole = ad.concat(these, label="hospital", index_unique="-")
            infl.pp.moments(whole, site_key="hospital", key=KEY)
            assert closed(whole, "moments") == {("", "gene 4", "dominance")}
    assert not any("infl_closed" in adata.uns for adata in these.values())
    assert not np.isnan(these["site_0"].X).any()
