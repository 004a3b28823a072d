"""The published keyed method beside ours: accuracy with right and wrong keys, and time (docs/concepts/published.md).

``python benchmarks/published.py [LOCAL_EPOCHS …]``
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import infl
from _table import Table
from panels import panel_sites

METHODS = ["fedavg", "infl", "infl_wrong_key", "published", "published_wrong_key", "baseline"]


def main() -> None:
    """Same data, rounds and optimiser for both; then ten times the local epochs, which the published method needs."""
    table = Table("published")
    for name in ("khan", "breast protein"):
        for epochs in [int(e) for e in sys.argv[1:]] or [1, 10]:
            sites, target = panel_sites(name)
            result = infl.tl.compare(
                sites, target=target, seeds=5, methods=METHODS, local_epochs=epochs, progress=False
            ).query("metric == 'balanced_accuracy'")
            rows = result.set_index("method")
            for method in METHODS:
                row = rows.loc[method]
                table.add(
                    f"{name}, {epochs} local epoch(s): {method}",
                    "as measured",
                    float(row["mean"]),
                    seeds=5,
                    sd=float(row["sd"]),
                    seconds=float(row["seconds"]),
                )
            ratio = rows.loc["published", "seconds"] / rows.loc["infl", "seconds"]
            table.add(f"{name}, {epochs} local epoch(s): time, published / infl", "as measured", float(ratio), seeds=5)
            gap = rows.loc["published", "mean"] - rows.loc["published_wrong_key", "mean"]
            table.add(
                f"{name}, {epochs} local epoch(s): published, right key minus wrong key",
                "as measured",
                float(gap),
                seeds=5,
            )
    table.save()


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    main()
