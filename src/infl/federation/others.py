"""What a site keeps of the other members' accounts of differential privacy, so that none of them goes back unnoticed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from infl.privacy.heads import Heads, head_count
from infl.privacy.seal import epochs_of, said_by

if TYPE_CHECKING:
    from infl.federation.membership import Membership
    from infl.federation.messages import Total
    from infl.privacy.account import Account


class Others:
    """The other members of a run, as one of them sees what they have charged.

    What was charged is known to be at least what a member's start said, and one for each sum of training since that it is in. A
    member may have charged the exchange under way before it started again, and answers it again without a second charge. So sums
    count after the first that was opened with the keys of that start: what comes after it was not known before.

    Parameters
    ----------
    name
        This site.
    account
        Its own, which keeps what is seen of others.
    membership
        Who the others are.
    """

    def __init__(self, name: str, account: Account, membership: Membership) -> None:
        self.name, self.heads, self.members = name, Heads(account), membership.members
        self._peers: Mapping[str, bytes] = {}
        self._advertised: dict[str, bytes] = {}
        self._charged: dict[str, int] = {}  # sums, at least
        self._since: set[str] = set()  # whose sums count by now

    def witness(self, peers: Mapping[str, bytes]) -> None:
        """Keep the heads that the others' starts brought.

        Raises
        ------
        FederationError
            An account goes back behind what was seen of it, or a member shows none.
        """
        for name, advertised in peers.items():
            if name != self.name and advertised != self._advertised.get(name):
                _, head = said_by(advertised)
                self.heads.witness(name, self.members[name], head)
                self._advertised[name], self._charged[name] = advertised, head_count(head)
                self._since.discard(name)
        self._peers = peers

    def credit(self, totals: Iterable[Total]) -> None:
        """Note who took part in sums of training, after one that was opened since they started: each of them has charged these."""
        for total in totals:
            for name in self._since.intersection(total.responders if total.kind == "train" else ()):
                self._charged[name] += 1
                self.heads.credit(self.members[name], self._charged[name])
            if total.epochs and total.epochs == epochs_of(self._peers):
                self._since |= self._charged.keys() & self._peers.keys()
