"""What a coordinator does with answers, of a whole run or of a region: it checks that they were asked for, and adds them."""

from __future__ import annotations

from collections.abc import Mapping

from infl.errors import FederationError, KeyringError
from infl.federation.messages import Answer, Plan, Reply, Subtotal
from infl.privacy.seal import MaskedArrays, add


class Gathered:
    """Answers to one plan, added as they come.

    Parameters
    ----------
    plan
        What was asked, and whom.

    Attributes
    ----------
    words
        The sum so far (None: nothing came).
    shares
        By site, what it sent to the others to open the sum with (pairwise seal).

    Examples
    --------
    >>> import numpy as np
    >>> gathered = Gathered(Plan("run", 0, "count", 0, 0, ("a", "b", "c"), (1, 0, 0), "", 1, "", ()))
    >>> for site in ("c", "a"):
    ...     words = MaskedArrays(np.array([2**31], np.uint32), np.zeros(0, np.uint64))
    ...     gathered.take(Answer(site, "run", 0, 0, 1, "", words))
    >>> gathered.responders, gathered.words.low.tolist()
    (('a', 'c'), [0])
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._asked, self._answered = plan, frozenset(plan.cohort), set[str]()
        self.words: MaskedArrays | None = None
        self.shares: dict[str, Mapping[str, bytes]] = {}

    @property
    def responders(self) -> tuple[str, ...]:
        """Who answered, in the cohort's order."""
        return tuple(site for site in self._plan.cohort if site in self._answered)

    def asked_of(self, reply: Reply) -> tuple[str, ...]:
        """Return of which sites a reply is.

        Raises
        ------
        FederationError
            It was not asked for, or one of these sites has answered already.
        """
        sites = reply.sites if isinstance(reply, Answer | Subtotal) else (reply.site,)
        new = self._asked.issuperset(sites) and self._answered.isdisjoint(sites) and len(set(sites)) == len(sites) > 0
        if reply.seq != self._plan.seq or not new:
            raise FederationError(f"an answer of {reply.site!r} to exchange {reply.seq} was not asked for; refused")
        return sites

    def take(self, reply: Reply) -> None:
        """Add an answer.

        Raises
        ------
        FederationError
            It was not asked for, or is no answer to this plan.
        KeyringError
            It was made under another key.
        """
        sites, plan = self.asked_of(reply), self._plan
        if not isinstance(reply, Answer | Subtotal):
            raise FederationError(f"{reply.site} sent {type(reply).__name__} where an answer was due; refused")
        if (reply.key_version, reply.fingerprint) != (plan.key_version, plan.fingerprint):
            raise KeyringError(
                f"{reply.site} used key version {reply.key_version} ({reply.fingerprint or 'none'}), the run has "
                f"{plan.key_version} ({plan.fingerprint or 'none'}): give that site the run's key"
            )
        if (reply.run, reply.attempt, reply.words.lanes) != (plan.run, plan.attempt, plan.lanes):
            raise FederationError(f"{reply.site} answered to another run or attempt; refused")
        self.words = add(self.words, reply.words)
        self._answered.update(sites)
        self.shares |= {site: reply.shares_of.get(site, {}) for site in sites}

    def subtotal(self, region: str) -> Subtotal | None:
        """Return what a region sends on (None: nobody answered)."""
        plan = self._plan
        if self.words is None:
            return None
        return Subtotal(
            region,
            plan.run,
            plan.seq,
            plan.attempt,
            plan.key_version,
            plan.fingerprint,
            self.responders,
            self.words,
            self.shares,
        )
