"""A site in a study: it runs each step on its working object, and keeps a step when all sites have written theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from infl.data.consortium import Consortium
from infl.deploy.study.channel import DONE, StudyChannel
from infl.deploy.study.working import WorkingObject
from infl.errors import FederationError

if TYPE_CHECKING:
    from infl.deploy.study.specification import Study
    from infl.federation.messages import Heard, Said
    from infl.keys import Keyring
    from infl.privacy.seal import Ledger


class StudySite:
    """One site's part of a study.

    Parameters
    ----------
    name
        As in the study.
    study
        What was agreed on.
    working
        Its working object.
    key, ledger
        What messages are sealed with, and written down in before they are sent.
    note
        Called with a line when a step is kept.
    """

    def __init__(
        self,
        name: str,
        study: Study,
        working: WorkingObject,
        key: Keyring,
        ledger: Ledger,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name, self.study, self.working = name, study, working
        self.key, self.ledger, self.note = key, ledger, note

    def run(self, exchange: Callable[[Said], Heard]) -> None:
        """Do all steps that are left, in order.

        Parameters
        ----------
        exchange
            Sends a message and returns what came of it; asked again, the same.
        """
        for step in range(self.working.done, len(self.study.steps)):
            self._step(step, exchange)
        self._channel(len(self.study.steps), exchange)  # says that this site has kept the last step

    def _step(self, step: int, exchange: Callable[[Said], Heard]) -> None:
        """Run a step on what the last one left, and keep it when all sites have written what it made."""
        channel = self._channel(step, exchange)
        adata = self.working.read()
        self.study.steps[step].run(Consortium({self.name: adata}, channel, self.key))
        written = self.working.write(step, adata)
        if not all(value is True for value in channel.agree(DONE, {self.name: True}).values()):
            raise FederationError(f"{self.name}: a site has not written step {step + 1}; it is not kept")
        self.working.keep(step, written)
        self.note(
            f"study {self.study.name}: step {step + 1} of {len(self.study.steps)} is kept, {self.study.steps[step]}"
        )

    def _channel(self, step: int, exchange: Callable[[Said], Heard]) -> StudyChannel:
        drawn = self.working.drawn(step)
        return StudyChannel(self.study, self.name, step, drawn, key=self.key, ledger=self.ledger, exchange=exchange)
