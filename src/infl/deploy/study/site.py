"""A site in a study: it runs each step on its working object, and keeps a step when all sites have written theirs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from infl._warn import also_told
from infl.data.consortium import Consortium
from infl.deploy.study.channel import DONE, StudyChannel
from infl.deploy.study.steps import fit_of
from infl.deploy.study.working import WorkingObject
from infl.errors import FederationError
from infl.federation.run import FederatedRun
from infl.models.locked import load_model
from infl.privacy.register import SeenHeads

if TYPE_CHECKING:
    from infl.deploy.study.specification import Study
    from infl.federation.agreement import Agreement
    from infl.federation.messages import Heard, Said
    from infl.keys import Keyring
    from infl.models.locked import LockedModel
    from infl.privacy import Disclosure
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
    disclosure
        Rules of disclosure that bind this site's sums (None: none do).
    admit
        As for :class:`infl.data.consortium.Consortium`.
    """

    def __init__(
        self,
        name: str,
        study: Study,
        working: WorkingObject,
        key: Keyring,
        ledger: Ledger,
        note: Callable[[str], None] = lambda line: None,
        disclosure: Disclosure | None = None,
        admit: Callable[[Agreement], int] = lambda fit: 1,
    ) -> None:
        self.name, self.study, self.working = name, study, working
        self.key, self.ledger, self.note, self.disclosure = key, ledger, note, disclosure
        self.admit = admit

    def run(self, exchange: Callable[[Said], Heard]) -> None:
        """Do all steps that are left, in order.

        Parameters
        ----------
        exchange
            Sends a message and returns what came of it; asked again, the same.
        """
        self.working.clear()
        for step in range(self.working.done, len(self.study.steps)):
            self._step(step, exchange)
        self._channel(len(self.study.steps), exchange)  # says that this site has kept the last step

    def _step(self, step: int, exchange: Callable[[Said], Heard]) -> None:
        """Run a step on what the last one left, and keep it when all sites have written what it made."""
        channel = self._channel(step, exchange)
        self._agree_on_rules(step, channel)
        adata = self.working.read()
        if self.disclosure is not None:
            self.disclosure.opened.clear()
        told = also_told(lambda line: self.note(f"study {self.study.name}, step {step + 1}: {line}"))
        sites = Consortium({self.name: adata}, channel, self.key, self.admit)
        with self.disclosure or nullcontext(), told:
            made = self.study.steps[step].run(sites, self._fitted(step))
        if self.study.steps[step].kind.replaces:
            adata = made[self.name]
        if isinstance(made, FederatedRun):
            self.working.write_model(step, made.model)
        if self.disclosure is not None:
            self.working.write_opened(step, self.disclosure.opened)
        written = self.working.write(step, adata)
        if not all(value is True for value in channel.agree(DONE, {self.name: True}).values()):
            raise FederationError(f"{self.name}: a site has not written step {step + 1}; it is not kept")
        self.working.keep(step, written)
        self.note(
            f"study {self.study.name}: step {step + 1} of {len(self.study.steps)} is kept, {self.study.steps[step]}"
        )

    def _fitted(self, step: int) -> LockedModel | None:
        """Return the model that a step takes, None where it takes none."""
        steps = self.study.steps
        return None if steps[step].kind.fit is None else load_model(self.working.models()[fit_of(steps, step) + 1])

    def _agree_on_rules(self, step: int, channel: StudyChannel) -> None:
        """Refuse to begin where sites do not need the same number of sites behind an opened number: what they add follows from it.

        Under rules, no site's register may be older than what others have seen of it.
        """
        rules = self.disclosure
        needed = 0 if rules is None else rules.rules.needed
        heads = None if rules is None else SeenHeads(rules.register(self.name))
        own = {"needed": 0} if heads is None else self.working.said(step, lambda: {"needed": needed} | heads.said())
        said = channel.agree("rules of disclosure", {self.name: own})
        for site, of_site in said.items():
            if of_site["needed"] != needed:
                raise FederationError(
                    f"{self.name}: its rules of disclosure need {needed} sites behind a number, those of {site} {of_site['needed']} (0: it "
                    "has no rules): agree on min_holders and colluders in [disclosure] of policy.toml, everywhere or nowhere"
                )
        if heads is not None:
            heads.check(self.name, said)

    def _channel(self, step: int, exchange: Callable[[Said], Heard]) -> StudyChannel:
        drawn = self.working.drawn(step)
        return StudyChannel(self.study, self.name, step, drawn, key=self.key, ledger=self.ledger, exchange=exchange)
