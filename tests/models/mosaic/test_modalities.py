"""Kinds of values: which a modality has, and how each is made alike to normal ones."""

import numpy as np
import pytest

from infl.errors import DataError, SettingsError
from infl.models.mosaic import Mosaic
from infl.models.mosaic.modalities import KINDS, kind_of


def test_kinds(sites):
    assert Mosaic().agree(sites)["kinds"] == {"adt": "clr", "rna": "counts"}
    assert kind_of("peaks", "raw counts", None) == "accessibility" and kind_of("rna", "logarithms", None) == "values"
    with pytest.raises(SettingsError, match="no site has"):
        Mosaic(kinds={"protein": "clr"}).agree(sites)
    with pytest.raises(SettingsError, match="one of 'counts'"):
        Mosaic(kinds={"rna": "poisson"}).agree(sites)
    with pytest.raises(DataError, match="needs raw counts"):
        kind_of("rna", "scaled values", "counts")


def test_kinds_by_hand():
    x = np.array([[1.0, 0.0], [3.0, 4.0]])
    assert np.allclose(KINDS["counts"](x, False) ** 2, x + 3 / 8)
    assert np.allclose(KINDS["counts"](x, True) ** 2, np.array([[4.0, 0.0], [12 / 7, 16 / 7]]) + 3 / 8)
    assert np.allclose(KINDS["clr"](x, False)[:, 0], np.log1p(np.array([1, 3]) / np.exp(np.log([2, 4]).mean())))
    assert KINDS["accessibility"](x, False)[0, 1] == 0
