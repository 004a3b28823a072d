"""Panels of several sites are joined by names, and refused where they are of different kinds."""

import pytest

from infl.errors import DataError
from infl.models.panels import join_panels


def test_panels_of_sites_are_joined() -> None:
    one = {"features": ["g2", "g1"], "classes": ["b", "c"]}
    assert join_panels({"a": one, "b": one}) == one
    other = {"features": ["g3", "g1", "g2"], "classes": ["a", "b"]}
    assert join_panels({"a": one, "b": other}) == {"features": ["g1", "g2"], "classes": ["a", "b", "c"]}
    with pytest.raises(DataError, match="no features that all of a, b have"):
        join_panels({"a": one, "b": {"features": ["g9"], "classes": []}})
    with pytest.raises(DataError, match="the panel of b has genes, others have features, classes"):
        join_panels({"a": one, "b": {"genes": ["g1"]}})


def test_parts_that_must_be_the_same_everywhere() -> None:
    one = {"features": ["g1"], "patch": [8, 8]}
    with pytest.raises(DataError, match=r"^patch is \[8, 8\] in the panel of a, \[16, 16\] in that of b$"):
        join_panels({"a": one, "b": one | {"patch": [16, 16]}})
    two = {"features": ["m:g"], "modalities": {"m": ["g"]}}
    with pytest.raises(DataError, match="no modalities m that all of a, b have"):
        join_panels({"a": two, "b": {"features": ["m:h"], "modalities": {"m": ["h"]}}})
