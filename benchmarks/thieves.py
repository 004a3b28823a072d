"""Thieves who have more than the file, and membership from sums: what they get on Khan, over five seeds.

Each seed is another run: another key, other initial weights, other validation parts, other thieves.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import infl
from _table import Table
from infl.attacks import AuditContext, Finding, Status, load_attack, sum_membership
from infl.attacks._kit.one_run_bound import (
    correct_guesses,
    gaussian_lower_bound,
    guesses_for,
    likelihood_ratio,
    lower_bound,
)
from infl.attacks.public_model_thief import expected_weights
from infl.nn.lock import Field
from infl.privacy.dp import epsilon_of, noise_for
from panels import panel_sites

SEEDS = range(5)
PRIVATE: dict[str, Any] = {
    "width": 16,
    "n_blocks": 0,
    "rounds": 60,
    "lr": 0.01,
    "privacy": infl.privacy.DP(epsilon=8.0, delta=1e-5),
}
PARTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "files": (("public_model_thief", "file_plus_oracle", "forged_key"), {}),
    "membership": (("rmia", "sum_membership"), {}),
    "epsilon": (("audited_epsilon",), PRIVATE),
}
"""Attacks, and the settings of the runs that they are tried on."""
FEW: dict[str, int] = {"public_model_thief": 2, "file_plus_oracle": 2, "forged_key": 2}
"""Trials of each seed; the audit of a single run has more."""
N_SHADOWS = 8
"""Of each seed, likewise."""


def findings(name: str, context: AuditContext) -> list[Finding]:
    """Run one attack."""
    attack: Any = load_attack(name)
    if name in FEW:
        attack.n_trials = FEW[name]
    with threadpool_limits(1):
        return attack.run(context)


def part(table: Table, attacks: Sequence[str], settings: dict[str, Any]) -> None:
    """Run attacks over all seeds, and add a row for each of their findings."""
    found: dict[tuple[str, str], list[Finding]] = {}
    for seed in SEEDS:
        sites, target = panel_sites("khan", seed=seed)
        run = infl.tl.fit_federated(sites, target=target, seed=seed, progress=False, **settings)
        context = AuditContext(run, sites, seed)
        for name in attacks:
            for finding in findings(name, context):
                found.setdefault((name, finding.metric), []).append(finding)
    add_findings(table, found)
    table.save()


def add_findings(table: Table, found: Mapping[tuple[str, str], Sequence[Finding]], prefix: str = "") -> None:
    """Add a row for each metric of an attack, over seeds."""
    for (name, metric), many in found.items():
        chance, control = (float(np.mean([getattr(f, part) for f in many])) for part in ("chance", "control"))
        table.add(
            f"{prefix}{name}, {metric}",
            f"chance {chance:.3g}, control {control:.3g}",
            [f.value for f in many],
            ok=all(f.status is not Status.BROKEN for f in many),
            above_chance=[f.value - f.chance for f in many],
            chance=chance,
            control=control,
            status=[str(f.status) for f in many],
            bound=many[0].bound,
        )


def simulated(table: Table) -> None:
    """What could be had at best: a perfect reader of canaries, and the mean of weights that are known but for the key."""
    rounds, rate, delta, m = 60, 0.2, 1e-5, 2000
    noise = noise_for(8.0, delta, rate, rounds) * (5 / 3) ** 0.5  # five sites answer, three were promised
    guesses = guesses_for(noise, rate, rounds, m, delta)
    sharp, loose = [], []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        inside, scores = rng.random(m) < 0.5, np.zeros(m)
        for _ in range(rounds):
            part = inside & (rng.random(m) < rate)
            scores += likelihood_ratio(part + noise * rng.normal(size=(1, m)), np.ones((1, m)), noise, rate)
        correct = correct_guesses(scores, inside, guesses)
        sharp.append(gaussian_lower_bound(correct, guesses, m, delta, rate, rounds))
        loose.append(lower_bound(correct, guesses, m, delta))
    spent = epsilon_of([(noise, rate, rounds)], delta)
    table.add(
        "a perfect reader of canaries: epsilon, Gaussian noise", f"at most {spent:.2f}", sharp, ok=max(sharp) <= spent
    )
    table.add("a perfect reader of canaries: epsilon, any noise", f"at most {spent:.2f}", loose, ok=max(loose) <= spent)
    for strength in (0.05, 0.1, 0.3, 1.0):
        gains = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            public = 0.03 * torch.randn(200, 200)
            effective = public + 0.02 * torch.randn(200, 200)
            stored = Field(bytes([seed] * 32), b"salt", strength).lock("w", effective)
            guess = expected_weights(stored, public, 0.02, strength)
            gains.append(1 - float((guess - effective).norm() / (public - effective).norm()))
        what = f"expected weights at strength {strength:g}: how much nearer than the public ones"
        table.add(
            what, "<= 0.001" if strength == 1 else "reported", gains, ok=max(gains) <= 1e-3 if strength == 1 else None
        )
    table.save()


if __name__ == "__main__":  # python benchmarks/thieves.py [PART …]
    torch.set_num_threads(1)
    sum_membership.N_SHADOWS = N_SHADOWS
    warnings.simplefilter("ignore", infl.errors.InflWarning)
    result = Table("thieves")
    for which in sys.argv[1:] or (*PARTS, "simulated"):
        if which == "simulated":
            simulated(result)
        else:
            part(result, *PARTS[which])
