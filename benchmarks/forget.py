"""Who was forgotten is not found any more: an attack on the membership of each site's records, before and after (docs/guide/forget.md).

``python benchmarks/forget.py [khan] ["breast protein"]``. The control is the same attack on the model before.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import infl
from _evidence import over_units, paired
from _table import Table
from infl.attacks import AuditContext
from infl.tl._forgotten import membership_of
from panels import panel_sites

DATA = {"khan": range(5), "breast protein": range(2)}
"""Seeds."""


def measure(table: Table, data: str) -> None:
    """Add the rows of a data set: each site is forgotten in turn."""
    sites, target = panel_sites(data)
    before, after, moved = [], [], []
    for seed in DATA[data]:
        run = infl.tl.fit_federated(sites, target=target, seed=seed, progress=False)
        context = AuditContext(run, sites, seed)  # its shadow models serve all sites
        for site in sites:
            done = infl.tl.forget(run, sites, site=site, attack=False, progress=False)
            rows = done.table.set_index("what")
            gone = {name: np.full(adata.n_obs, name == site) for name, adata in sites.items()}
            found = membership_of(context, done.run, {n: a for n, a in sites.items() if n != site}, gone)
            assert found is not None
            before.append(found["before"])
            after.append(found["after"])
            moved.append(rows.loc["val_balanced_accuracy", "after"] - rows.loc["val_balanced_accuracy", "before"])
            print(f"{data}, seed {seed}, {site}: {before[-1]:.3f} before, {after[-1]:.3f} after", flush=True)
    unit = "site and seed"
    table.estimate(
        f"{data}: forgotten records found in the model before", "control", over_units(before, unit), data=data
    )
    estimate = over_units(after, unit)
    table.estimate(
        f"{data}: forgotten records found in the model after",
        "chance, 0.5",
        estimate,
        data=data,
        ok=estimate.low <= 0.5,
    )
    gain = paired(np.array(before), np.array(after), unit)
    table.estimate(f"{data}: before less after", "above 0", gain, data=data, ok=gain.low > 0)
    table.add(f"{data}: change of validation balanced accuracy", "reported", moved)


if __name__ == "__main__":
    results = Table("forget")
    for chosen in sys.argv[1:] or DATA:
        measure(results, chosen)
        results.save()
