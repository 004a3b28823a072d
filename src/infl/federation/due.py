"""Whether a plan is what a site agreed to, and what is due by the programme that the site computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from infl.errors import FederationError, KeyringError
from infl.federation.messages import END_KIND, KEYS_KIND, REPLAY_KIND, REVEAL_KIND

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement
    from infl.federation.messages import Plan
    from infl.federation.replica import Replica


def check_agreed(site: str, plan: Plan, agreement: Agreement) -> None:
    """Refuse a plan of another run, of another agreement, or for another key.

    Raises
    ------
    FederationError, KeyringError
        It is one.
    """
    if plan.run != agreement.run or plan.agreement != agreement.digest:
        raise FederationError(f"{site}: the plan is not of the run that was agreed on; refused")
    if (plan.key_version, plan.fingerprint) != (agreement.key_version, agreement.fingerprint):
        raise KeyringError(
            f"{site}: the plan is for key version {plan.key_version} ({plan.fingerprint}), "
            f"agreed was {agreement.key_version} ({agreement.fingerprint})"
        )


def due_fault(plan: Plan, replica: Replica, *, opened: Callable[[Plan], bool]) -> str:
    """Return in what a plan differs from the exchange that is due; empty where it does not.

    Parameters
    ----------
    plan
        From the coordinator.
    replica
        The site's global model, after the sums that the plan brought.
    opened
        Whether another sum of the plan's exchange was opened with the site's help.
    """
    if plan.kind in (KEYS_KIND, REPLAY_KIND):
        return ""
    due = replica.due
    if plan.kind == END_KIND:
        return "" if due is None else f"the run is not over: {due.kind!r} of round {due.round} is due"
    if plan.seq != replica.seq + 1:
        return f"exchange {replica.seq + 1} is due, not {plan.seq}"
    if plan.kind == "train" and replica.stopped:
        return ""  # nothing but a word that training has stopped is the answer
    if opened(plan):
        return "a sum of this exchange was opened already, and another one would give single sites away"
    kind = plan.kind.removeprefix(REVEAL_KIND)
    fault = replica.programme.fault(replace(plan, kind=kind) if kind != plan.kind else plan, due)
    if not fault and kind != plan.kind:
        fault = replica.programme.opening_fault(plan.answered, plan.cohort, due)
    return fault
