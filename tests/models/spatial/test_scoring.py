"""Domains are compared by known regions."""

from __future__ import annotations

import numpy as np
import pytest
from tests.models.spatial.conftest import OPTIONS, section, sites

import infl
from infl.errors import SettingsError


def test_methods_are_compared_by_known_regions():
    options = OPTIONS | {
        "target": "region",
        "seeds": 1,
        "methods": ["infl", "infl_wrong_key", "baseline"],
        "min_sites": 2,
    }
    with pytest.raises(SettingsError, match="holdout='site'"):
        infl.tl.compare(sites(), **options)
    table = infl.tl.compare(sites(), holdout="site", **options)
    ari = table[table["metric"] == "ari"].set_index("method")["mean"]
    assert ari["infl"] > 0.8 and ari["infl_wrong_key"] == 0 and ari["baseline"] > 0.2
    masked = infl.models.Spatial(target="region", exclude="2")
    spots = section(0)
    outputs = {"domain": np.where(spots.obs["region"] == "2", 0, spots.obs["region"].astype(int))}
    assert masked.score(spots, outputs, {})["ari"] == 1
    with pytest.raises(SettingsError, match="set target="):
        infl.models.Spatial().score(spots, outputs, {})


def test_what_is_pooled_is_compared_section_by_section():
    tables = sites()
    for spots in tables.values():
        spots.obs["section"] = "s1"
    table = infl.tl.compare(
        tables,
        holdout="site",
        **OPTIONS | {"target": "region", "section_key": "section", "seeds": 1, "methods": ["pooled"]},
    )
    assert table.set_index("metric")["mean"]["ari"] > 0.8
