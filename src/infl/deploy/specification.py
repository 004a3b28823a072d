"""What people agree on when they say yes to a run: its specification, without what is drawn at random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from infl._files import read_own

if TYPE_CHECKING:
    from infl.federation.agreement import Agreement

ANY_SEED = " with any seed"
"""Ends the digest of a specification whose seed is drawn for each run."""


class Sealed(Protocol):
    """What a run and a study say of members and key."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of all sites."""

    @property
    def key_version(self) -> int:
        """Version of the key."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of that version; empty for a run without a key."""


def read_agreement(path: Path) -> Agreement:
    """Return the specification in a file, of the coordinator's run or of one that a site was offered.

    Raises
    ------
    FileError
        It cannot be read, or is damaged.
    """
    from infl.federation.agreement import Agreement

    def build(raw: dict[str, Any]) -> Agreement:
        agreement = Agreement(**{**raw, "sites": tuple(raw["sites"])})
        if (
            not isinstance(agreement.run, str)
            or type(agreement.rounds) is not int
            or not isinstance(agreement.panel, dict)
        ):
            raise TypeError
        return agreement

    return read_own(path, build, "put it back from a backup; without it the run cannot go on")


def specification_digest(agreement: Agreement, *, any_seed: bool = False) -> str:
    """Return the SHA-256 of what people agree on: all of the specification but the run's random name and salt.

    With `any_seed` the seed is left out as well, and the digest ends with :data:`ANY_SEED`.
    """
    fixed = replace(agreement, run="", salt="", seed=0 if any_seed else agreement.seed)
    return fixed.digest + (ANY_SEED if any_seed else "")


def is_specified(agreement: Agreement, specification: str) -> bool:
    """Whether a run is the one of a specification digest.

    Examples
    --------
    >>> import infl
    >>> from infl.federation.agreement import Agreement
    >>> task, panel = infl.models.Classifier(target="y"), {"features": ["g"], "classes": ["a", "b"]}
    >>> one, other = (Agreement.new(task, panel, ["x", "y", "z"], infl.keys.Keyring.create(), seed=s) for s in (1, 2))
    >>> is_specified(one, specification_digest(one)), is_specified(other, specification_digest(one, any_seed=True))
    (True, False)
    """
    return specification == specification_digest(agreement, any_seed=specification.endswith(ANY_SEED))
