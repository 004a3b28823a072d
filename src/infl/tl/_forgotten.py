"""What a model that forgot is beside the one before: sizes, metrics, weights, and an attack on the membership of the forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from infl._threads import one_blas_thread, threads_for
from infl.attacks import AuditContext
from infl.attacks._kit.shadows import confidences, shadows, stacked
from infl.attacks.membership import N_SHADOWS, likelihood_ratio
from infl.federation.fitted import read_as_fitted
from infl.models.labelled import area_under_curve
from infl.models.protocols import ClassProbabilities
from infl.privacy.dp import DP, epsilon_of, steps_of

if TYPE_CHECKING:
    import pandas as pd

    from infl._types import Data
    from infl.federation.run import FederatedRun

COLUMNS = ("what", "before", "before_low", "before_high", "after", "after_low", "after_high", "chance")
MEMBERSHIP = "forgotten records told from records that were held out, area under the curve"
N_BOOTSTRAP = 400


def table_of(
    before: FederatedRun,
    after: FederatedRun,
    tables: Mapping[str, Data],
    left: Mapping[str, Data],
    gone: Mapping[str, np.ndarray],
    *,
    attack: bool,
    seed: int,
) -> pd.DataFrame:
    """Return the difference between two runs; see :class:`infl.tl.Forgotten`.

    Parameters
    ----------
    before, after
        The runs.
    tables, left
        Data with the forgotten records and without.
    gone
        By site which records were forgotten.
    attack, seed
        Whether to attack, and the attack's seed.
    """
    import pandas as pd

    rows = [_row("sites", len(before.settings["sites"]), len(after.settings["sites"]))]
    n = [sum(adata.n_obs for adata in data.values()) for data in (tables, left)]
    rows.append(_row("records", *n))
    last = [run.history.loc[run.history["best"]].iloc[0] for run in (before, after)]
    rows += [_row(str(c), last[0][c], last[1][c]) for c in before.history if str(c).startswith("val_")]
    rows.append(_row("weights, relative distance to those before", 0.0, _distance(before, after)))
    if before.privacy is not None and after.privacy is not None:
        spent = [run.privacy["epsilon"] for run in (before, after) if run.privacy is not None]
        rows += [
            _row("epsilon of the run", *spent),
            _row("epsilon of both runs together", spent[0], _composed(before, after)),
        ]
    same = before.model.header.panel.get("classes") == after.model.header.panel.get("classes")
    members = {name: tables[name] for name in before.settings["sites"] if name in tables}
    whole = len(members) == len(before.settings["sites"])
    if attack and same and whole and isinstance(before.model.header.build_task(), ClassProbabilities):
        with threads_for(before.model.n_weights), one_blas_thread():
            row = membership_of(AuditContext(before, members, seed), after, left, gone)
        rows += [] if row is None else [row]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(what: str, before: float, after: float, **more: float) -> dict[str, Any]:
    return {"what": what, "before": float(before), "after": float(after)} | more


def _distance(before: FederatedRun, after: FederatedRun) -> float:
    """Return ‖new − old‖ / ‖old‖ over tensors that are of one shape in both."""
    old, new = (run.model.effective(run.key if run.model.header.fingerprint else None) for run in (before, after))
    pairs = [(old[name], weight) for name, weight in new.items() if name in old and old[name].shape == weight.shape]
    moved = sum(float((b - a).square().sum()) for a, b in pairs)
    return float(np.sqrt(moved / max(sum(float(a.square().sum()) for a, _ in pairs), 1e-12)))


def _composed(before: FederatedRun, after: FederatedRun) -> float:
    """Return ε of the records that are left: both runs' rounds are of them."""
    steps = []
    for run in (before, after):
        dp = DP(**run.settings["privacy"])
        steps += steps_of(list(run.history["n_sites"]), dp, run.settings["min_sites"])
    return epsilon_of(steps, float(dp.delta or 0), dp.accountant)


def membership_of(
    context: AuditContext, after: FederatedRun, left: Mapping[str, Data], gone: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """Return the row of the attack: records that were trained on and are forgotten, against those that were held out there.

    Those that are held out are of the same sites and were trained on by neither model. Scores are likelihood ratios by models that were
    fitted to halves of all records, as :mod:`infl.attacks.membership` has them.

    Parameters
    ----------
    context
        The run before, with the data of all its sites.
    after
        The run after.
    left, gone
        Data without the forgotten records, and which those are by site.

    Returns
    -------
    The row; None where there is nobody to be found, or to be told from.
    """
    before, sites = context.run, context.sites
    models = shadows(context, N_SHADOWS)
    scores, member = stacked(models, "confidence"), stacked(models, "member")
    forgotten, held_out = _parts(before, after, sites, left, gone)
    found: dict[str, Any] = {}
    for which, run, out in zip(("before", "after"), (before, after), held_out, strict=True):
        of_run = AuditContext(run, sites, context.seed)
        module = run.model.module(run.key if run.model.header.fingerprint else None)
        ratios = likelihood_ratio(confidences(of_run, module, of_run.task), scores, member)
        chosen, truth = np.concatenate([forgotten, out]), np.repeat([True, False], [len(forgotten), len(out)])
        if not len(forgotten) or not len(out):
            return None
        rng = context.rng("forgotten", which)
        again = [
            area_under_curve(ratios[chosen[i]], truth[i])
            for i in (rng.integers(len(chosen), size=len(chosen)) for _ in range(N_BOOTSTRAP))
        ]
        found |= {which: area_under_curve(ratios[chosen], truth)}
        found |= {f"{which}_{end}": float(np.nanquantile(again, q)) for end, q in (("low", 0.025), ("high", 0.975))}
    return {"what": MEMBERSHIP, "chance": 0.5} | found


def _parts(
    before: FederatedRun,
    after: FederatedRun,
    sites: Mapping[str, Data],
    left: Mapping[str, Data],
    gone: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return numbers, over all records of all sites, of the forgotten ones that were trained on, and of those held out by each model."""
    forgotten, outs, first = [], ([], []), 0  # type: ignore[var-annotated]
    for name, adata in sites.items():
        if gone[name].any():
            data = read_as_fitted(before.model, adata, name)
            forgotten.append(first + np.intersect1d(data.train, np.flatnonzero(gone[name])))
            outs[0].append(first + data.validation)
            kept = np.flatnonzero(~gone[name])
            held = (
                data.validation if name not in left else kept[read_as_fitted(after.model, left[name], name).validation]
            )
            outs[1].append(first + held)
        first += adata.n_obs
    return np.concatenate(forgotten), (np.concatenate(outs[0]), np.concatenate(outs[1]))
