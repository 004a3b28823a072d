"""Heads of other members' accounts of differential privacy, so that none of them goes back unnoticed.

A restored backup of a site's account would forget what was spent since. So the members of a run keep each other's heads, in the
folder of their own account, and count the sums that the others took part in since. What they do not see is an account that went
back and has more sums again than they know of, from runs with other members.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from infl._files import explained, parse_json, write_atomic
from infl.errors import FederationError, FileError

if TYPE_CHECKING:
    from infl.privacy.account import Account

HEAD = 48
"""Bytes of an account's head: two numbers of eight, and a digest."""
CLOCKS = 600 * 10**9
"""Nanoseconds by which clocks of members differ at the most."""


@dataclass
class Seen:
    """What a site has seen of another member's account.

    Attributes
    ----------
    head
        The newest :meth:`Account.head <infl.privacy.account.Account.head>`, in hexadecimal.
    least, since
        How many sums it has charged at least, as it took part in them, and when that was seen (nanoseconds).
    """

    head: str = ""
    least: int = 0
    since: int = 0


def head_time(head: bytes) -> int:
    """Return when an account's head was read, in nanoseconds since 1970."""
    return int.from_bytes(head[:8], "big")


def head_count(head: bytes) -> int:
    """Return how many sums an account's head is of."""
    return int.from_bytes(head[8:16], "big")


class Heads:
    """What a site has seen of the other members' accounts.

    Parameters
    ----------
    account
        The site's own, in whose folder they are kept, as ``heads``.
    """

    def __init__(self, account: Account) -> None:
        self.account, self.path = account, account.folder / "heads"

    def witness(self, name: str, identity: bytes, head: bytes) -> None:
        """Keep the head of another member's account, unless the account goes back behind what was seen of it.

        Parameters
        ----------
        name, identity
            The member, and its public key.
        head
            :meth:`Account.head <infl.privacy.account.Account.head>` of its account, of whenever it was.

        Raises
        ------
        FederationError
            The account has fewer sums than before, or as many others; or there is none; or its clock is ahead, and what is kept of
            it would be the newest until that time comes.
        """
        if len(head) != HEAD:
            raise FederationError(f"{name} shows no account of what its records have spent; refused: update infl there")
        if (ahead := head_time(head) - time.time_ns()) > CLOCKS:
            raise FederationError(
                f"{name}: its clock is {ahead / 60e9:.0f} minutes ahead of this machine's; refused: set both clocks, and start "
                f"{name} again"
            )
        with self._seen_of(identity) as seen:
            earlier, later = sorted((bytes.fromhex(seen.head) or head, head))
            before, after = head_count(earlier), head_count(later)
            if seen.least > head_count(head) and head_time(head) > seen.since + CLOCKS:
                before, after = seen.least, head_count(head)
            if after < before or (after == before and earlier[8:] != later[8:]):
                raise FederationError(
                    f"{name}: its account goes back behind what was seen of it ({after} sums after {before}); refused: restore its "
                    f"newest backup there, or agree on what its records have left and delete {self.path}"
                )
            seen.head = later.hex()

    def credit(self, identity: bytes, least: int) -> None:
        """Note the least number of sums that a member has charged by now: it took part in them."""
        with self._seen_of(identity) as seen:
            if least > seen.least:
                seen.least, seen.since = least, time.time_ns()

    @contextmanager
    def _seen_of(self, identity: bytes) -> Iterator[Seen]:
        """Yield what was seen of a member's account, and write it down if it is changed."""
        with self.account.alone():
            known = self._all()
            before = known.get(identity.hex(), Seen())
            yield (seen := replace(before))
            if seen != before:
                known[identity.hex()] = seen
                content = json.dumps({member: asdict(of) for member, of in known.items()})
                write_atomic(self.path, content.encode(), overwrite=True, mode=0o600)

    def _all(self) -> dict[str, Seen]:
        if not self.path.exists():
            return {}
        with explained(self.path, "read"):
            try:
                known = {str(member): Seen(**of) for member, of in parse_json(self.path.read_text()).items()}
                if any(len(bytes.fromhex(of.head)) not in (0, HEAD) for of in known.values()):
                    raise ValueError
                return known
            except (ValueError, TypeError, AttributeError):
                raise FileError(
                    f"{self.path} is damaged: restore it from a backup, or delete it and forget others' accounts"
                ) from None
