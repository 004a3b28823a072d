"""Pseudobulk of each site is decoupler's; ``tests/vectors/pseudobulk.py`` wrote what decoupler says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import infl
from infl.errors import DataError

DECOUPLER = json.loads((Path(__file__).parents[1] / "vectors" / "pseudobulk.json").read_text())


def cells() -> AnnData:
    obs = pd.DataFrame(DECOUPLER["obs"], index=[f"c{i}" for i in range(len(DECOUPLER["counts"]))])
    return AnnData(np.array(DECOUPLER["counts"], dtype=np.float32), obs=obs)


@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("answer", DECOUPLER["answers"], ids=lambda answer: answer["mode"])
def test_as_decoupler(answer: dict[str, Any], storage: Any) -> None:
    adata = cells()
    adata.X = storage(adata.X)
    found = infl.pp.pseudobulk({"s": adata}, "patient", answer["groups"], mode=answer["mode"])["s"][answer["names"]]
    np.testing.assert_allclose(found.X, answer["x"], rtol=1e-12)
    np.testing.assert_allclose(found.layers["psbulk_props"], answer["props"], rtol=1e-12)
    assert {name: found.obs[name].tolist() for name in found.obs} == answer["obs"]


def test_one_object_and_the_layer(tmp_path: Path) -> None:
    adata = cells()
    adata.layers["counts"], adata.X = adata.X, np.log1p(adata.X)
    adata.obs["site"] = np.where(adata.obs["patient"] == "p", "a", "b")
    bulk = infl.pp.pseudobulk(adata, "patient", "type", layer="counts", site_key="site")
    assert bulk.obs["site"].value_counts().to_dict() == {"a": 2, "b": 4}
    apart = infl.pp.pseudobulk(
        {s: adata[adata.obs["site"] == s].copy() for s in "ab"}, "patient", "type", layer="counts"
    )
    np.testing.assert_array_equal(bulk[bulk.obs["site"] == "a"].X, apart["a"].X)
    adata.obs["patient"] = "same"
    assert infl.pp.pseudobulk(adata, "patient", layer="counts", site_key="site").obs_names.tolist() == [
        "same-a",
        "same-b",
    ]


def test_columns_that_are_the_same_in_all_cells_are_kept_with_their_gaps() -> None:
    adata = cells()
    adata.obs["age"] = adata.obs["patient"].map({"p": 40.0, "q": np.nan, "r": 60.0})
    adata.obs["part"] = np.where(np.arange(50) == 3, np.nan, 1.0)
    bulk = infl.pp.pseudobulk({"s": adata}, "patient")["s"]
    assert "part" not in bulk.obs and bulk.obs["age"].isna().tolist() == [False, True, False]


def test_what_cannot_be_added_up() -> None:
    adata = cells()
    with pytest.raises(DataError, match="sample_key 'donor' is missing in obs of s; it has 'patient'"):
        infl.pp.pseudobulk({"s": adata}, "donor")
    adata.X = np.log1p(adata.X)
    with pytest.raises(DataError, match="X of s has logarithms, and sums are for counts"):
        infl.pp.pseudobulk({"s": adata}, "patient")
    assert infl.pp.pseudobulk({"s": adata}, "patient", mode="mean")["s"].n_obs == 3
