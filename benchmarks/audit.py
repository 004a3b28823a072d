"""The audit under different protections: what an enemy gets from the same data (docs/privacy/audit.md)."""

from __future__ import annotations

import matplotlib as mpl
import torch

import infl
from _table import RESULTS, Table
from infl.privacy import DP
from panels import panel_sites

PROTECTIONS = {
    "default": {},
    "lock only": {"seal": "none"},
    "seal only": {"lock": None},
    "pairwise seal": {"seal": "pairwise"},
    "published": {"lock": "published", "seal": "none", "local_epochs": 10},
    "none": {"lock": None, "seal": "none"},
    "DP, epsilon 8": {"privacy": DP(epsilon=8.0, delta=1e-5), "rounds": 60, "lr": 0.01, "width": 16, "n_blocks": 0},
}
FULL = ("default", "none", "DP, epsilon 8")
"""Audited with every attack; the others with the quick ones."""


def accuracy_against_epsilon(table: Table) -> None:
    """Breast RNA: validation accuracy over ε, noise shared between sites or added whole by each."""
    sites, target = panel_sites("breast rna")
    model = {"rounds": 60, "lr": 0.01, "width": 16, "n_blocks": 0, "min_sites": 5, "progress": False}
    for epsilon in (1.0, 2.0, 4.0, 8.0, 1e6):
        for noise in ("distributed", "local"):
            values = []
            for seed in range(5):
                privacy = DP(epsilon=epsilon, delta=1e-5, noise=noise, sample_rate=0.3)
                run = infl.tl.fit_federated(sites, target=target, privacy=privacy, seed=seed, **model)
                values.append(run.history["val_balanced_accuracy"].iloc[-1])
            shown = "infinite" if epsilon > 1e3 else f"{epsilon:g}"
            table.add(f"breast rna, epsilon {shown}, {noise} noise: balanced accuracy", "reported", values)


def main() -> None:
    """Audit the Khan run under each protection."""
    mpl.use("Agg")
    table = Table("audit")
    sites, target = panel_sites("khan")
    for name, options in PROTECTIONS.items():
        run = infl.tl.fit_federated(sites, target=target, progress=False, **options)
        result = infl.tl.audit(run, sites, attacks=None if name in FULL else "quick", progress=False)
        for row in result.itertuples():
            table.add(
                f"{name}: {row.attack}, {row.metric}",
                f"chance {row.chance:.3g}, control {row.control:.3g}",
                float(row.value),
                seeds=1,
                ok=row.status in ("holds", "not promised"),
                status=row.status,
                low=row.low,
                high=row.high,
                chance=row.chance,
                control=row.control,
            )
        if name == "default":
            infl.pl.audit(result).figure.savefig(
                RESULTS.parent.parent / "docs" / "_static" / "audit.png", dpi=150, bbox_inches="tight"
            )
    accuracy_against_epsilon(table)
    table.save()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
