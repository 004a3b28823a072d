"""Who a site is, and who the others are: lines of the key holder's signed grant trail; the site has its own copy of it.

The coordinator enrols whom it likes, so a certificate says nothing about members. Between machines a site takes part only
with members, each with an identity of its own; so `min_sites` counts identities, not names that somebody made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infl.errors import KeyringError

if TYPE_CHECKING:
    from infl.keys import Identity, Trail


@dataclass(frozen=True)
class Membership:
    """A site's identity, and those of all sites of a run.

    Attributes
    ----------
    identity
        The site's own.
    members
        Ed25519 public keys (32 bytes each) of all sites of the run, by name.

    Examples
    --------
    >>> from infl.keys import Identity, Keyring
    >>> ring, identities = Keyring.create(), {name: Identity.create() for name in ("a", "b", "c")}
    >>> for name, identity in identities.items():
    ...     _ = ring.grant(name, identity)
    >>> list(Membership.of("b", identities["b"], identities, ring.trail).members)
    ['a', 'b', 'c']
    >>> Membership.of("b", identities["b"], ["a", "b", "ghost"], ring.trail)
    Traceback (most recent call last):
    infl.errors.KeyringError: b: 'ghost' is no member in this site's copy of the grant trail: ...
    """

    identity: Identity
    members: Mapping[str, bytes]

    @classmethod
    def of(cls, site: str, identity: Identity, sites: Iterable[str], trail: Trail) -> Membership:
        """Return who the sites of a run are.

        Parameters
        ----------
        site, identity
            This site.
        sites
            Names of all sites of the run; a member has one name, in the trail and in runs.
        trail
            The site's own copy, verified.

        Raises
        ------
        KeyringError
            One of the sites is no member, or has no identity of its own; or this site is another one in the trail.
        """
        granted, verifier = trail.members(), identity.verifier
        own = [name for name, member in granted.items() if member.identity == verifier]
        if own != [site]:
            found = f"calls it {own[0]!r}" if own else "does not have its identity"
            raise KeyringError(
                f"{site}: the grant trail in this site's ring {found}: send {site}.pub of `infl key identity {site}` to the "
                "key holder for a new `infl key grant`, and import what comes back"
            )
        members: dict[str, bytes] = {}
        for name in sites:
            if name not in granted:
                raise KeyringError(
                    f"{site}: {name!r} is no member in this site's copy of the grant trail: refuse the run, or import the "
                    "key holder's newest file if it was granted since"
                )
            try:
                key = bytes.fromhex(granted[name].identity)
            except ValueError:
                key = b""
            if len(key) != 32:
                raise KeyringError(
                    f"{site}: {name!r} was granted without an identity: let the key holder `infl key grant` its new {name}.pub, "
                    "and import what comes back"
                )
            if key in members.values():
                raise KeyringError(
                    f"{site}: {name!r} has the identity of another site in the grant trail: ask the key holder"
                )
            members[name] = key
        return cls(identity, members)
