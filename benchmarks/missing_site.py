"""What two rounds tell of a hospital that is in the sum of one of them alone: the figures of docs/privacy/index.md.

One whole update less the other one, beside what a single sum lets one guess, for trainings from usual to gentle, numbers of
hospitals, and noise for differential privacy.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

import infl
from _table import Table
from infl.attacks import AuditContext
from infl.attacks._kit.audit_context import NO_LOCK_NO_SEAL
from infl.attacks.missing_site import GENTLE, updates_told
from infl.privacy import DP
from panels import panel_sites

ROUNDS = 6
TRAININGS: dict[str, dict[str, Any]] = {
    "as by default": {},
    "without dropout": {"dropout": 0.0},
    "one step of all samples, without dropout": {"dropout": 0.0, "batch_size": 1 << 20},
    "the same, lr 1e-4": {"dropout": 0.0, "batch_size": 1 << 20, "lr": 1e-4},
    "the same, plain steps, lr 0.1": GENTLE | {"lr": 0.1},
    "the same, plain steps, lr 0.01": GENTLE | {"lr": 0.01},
    "the same, plain steps, lr 0.001": GENTLE,
}
SITES = (4, 5, 10)
PRIVACY = {"privacy": DP(epsilon=8.0, delta=1e-5)}


def add_rows(table: Table, what: str, context: AuditContext, options: dict[str, Any], **settings: Any) -> None:
    """Add a row: which share of the update is read, a guess from one sum, and the correlation."""
    task = replace(context.task, **options)
    rows = [*updates_told(context.repeat(task=task, **{"rounds": ROUNDS, "patience": 0} | NO_LOCK_NO_SEAL | settings))]
    read, guessed, correlation = (np.mean([getattr(r, n) for r in rows]) for n in ("read", "guessed", "correlation"))
    asked = f"guess {guessed:.2f}, correlation {correlation:.2f}"
    table.add(what, asked, float(read), seeds=1, guessed=float(guessed), correlation=float(correlation))


def main() -> int:
    warnings.simplefilter("ignore", infl.errors.InflWarning)
    table = Table("missing_site")
    for n in SITES:
        sites, target = panel_sites("khan", n_sites=n)
        run = infl.tl.fit_federated(sites, target=target, progress=False, rounds=ROUNDS)
        context = AuditContext(run, sites)
        for name, options in TRAININGS.items() if n == 5 else [("as by default", {}), ("gentle", GENTLE)]:
            add_rows(table, f"{n} hospitals, {name}", context, options)
    sites, target = panel_sites("khan")
    private = infl.tl.fit_federated(sites, target=target, progress=False, rounds=ROUNDS, **PRIVACY)
    add_rows(table, "5 hospitals, differential privacy, epsilon 8", AuditContext(private, sites), {})
    table.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
