"""What the mosaic is judged by, and what it is compared on."""

import numpy as np
import pytest
from tests.models.mosaic.conftest import DOMAIN, XY

import infl
from infl.models.mosaic import Mosaic


@pytest.mark.long
def test_methods_are_compared_by_what_one_modality_tells_of_the_other(sites):
    options = {"rounds": 30, "batch_size": 16, "lr": 1e-2, "width": 0, "n_latent": 4, "progress": False}
    methods = ["pooled", "alone", "infl", "infl_wrong_key", "baseline"]
    table = infl.tl.compare(sites, "mosaic", seeds=3, methods=methods, **options)
    value = table[table["metric"] == "pearson"].set_index("method")["mean"]
    assert set(table["metric"]) == {"pearson", "pearson_rna", "pearson_adt"}
    assert min(value["infl"], value["baseline"], value["pooled"]) > 0.2
    assert abs(value["infl_wrong_key"]) < 0.15
    assert {r["site"] for r in table.attrs["values"]} == {"", "a"}  # no other site has spots that can judge


def test_what_is_held_out_has_both_modalities_and_lies_together(sites):
    task, rng = Mosaic(), np.random.default_rng(0)
    held = {site: task.hold_out(adata, 0.25, rng) for site, adata in sites.items()}
    assert {site: int(mask.sum()) for site, mask in held.items()} == {"a": len(DOMAIN) // 4, "b": 0, "c": 0}
    apart = np.square(XY[held["a"]][:, None] - XY[held["a"]]).sum(-1)
    assert np.sort(apart, 1)[:, 1].max() <= 2  # each has a neighbour that is held out too
