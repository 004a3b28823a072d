"""A coordinator that conspires with a site: what the group seal does not promise, and the pairwise seal does."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from infl.attacks._kit.audit_context import UNPROTECTED
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.attacks._kit.statistics import correlation, interval
from infl.federation.messages import context_of, linked
from infl.privacy.seal.lanes import open_
from infl.privacy.seal.masks import Streams

if TYPE_CHECKING:
    from infl.attacks._kit.audit_context import AuditContext, Recorded
    from infl.federation.messages import Answer
    from infl.privacy.seal import Context

N_ROUNDS = 6


def open_with_group_key(subkey: bytes, context: Context, answer: Answer) -> np.ndarray:
    """Take the group masks off one site's message, as anybody with the ring can; return its integers (n32,)."""
    low = answer.words.low.copy()
    place, streams = context.position(answer.site), Streams(subkey, context.digest())
    open_(low, None, [(streams.key("low", place + 1), streams.key("low", place))], answer.words.width)
    return low.view(np.int32)


class Collusion(Attack):
    """Open another hospital's message with the ring of a conspiring one."""

    name: ClassVar[str] = "collusion"
    against: ClassVar[Attacker] = Attacker.COLLUSION
    question: ClassVar[str] = "Can a coordinator read updates when one hospital helps it?"
    quick: ClassVar[bool] = True

    def applies(self, context: AuditContext) -> bool:
        """Whether there is a seal to open."""
        return context.sealed and context.run.key is not None and context.run.privacy is None

    def run(self, context: AuditContext) -> list[Finding]:
        """Correlate what was opened with the update that an unsealed run of the same seed sends."""
        changes = {"rounds": min(N_ROUNDS, context.run.settings["rounds"]), "patience": 0}
        plain = {(u.site, u.round): u.values for u in context.repeat(**changes, **UNPROTECTED).updates()}
        return [
            Finding(
                metric="correlation with a hospital's update",
                **interval(self._opened(context, context.repeat(**changes), plain)),
                chance=0.0,
                control=float(np.mean(self._opened(context, context.repeat(**changes, seal="group"), plain))),
                promised=context.run.settings["seal"] == "pairwise",
                margin=0.3,
                note="All hospitals share the group seal's key, so one that conspires opens the others' messages (control); "
                "seal='pairwise' adds masks that it does not have.",
            )
        ]

    @staticmethod
    def _opened(context: AuditContext, recorded: Recorded, plain: dict[tuple[str, int], np.ndarray]) -> list[float]:
        secret, packing = recorded.outcome.replica.seal_secret, recorded.packing
        exchanges = {e.kind: e.packing for e in recorded.outcome.replica.programme.exchanges}
        steps = np.concatenate([np.full(f.size, f.step) for f, _ in packing.lane(32)])
        found, chain, seen = [], "", -1
        for plan, answer in recorded.heard:
            for total in plan.previous:  # the chain of all sums, which anybody who hears them has
                if total.seq > seen:
                    bound_to = context_of(plan.run, total, exchanges[total.kind], plan.agreement, chain)
                    chain, seen = linked(chain, bound_to, total), total.seq
            if plan.kind != "train":
                continue
            bound_to = context_of(plan.run, plan, packing, plan.agreement, chain)
            values = open_with_group_key(secret, bound_to, answer) * steps
            found.append(correlation(values, plain[answer.site, plan.round]))
        return found
