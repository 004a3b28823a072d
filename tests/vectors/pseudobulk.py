"""Writes pseudobulk.json: what decoupler 2.2 makes of a few cells, for tests/pp/test_pseudobulk.py. Run it where decoupler is installed."""

import json
from pathlib import Path

import decoupler
import numpy as np
import pandas as pd
from anndata import AnnData

rng = np.random.default_rng(0)
obs = pd.DataFrame(
    {"patient": rng.choice(list("pqr"), 50), "type": rng.choice(["T", "B"], 50)}, index=[f"c{i}" for i in range(50)]
)
obs["sex"] = obs["patient"].map({"p": "f", "q": "m", "r": "f"})
obs["noise"] = rng.integers(0, 9, 50)
counts = rng.poisson(1.0, (50, 6))
written = {"decoupler": decoupler.__version__, "obs": obs.to_dict("list"), "counts": counts.tolist(), "answers": []}
for groups, mode in (("type", "sum"), (None, "mean")):
    found = decoupler.pp.pseudobulk(
        AnnData(counts.astype(float), obs=obs), sample_col="patient", groups_col=groups, mode=mode
    )
    written["answers"].append(
        {"groups": groups, "mode": mode, "names": found.obs_names.tolist(), "obs": found.obs.to_dict("list"),
         "x": found.X.tolist(), "props": found.layers["psbulk_props"].tolist()}
    )  # fmt: skip
Path(__file__).with_suffix(".json").write_text(json.dumps(written))
