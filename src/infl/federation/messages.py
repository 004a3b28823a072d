"""Everything that travels between sites and coordinator, and who can read it.

Each field declares its visibility; ``docs/what_leaves.md`` is generated from these classes, and a test fails when a
field has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from infl.privacy.seal import Context, Packing, Words


class Visibility(StrEnum):
    """Who can read a field of a message."""

    PUBLIC = "coordinator and sites"
    SEALED = "nobody before the sum; the sum: sites"


def shown(what: str, to: Visibility = Visibility.PUBLIC, **options: Any) -> Any:
    """Declare a message's field: what it is and who can read it."""
    return field(metadata={"what": what, "visible": to}, **options)


@dataclass(frozen=True)
class Total:
    """Coordinator to sites: what the sites of one exchange sent, added word by word."""

    seq: int = shown("number of the exchange")
    kind: str = shown("what was summed")
    round: int = shown("training round, 0 outside training")
    attempt: int = shown("attempt; one more after a value left the agreed range")
    cohort: tuple[str, ...] = shown("sites that were asked, in order")
    responders: tuple[str, ...] = shown("sites that answered, in order")
    packing: Packing = shown("names, shapes and scales of the summed arrays")
    words: Words = shown("the sum", Visibility.SEALED)


@dataclass(frozen=True)
class Plan:
    """Coordinator to sites: what to do next, and the sums that a site may have missed."""

    run: str = shown("random name of the run")
    seq: int = shown("number of the exchange")
    kind: str = shown("count, stage, train, judge or end")
    round: int = shown("training round, 0 outside training")
    attempt: int = shown("attempt; one more after a value left the agreed range")
    cohort: tuple[str, ...] = shown("sites that are asked, in order")
    packing: Packing = shown("names, shapes and scales of the arrays to send")
    agreement: str = shown("digest of the run's specification")
    key_version: int = shown("version of the key in use")
    fingerprint: str = shown("fingerprint of the key in use")
    previous: tuple[Total, ...] = shown("sums since the last exchange that this site took part in")

    def context(self) -> Context:
        """Return what the seal binds an answer to."""
        return Context(
            self.run, self.round, self.attempt, self.cohort, f"{self.seq}:{self.kind}", self.packing.digest()
        )


@dataclass(frozen=True)
class Answer:
    """Site to coordinator: its part of a sum."""

    site: str = shown("the site's name")
    run: str = shown("random name of the run")
    seq: int = shown("number of the exchange")
    attempt: int = shown("attempt")
    key_version: int = shown("version of the key in use")
    fingerprint: str = shown("fingerprint of the key in use")
    words: Words = shown("update, sample count, metrics, sums and integrity tag", Visibility.SEALED)


@dataclass(frozen=True)
class Refusal:
    """Site to coordinator: a value left the agreed range, so nothing was sent; try again with a wider scale."""

    site: str = shown("the site's name")
    seq: int = shown("number of the exchange")
    attempt: int = shown("attempt")
    fields: tuple[str, ...] = shown("names of the arrays that left the range (not by how much)")


@dataclass(frozen=True)
class Stopped:
    """Site to coordinator: early stopping, decided from the summed validation metric, alike at all sites."""

    site: str = shown("the site's name")
    seq: int = shown("number of the exchange")


MESSAGES = (Plan, Answer, Refusal, Stopped, Total)
