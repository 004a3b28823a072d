"""Why the lock has an additive part: what a thief with the initial weights makes of it, and how the dial turns.

The figures of docs/decisions/0002-affine-coordinate-field.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.stats import spearmanr

from _known_start import estimates, information, rescaled
from _many import FIRST, Panel, Weights, accuracy, fit, initial, locked
from _table import Table
from infl.nn import field
from panels import PANELS

SEEDS = {"khan": 12, "breast rna": 20, "breast protein": 20}
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
RATES = (2e-3, 8e-3)


@contextmanager
def additive(share: float) -> Iterator[None]:
    """The construction with its additive part at some share of the default; 0 is the multiplicative lock."""
    before = field.ALPHA, field.ALPHA_VECTOR
    field.ALPHA, field.ALPHA_VECTOR = before[0] * share, before[1] * share
    try:
        yield
    finally:
        field.ALPHA, field.ALPHA_VECTOR = before


def first(weights: Weights, n: int) -> Weights:
    return {name: weight[:n] for name, weight in weights.items()}


def paired(difference: torch.Tensor) -> dict[str, float]:
    return {"standard_error": float(difference.std() / len(difference) ** 0.5)}


def known_start(table: Table, name: str, panel: Panel, start: Weights, trained: Weights) -> None:
    """The best of all attacks, against the same attack on a model that has learned nothing."""
    right = accuracy(trained, panel)
    for share in (0.0, 0.25, 0.5, 1.0):
        with additive(share):
            stored, blank = locked(trained), locked(start)
            values = {attack: accuracy(guess, panel) for attack, guess in estimates(stored, start).items()}
            nothing = {attack: accuracy(guess, panel) for attack, guess in estimates(blank, start).items()}
            bits = information(trained, start)
            wrong = torch.stack(
                [accuracy(locked(stored, keys=k, undo=True), panel) for k in range(1, 11 if share == 1 else 2)]
            )
        best = max(values, key=lambda attack: float((values[attack] - nothing[attack]).mean()))
        difference = values[best] - nothing[best]
        ok = bool(difference.mean() <= 0.05) if share == 1 else None
        what = "multiplicative" if share == 0 else "affine" if share == 1 else f"affine, A × {share}"
        table.add(
            f"{name}: known start, {what}: best attack minus the same on an untrained model",
            "<= 0.05" if share == 1 else "for comparison",
            difference.tolist(),
            ok=ok,
            **paired(difference),
            attack=best,
            best=float(values[best].mean()),
            untrained=float(nothing[best].mean()),
            stored=float(values["as stored"].mean()),
            wrong_key=float(wrong.mean()),
            right_key=float(right.mean()),
            information=float(bits.mean()) if bits.isfinite().all() else None,
        )


def dial(table: Table, name: str, panel: Panel, start: Weights, trained: Weights) -> None:
    """Accuracy without the key, and with everything that a known start gives, at each strength."""
    for what, share in (("affine", 1.0), ("multiplicative", 0.0)):
        stored, attacked = [], []
        with additive(share):
            for strength in STRENGTHS:
                weights = locked(trained, strength)
                stored.append(float(accuracy(weights, panel).mean()))
                guesses = estimates(weights, start, strength).values() if strength else [weights]
                attacked.append(max(float(accuracy(guess, panel).mean()) for guess in guesses))
        rise = max(np.diff(stored).max(), 0)
        print("   ", what, *(f"{s}: {a:.2f}/{b:.2f}" for s, a, b in zip(STRENGTHS, stored, attacked, strict=True)))
        table.add(
            f"{name}: dial, {what}: largest rise of no-key accuracy",
            "<= 0.05 (noise)",
            rise,
            seeds=len(panel.x),
            ok=bool(rise <= 0.05),
            strengths=STRENGTHS,
            no_key=stored,
            known_start=attacked,
        )


def thieves(table: Table, name: str, panel: Panel, start: Weights, trained: Weights) -> None:
    """Fine-tuning of every kind of stolen weights, each at its best learning rate."""
    stored, scratch = locked(trained), initial(panel, first_seed=500)
    guesses = estimates(stored, start)
    bound = {n: w.shape[-1] ** -0.5 for n, w in stored.items()}
    stolen = {
        "as stored": stored,
        "clipped": {n: w.clamp(-bound[n], bound[n]) if w.dim() == 3 else start[n] for n, w in stored.items()},
        "rescaled": guesses["rescaled"],
        "sign of the start": {
            n: rescaled(w, start[n]) if w.dim() == 3 else w for n, w in guesses["sign of the start"].items()
        },
        "posterior mean": guesses["posterior mean × 10"],
    }
    for n in (8, 16, 32):
        few = panel.few(n)

        def best(weights: Weights, few: tuple = few) -> torch.Tensor:
            tries = [accuracy(fit(weights, *few, steps=60, rate=rate, batch=64), panel) for rate in RATES]
            return max(tries, key=lambda values: float(values.mean()))

        base, unlocked = best(scratch), best(trained)
        results = {how: best(weights) for how, weights in stolen.items()}
        how = max(results, key=lambda each: float(results[each].mean()))
        difference = results[how] - base
        error = paired(difference)
        table.add(
            f"{name}: thief with {n} samples, best stolen weights minus scratch",
            "<= 0.02 or within 2 s.e. of 0",
            difference.tolist(),
            ok=bool(difference.mean() <= max(0.02, 2 * error["standard_error"])),
            **error,
            how=how,
            scratch=float(base.mean()),
            known_start=float(best(start).mean()),
            unlocked=float(unlocked.mean()),
            all={each: float((value - base).mean()) for each, value in results.items()},
        )


def traces(table: Table, name: str, start: Weights, trained: Weights) -> None:
    """What is left in ranks of column norms, and of precision."""
    stored = locked(trained)
    others = [locked({FIRST: trained[FIRST]}, keys=k)[FIRST] for k in range(1, 5)]  # the same models under other keys
    for what, compared in (
        ("column norms", trained[FIRST]),
        ("what training added to a column", trained[FIRST] - start[FIRST]),
    ):
        rho = [
            spearmanr(before.norm(dim=0), after.norm(dim=0))[0]
            for under_a_key in (stored[FIRST], *others)
            for before, after in zip(compared, under_a_key, strict=True)
        ]
        table.add(
            f"{name}: rank correlation of {what} with stored column norms",
            "within 0.02 of 0",
            rho,
            ok=bool(abs(np.mean(rho)) <= 0.02),
        )
    opened = locked(stored, undo=True)
    worst = [
        max(float((opened[n][seed] - trained[n][seed]).abs().max() / trained[n][seed].abs().max()) for n in trained)
        for seed in range(len(stored[FIRST]))
    ]
    table.add(
        f"{name}: largest error after unlock, of a tensor's largest weight", "<= 1e-5", worst, ok=max(worst) <= 1e-5
    )


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small
    result = Table("lock_construction")
    for panel_name in PANELS:
        data = Panel.load(panel_name, SEEDS[panel_name])
        begin = initial(data)
        end = fit(begin, data.x, data.y, steps=150, rate=1e-3, dropout=0.2)
        known_start(result, panel_name, data, begin, end)
        few_seeds = min(10, len(data.x))
        part = Panel(*(t[:few_seeds] for t in (data.x, data.y, data.x_test, data.y_test)), data.n_classes)
        dial(result, panel_name, part, first(begin, few_seeds), first(end, few_seeds))
        traces(result, panel_name, begin, end)
        if panel_name != "khan":  # benchmarks/lock.py has the thieves of this panel too; here they would take minutes
            thieves(result, panel_name, data, begin, end)
    result.save()
