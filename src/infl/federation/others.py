"""What a site keeps of the other members' accounts of differential privacy, so that none of them goes back unnoticed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from infl.privacy.heads import Heads, head_count
from infl.privacy.seal import said_by

if TYPE_CHECKING:
    from infl.federation.membership import Membership
    from infl.federation.messages import Total
    from infl.privacy.account import Account


class Others:
    """The other members of a run, as one of them sees what they have charged.

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
        self._advertised: dict[str, bytes] = {}
        self._charged: dict[str, int] = {}  # sums, at least

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

    def credit(self, totals: Iterable[Total]) -> None:
        """Note who took part in sums of training: each of them has charged these."""
        for name in (name for total in totals if total.kind == "train" for name in total.responders):
            if name in self._charged:
                self._charged[name] += 1
                self.heads.credit(self.members[name], self._charged[name])
