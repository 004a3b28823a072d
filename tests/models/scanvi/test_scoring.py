"""What label transfer is judged by, and what it is compared on."""

import numpy as np
import pytest
from anndata import AnnData
from tests.models.scanvi.conftest import SMALL

import infl
from infl.models.scanvi import Scanvi

pytestmark = pytest.mark.needs("scvi")


def test_metrics_by_hand() -> None:
    task = Scanvi(target="t", classification_ratio=10.0)
    sums = {
        "n": np.array(4.0),
        "reconstruction": np.array(40.0),
        "kl": np.array(8.0),
        "cross_entropy": np.array(3.0),
        "confusion": np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    }
    metrics = task.summarise(sums)
    assert metrics["loss"] == 10 + 2 + 10 * 1
    assert metrics["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    nobody = task.summarise(sums | {"confusion": np.zeros((3, 3)), "cross_entropy": np.array(0.0)})
    assert nobody["loss"] == 12 and np.isnan(nobody["balanced_accuracy"])


def test_compare_has_the_accuracy_of_held_out_labels(hospitals: dict[str, AnnData]) -> None:
    methods = ["infl", "infl_wrong_key", "baseline"]
    table = infl.tl.compare(hospitals, "scanvi", target="cell_type", seeds=1, rounds=25, methods=methods, **SMALL)
    value = table[table["metric"] == "balanced_accuracy"].set_index("method")["mean"]
    assert value["infl"] > 0.85 and value["baseline"] > 0.85
    assert value["infl_wrong_key"] < 0.55
    assert table.attrs["chance"] == 1 / 3
