"""Everything that travels between sites and coordinator, and who can read it.

Longer than other files, since what travels is read in one place.
Each field declares its visibility; ``docs/what_leaves.md`` is generated from these classes, and a test fails when a
field has none. A message that a site's ledger has an entry of its own for says what that entry is called (``entry``) and what it
reveals (``says``); entries of answers are called as the sum that they are part of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from infl.privacy.seal import Context, MaskedArrays, Packing, Revealed, epochs_of

KEYS_KIND, REVEAL_KIND = "keys", "reveal "
"""Kinds of plans beside those for sums: advertise a key; open the pairwise sum of the exchange of the kind that follows."""
END_KIND = "end"
"""Kind of the last plan: it brings the last sum, and asks for nothing."""
CLOSE_KIND = "close"
"""Kind of the last sum: of nothing. That it opens shows that all who are in it were given the same sums before."""
REPLAY_KIND = "replay"
"""Kind of a plan that brings sums to a site that was away for long, some at a time, and asks for nothing."""


class Visibility(StrEnum):
    """Who can read a field of a message."""

    PUBLIC = "coordinator and sites"
    SEALED = "nobody before the sum; the sum: sites"
    ENCRYPTED = "the one site that it is for"
    MEMBERS = "sites"


def shown(what: str, to: Visibility = Visibility.PUBLIC, **options: Any) -> Any:
    """Declare a message's field: what it is and who can read it."""
    return field(metadata={"what": what, "visible": to}, **options)


@dataclass(frozen=True)
class Total:
    """Coordinator to sites: what the sites of one exchange sent, added word by word.

    Examples
    --------
    >>> import numpy as np
    >>> from infl.privacy.seal import MaskedArrays
    >>> words = MaskedArrays(np.zeros(0, np.uint32), np.zeros(3, np.uint64))
    >>> Total(0, "count", 0, 0, ("a", "b", "c"), ("a", "c"), words).responders
    ('a', 'c')
    """

    seq: int = shown("number of the exchange")
    kind: str = shown("what was summed")
    round: int = shown("training round, 0 outside training")
    attempt: int = shown("attempt; one more after a site was lost while pairwise masks came off")
    cohort: tuple[str, ...] = shown("sites that were asked, in order")
    responders: tuple[str, ...] = shown("sites that answered, in order")
    words: MaskedArrays = shown("the sum; without losses and metrics where somebody is missing", Visibility.SEALED)
    epochs: str = shown("digest of the keys that the sites made when they started; empty in one process", default="")

    @property
    def lanes(self) -> tuple[int, ...]:
        """Words of 32 bits, of 64, and of 64 that are opened of all sites only."""
        return self.words.lanes


@dataclass(frozen=True)
class Plan:
    """Coordinator to sites: what to do next, and the sums that a site may have missed.

    Examples
    --------
    >>> plan = Plan("run", 0, "count", 0, 0, ("a", "b", "c"), (0, 3, 0), "", 1, "", ())
    >>> plan.lanes
    (0, 3, 0)
    """

    run: str = shown("random name of the run")
    seq: int = shown("number of the exchange")
    kind: str = shown("count, a task's own sum, train, judge, close, or what is asked beside sums: keys, replay, end")
    round: int = shown("training round, 0 outside training")
    attempt: int = shown("attempt; one more after a site was lost while pairwise masks came off")
    cohort: tuple[str, ...] = shown("sites that are asked, in order")
    lanes: tuple[int, ...] = shown(
        "words of 32 bits, of 64, and of 64 opened of all only, that each site is to send; the same whatever its data"
    )
    agreement: str = shown("digest of the run's specification")
    key_version: int = shown("version of the key in use")
    fingerprint: str = shown("fingerprint of the key in use")
    previous: tuple[Total, ...] = shown("sums since the last exchange that this site took part in")
    peers: Mapping[str, bytes] = shown("public keys that the sites made when they started", default_factory=dict)
    answered: tuple[str, ...] = shown("pairwise seal: sites whose messages are in the sum to be opened", default=())
    shares: Mapping[str, bytes] = shown(
        "pairwise seal: shares of their masks that the sites sent to this one",
        Visibility.ENCRYPTED,
        default_factory=dict,
    )

    @property
    def epochs(self) -> str:
        """Digest of :attr:`peers`; empty in one process."""
        return epochs_of(self.peers)


def context_of(run: str, of: Plan | Total, packing: Packing, agreement: str, chain: str) -> Context:
    """Return what the seal of an exchange is bound to; sites with another agreement or history open nothing together.

    Parameters
    ----------
    run, agreement
        Random name of the run, and digest of its specification.
    of
        The exchange.
    packing
        Its arrays; scales play no part.
    chain
        Of all sums before, see :func:`linked`; empty before the first.
    """
    kind = f"{of.seq}:{of.kind.removeprefix(REVEAL_KIND)}"
    return Context(run, of.round, of.attempt, of.cohort, kind, packing.digest(), f"{agreement}:{chain}", of.epochs)


def linked(chain: str, context: Context, total: Total) -> str:
    """Return the chain after a sum: SHA-256 over the chain before, the sum's context, who is in it, and its words.

    Words are integers, so all sites that applied the same sums have the same chain, whatever their processors.
    """
    parts = [chain, context.digest().hex(), *total.responders, total.words.digest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """Site to coordinator: its part of a sum.

    Examples
    --------
    >>> import numpy as np
    >>> from infl.privacy.seal import MaskedArrays
    >>> words = MaskedArrays(np.zeros(0, np.uint32), np.zeros(3, np.uint64))
    >>> Answer("a", "run", 0, 0, 1, "", words).words.nbytes
    24
    """

    site: str = shown("the site's name")
    run: str = shown("random name of the run")
    seq: int = shown("number of the exchange")
    attempt: int = shown("attempt")
    key_version: int = shown("version of the key in use")
    fingerprint: str = shown("fingerprint of the key in use")
    words: MaskedArrays = shown("update, sample count, metrics, sums and integrity tag", Visibility.SEALED)
    shares: Mapping[str, bytes] = shown(
        "pairwise seal: shares of this site's mask, one for each peer", Visibility.ENCRYPTED, default_factory=dict
    )

    @property
    def sites(self) -> tuple[str, ...]:
        """Whose parts the words are."""
        return (self.site,)

    @property
    def shares_of(self) -> Mapping[str, Mapping[str, bytes]]:
        """The shares by site."""
        return {self.site: self.shares}


@dataclass(frozen=True)
class Subtotal:
    """A region's coordinator to the coordinator of the run: the answers of some sites, added (:mod:`infl.federation.regions`).

    Examples
    --------
    >>> import numpy as np
    >>> from infl.privacy.seal import MaskedArrays
    >>> words = MaskedArrays(np.zeros(0, np.uint32), np.zeros(3, np.uint64))
    >>> Subtotal("north", "run", 0, 0, 1, "", ("a", "b"), words, {}).sites
    ('a', 'b')
    """

    site: str = shown("the region's name")
    run: str = shown("random name of the run")
    seq: int = shown("number of the exchange")
    attempt: int = shown("attempt")
    key_version: int = shown("version of the key in use")
    fingerprint: str = shown("fingerprint of the key in use")
    sites: tuple[str, ...] = shown("sites whose answers are in it, in order")
    words: MaskedArrays = shown("what these sites sent, added word by word", Visibility.SEALED)
    shares_of: Mapping[str, Mapping[str, bytes]] = shown(
        "pairwise seal: shares of the sites' masks, by site and peer", Visibility.ENCRYPTED
    )


@dataclass(frozen=True)
class Key:
    """Site to coordinator, for the other sites: the public key that it made when it started, signed."""

    entry: ClassVar[str] = KEYS_KIND
    says: ClassVar[str] = "a public key that the site made when it started; nothing of the data"

    site: str = shown("the site's name")
    seq: int = shown("number of the exchange")
    public: bytes = shown(
        "X25519 public key, its MAC under the run's key, and the member's Ed25519 signature (between machines); under differential "
        "privacy also the head of the site's account: number of sums charged in all its runs, and a keyed digest of which"
    )


@dataclass(frozen=True)
class Applied:
    """Site to coordinator: sums that were replayed arrived, and it applied them.

    Examples
    --------
    >>> Applied("a", seq=12).seq
    12
    """

    site: str = shown("the site's name")
    seq: int = shown("number of the exchange that is under way")


@dataclass(frozen=True)
class Reveal:
    """Site to coordinator: what takes the pairwise masks off a sum of several sites, and off nothing else."""

    entry: ClassVar[str] = REVEAL_KIND.strip()
    says: ClassVar[str] = (
        "what takes the masks between pairs of sites off one sum of several sites; nothing of the data"
    )

    site: str = shown("the site's name")
    seq: int = shown("number of the exchange")
    revealed: Revealed = shown("shares of the masks of sites that answered, seeds shared with sites that did not")


@dataclass(frozen=True)
class Stopped:
    """Site to coordinator: early stopping, decided from the summed validation metric, alike at all sites.

    Examples
    --------
    >>> Stopped("a", seq=12).seq
    12
    """

    site: str = shown("the site's name")
    seq: int = shown("number of the exchange")


@dataclass(frozen=True)
class Offer:
    """Coordinator to sites, between machines only: the run's specification, for a site to accept or decline."""

    version: str = shown("version of infl at the coordinator")
    agreement: bytes = shown("the specification, as JSON; names of features and classes are in it")


@dataclass(frozen=True)
class Consent:
    """Site to coordinator: it takes part, and what it understood agrees."""

    site: str = shown("the site's name")
    version: str = shown("version of infl at the site")
    agreement: str = shown("digest of the run's specification")
    panel: str = shown("digest of the features and classes that the site read its data with")
    fingerprint: str = shown("fingerprint of the key that the site holds for the run")
    applied: int = shown("how many of the run's sums it has applied, at an earlier attempt", default=0)


@dataclass(frozen=True)
class Trouble:
    """Site to coordinator: it declines the run, or cannot answer a plan."""

    entry: ClassVar[str] = "refusal"
    says: ClassVar[str] = "that the site does not do what the coordinator asked for, and not why; nothing of the data"

    site: str = shown("the site's name")
    seq: int = shown("number of the exchange, 0 when the run is declined")
    reason: str = shown("a fixed line, or other versions of infl; why stays in the site's own log")


@dataclass(frozen=True)
class Alive:
    """Site to coordinator, every second or so between machines: the site is up, and what it was last asked."""

    site: str = shown("the site's name")
    seq: int = shown("number of the exchange it was last asked for")
    attempt: int = shown("attempt of it")
    kind: str = shown("kind of it; empty before the first")


@dataclass(frozen=True)
class Done:
    """Site to coordinator, between machines only: the last sum arrived, the site has the model."""

    site: str = shown("the site's name")
    seq: int = shown("number of the exchange")


# -- studies: every site runs the same function and says what is due next; the coordinator adds or relays it, and answers all ---
@dataclass(frozen=True)
class StudyOffer:
    """Coordinator to sites: a study's specification, for a site to accept or decline.

    Examples
    --------
    >>> StudyOffer("0.1.0", b"{}").version
    '0.1.0'
    """

    version: str = shown("version of infl at the coordinator")
    study: bytes = shown("the specification, as JSON: functions and their arguments, names of sites and columns")


@dataclass(frozen=True)
class Said:
    """Site to coordinator, in a step of a study: its part of a sum, or names for the other sites.

    Examples
    --------
    >>> import numpy as np
    >>> from infl.privacy.seal import MaskedArrays
    >>> Said("a", "run", 0, 3, "", MaskedArrays(np.zeros(0, np.uint32), np.zeros(3, np.uint64)), b"").words.nbytes
    24
    """

    site: str = shown("the site's name")
    run: str = shown("random name of the study")
    step: int = shown("number of the step, from 0")
    number: int = shown("number of the exchange in the step, from 0")
    kind: str = shown(
        "digest, under a key of the sites, of what is summed or said: sites that say different things go no further"
    )
    words: MaskedArrays = shown("part of a sum, and integrity tag; empty for names", Visibility.SEALED)
    names: bytes = shown(
        "names of features, columns, kinds of values, or their digests; empty for a sum", Visibility.MEMBERS
    )


@dataclass(frozen=True)
class Heard:
    """Coordinator to sites: what came of an exchange of a step, the same for all.

    Examples
    --------
    >>> import numpy as np
    >>> from infl.privacy.seal import MaskedArrays
    >>> Heard("run", 0, 3, MaskedArrays(np.zeros(0, np.uint32), np.zeros(3, np.uint64)), {}).number
    3
    """

    run: str = shown("random name of the study")
    step: int = shown("number of the step, from 0")
    number: int = shown("number of the exchange in the step, from 0")
    words: MaskedArrays = shown("the sum of all sites", Visibility.SEALED)
    names: Mapping[str, bytes] = shown("what each site said", Visibility.MEMBERS)


Reply = Answer | Subtotal | Stopped | Key | Reveal | Applied
OF_STUDIES = (StudyOffer, Said, Heard)
MESSAGE_TYPES = (
    Plan,
    Answer,
    Subtotal,
    Stopped,
    Key,
    Reveal,
    Applied,
    Total,
    Offer,
    Consent,
    Trouble,
    Alive,
    Done,
    *OF_STUDIES,
)
