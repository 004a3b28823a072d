"""Steps of a linear model: near ridge regression with few records per site, where steps of the size of signs are not."""

import anndata as ad
import numpy as np
import pandas as pd

import infl


def test_with_few_records_descent_is_better_than_the_network() -> None:
    """Four sites of 20 records, 60 features that share five causes, and a target that is a sum of these with noise."""
    rng, made = np.random.default_rng(0), {}
    loads = rng.normal(size=(5, 60))
    for number in range(4):
        causes = rng.normal(size=(20, 5))
        x = (causes @ loads + rng.normal(size=(20, 60))).astype(np.float32)
        obs = pd.DataFrame({"y": causes.sum(1) + rng.normal(size=20)}, index=[f"{number}_{i}" for i in range(20)])
        made[f"site_{number}"] = ad.AnnData(x, obs=obs)
    options = {"target": "y", "seeds": 2, "methods": ["fedavg", "baseline"], "progress": False}
    found = {}
    for width in (0, 64):
        table = infl.tl.compare(made, "regressor", width=width, **options)
        r2 = table[table["metric"] == "r2"].set_index("method")["mean"]
        found[width] = r2["fedavg"] - r2["baseline"]
    assert found[0] > -0.1
    assert found[0] > found[64] + 0.03
