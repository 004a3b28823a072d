"""The picture of imputed values has them against measured ones."""

import numpy as np
import pytest
from tests.models.mosaic.conftest import DOMAIN, N_FEATURES, correlation, fit, section, table

import infl
from infl.errors import DataError
from infl.models.mosaic.modalities import KINDS


def test_imputed_against_measured_is_drawn():
    sites = {"a": section("a", 0, "rna", "adt"), "b": section("b", 1, "rna"), "c": section("c", 2, "adt")}
    fit(sites, rounds=2, impute="all")
    assert list(sites["a"].mod) == ["rna", "adt", "infl_adt", "infl_rna"]
    ax = infl.pl.imputation(sites["a"], "adt")
    dots = ax.collections[0].get_offsets()[:, 1]
    shown = np.sort([correlation(*[t[:, [i]] for t in _pair(sites["a"])]) for i in range(N_FEATURES["adt"])])
    assert np.allclose(np.sort(dots), shown, atol=1e-6)
    assert len(ax.figure.axes) == 4 and all(panel.get_xlabel() for panel in ax.figure.axes)
    one = infl.pl.imputation(sites["b"], "adt", measured=table("adt", "b", 1), feature="adt_0")
    assert one.get_title().startswith("adt_0: r = ") and len(one.collections[0].get_offsets()) == len(DOMAIN)
    with pytest.raises(DataError, match="was not measured here"):
        infl.pl.imputation(sites["b"], "adt")
    with pytest.raises(DataError, match="no imputed modality 'infl_atac'"):
        infl.pl.imputation(sites["b"], "atac")
    with pytest.raises(DataError, match="no feature 'x'"):
        infl.pl.imputation(sites["a"], "adt", feature="x")


def _pair(mdata):
    return mdata["infl_adt"].X, KINDS["clr"](mdata["adt"].X, False)
