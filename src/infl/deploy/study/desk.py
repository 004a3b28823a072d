"""The coordinator's part of a study: it adds or collects what all sites say at one place, writes it down, and tells all.

It has no key. What it keeps are masked sums and names that it cannot read, of the step under way, so that a site that was cut off
can run its step again and gets the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from infl._files import explained
from infl.deploy.study.heard import HeardFile
from infl.errors import FederationError
from infl.federation.messages import Heard, Said
from infl.federation.wire import encode
from infl.privacy.seal import MaskedArrays, add

if TYPE_CHECKING:
    from infl.deploy.study.specification import Study

MOST_EXCHANGES = 1_000_000
"""In one step."""
Place = tuple[int, int]
"""Step, and exchange in it."""


class Disagreement(FederationError):
    """Sites do different things at one place: none can go on."""


@dataclass
class _Pending:
    kind: str
    first: str
    words: MaskedArrays | None = None
    names: dict[str, bytes] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)


class Desk:
    """Combines what sites say.

    Parameters
    ----------
    study
        Which sites, how many steps.
    folder
        Where combined exchanges are kept.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        with explained(folder, "make"):
            folder.mkdir(parents=True, exist_ok=True)
        self._steps = {int(path.stem): HeardFile(path) for path in folder.glob("[0-9]" * 4 + ".heard")}
        self._places = {(step, number) for step, told in self._steps.items() for number in told.numbers}
        self.last: Place | None = max(self._places, default=None)
        """The last exchange that was combined."""
        self._pending: _Pending | None = None
        self.closed = False
        """No further step is begun."""
        self.waits = False
        """A site has kept its step, and the next one is not begun."""

    def close(self, closed: bool) -> None:
        """Begin no further step from now on; or begin them again."""
        self.closed = closed

    @property
    def done(self) -> int:
        """Steps that all sites have kept."""
        return 0 if self.last is None else self.last[0]

    @property
    def written(self) -> int:
        """Steps that all sites have written, where :attr:`waits` is true: who is away learns of it when it is back."""
        return 0 if self.last is None else self.last[0] + 1

    @property
    def position(self) -> int:
        """Grows with every exchange."""
        return 0 if self.last is None else self.last[0] * MOST_EXCHANGES + self.last[1] + 1

    @property
    def finished(self) -> bool:
        """Whether all sites have kept all steps."""
        return self.done == len(self.study.steps)

    def hear(self, said: Said) -> list[tuple[str, bytes]]:
        """Take what a site says; return what is sent to which sites now.

        Raises
        ------
        Disagreement
            Another site says something else at this place.
        FederationError
            It is not of this study, or its place is not due.
        """
        place = (said.step, said.number)
        if said.run != self.study.run or said.site not in self.study.sites:
            raise FederationError(f"{said.site} speaks of another study")
        if place in self._places:
            return [(said.site, self._steps[place[0]].read(place[1]))]
        if not self._is_due(place):
            raise FederationError(f"{said.site} is at exchange {place}, and {self.last} was the last one")
        if place[1] == 0 and self.closed and self.last is not None:
            self.waits = True
            return []
        self._take(said)
        pending = self._pending
        assert pending is not None
        if len(pending.said) < len(self.study.sites):
            return []
        words = pending.words or MaskedArrays(np.zeros(0, np.uint32), np.zeros(0, np.uint64))
        content = encode(Heard(said.run, *place, words, pending.names))
        if place[0] not in self._steps:
            self._steps[place[0]] = HeardFile(self.folder / f"{place[0]:04}.heard")
        self._steps[place[0]].add(place[1], content, sync=bool(pending.names))  # before anybody gets it
        self._places.add(place)
        self.last, self._pending = place, None
        if place[1] == 0:
            self._forget_before(place[0])
        return [(site, content) for site in self.study.sites]

    def _is_due(self, place: Place) -> bool:
        last = self.last
        if last is None:
            return place == (0, 0)
        if place[1] >= MOST_EXCHANGES or self.finished:
            return False
        return place in ((last[0], last[1] + 1), (last[0] + 1, 0))

    def _take(self, said: Said) -> None:
        kind = f"{said.step}.{said.number}:{said.kind}"
        pending = self._pending = self._pending or _Pending(kind, said.site)
        if pending.kind != kind or (bool(pending.names) != bool(said.names) and pending.said - {said.site}):
            raise Disagreement(f"{pending.first} and {said.site} do different things in step {said.step + 1}")
        if said.site in pending.said:
            return
        if said.names:
            pending.names[said.site] = said.names
        else:
            try:
                pending.words = add(pending.words, said.words)
            except FederationError:
                raise Disagreement(
                    f"{pending.first} and {said.site} add different things in step {said.step + 1}"
                ) from None
        pending.said.add(said.site)

    def _forget_before(self, step: int) -> None:
        """Remove what belongs to steps that all sites have kept."""
        for before in [number for number in self._steps if number < step]:
            self._steps.pop(before).remove()
        self._places = {place for place in self._places if place[0] >= step}
