"""What attackers hold: messages that an eavesdropper kept, model files, and the same from an unprotected run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from infl.federation.agreement import Agreement
from infl.federation.seeds import derive
from infl.models.registry import task_from_json

if TYPE_CHECKING:
    from infl._types import Data
    from infl.federation.coordinator import Transport
    from infl.federation.local import Outcome
    from infl.federation.messages import Answer, Plan, Reply
    from infl.federation.run import FederatedRun
    from infl.models.locked import LockedModel
    from infl.models.task import Task


@dataclass
class Eavesdropper:
    """A transport that keeps all that passes: what a coordinator sees."""

    inner: Transport
    heard: list[tuple[Plan, Answer]] = field(default_factory=list)

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        """Pass messages on, and keep answers with their plans."""
        from infl.federation.messages import Answer

        plans: dict[str, Plan] = {}

        def plan(site: str) -> Plan:
            plans[site] = plan_for(site)
            return plans[site]

        for reply in self.inner.ask(cohort, plan):
            if isinstance(reply, Answer):
                words = replace(reply.words, low=reply.words.low.copy(), high=reply.words.high.copy())
                self.heard.append((plans[reply.site], replace(reply, words=words)))
            yield reply

    def holder(self, site: str) -> str:
        """As the transport that is listened to."""
        return self.inner.holder(site)


@dataclass(frozen=True)
class Recorded:
    """A run together with what was heard on its line."""

    outcome: Outcome
    heard: list[tuple[Plan, Answer]]

    @property
    def run(self) -> FederatedRun:
        """The run."""
        return self.outcome.run

    @property
    def model(self) -> LockedModel:
        """The model file that a thief gets."""
        return self.outcome.run.model


@dataclass(frozen=True)
class Evidence:
    """The run under audit, and the means to attack it and its controls.

    Attributes
    ----------
    run
        The user's run.
    sites
        The data of its sites: to judge attacks by, and to repeat the run under other protections with the same seed.
    seed
        Of the attackers' own randomness.
    """

    run: FederatedRun
    sites: Mapping[str, Data]
    seed: int = 0

    @cached_property
    def task(self) -> Task:
        """The run's task."""
        header = self.run.model.header
        return task_from_json(header.task, header.options)

    @property
    def panel(self) -> dict[str, Any]:
        """Names of features and classes; public."""
        return self.run.model.header.panel

    def rng(self, *purpose: str | int) -> np.random.Generator:
        """Return a generator for an attack."""
        return np.random.default_rng(derive(self.seed, "audit", *purpose))

    def repeat(self, sites: Mapping[str, Data] | None = None, **changes: Any) -> Recorded:
        """Fit the run again with an eavesdropper on the line; `changes` to the agreement (``lock="none"``, ``rounds=2``).

        Without changes to the protections the run's own key is used, so this is the user's run once more.
        """
        from infl.federation.local import run_in_process
        from infl.keys import Keyring

        sites = self.sites if sites is None else sites
        names = ("rounds", "local_epochs", "aggregation", "aggregation_options", "participation", "patience")
        settings = {name: self.run.settings[name] for name in (*names, "lock", "strength", "seal", "min_sites", "seed")}
        task = changes.pop("task", self.task)
        settings |= changes
        needs_key = settings["lock"] != "none" or settings["seal"] != "none"
        key = (self.run.key or Keyring.create()) if needs_key else None
        if settings["seal"] == "none" and len(sites) < settings["min_sites"]:
            settings["min_sites"] = 1
        agreement = Agreement.new(task, self.panel, sites, key, **settings)
        ears: list[Eavesdropper] = []

        def listen(transport: Transport) -> Transport:
            ears.append(Eavesdropper(transport))
            return ears[0]

        outcome = run_in_process(agreement, task, sites, key, wrap=listen)
        return Recorded(outcome, ears[0].heard)

    @cached_property
    def protected(self) -> Recorded:
        """The user's run once more, listened to."""
        return self.repeat()

    @cached_property
    def unprotected(self) -> Recorded:
        """The control: the same seed with neither lock nor seal."""
        return self.repeat(lock="none", seal="none", strength=0.0)

    @property
    def protection(self) -> str:
        """The run's protections in a few words."""
        s = self.run.settings
        lock = f"lock {s['lock']}" + (f" {s['strength']:g}" if s["lock"] == "field" and s["strength"] != 1 else "")
        return f"{lock}, seal {s['seal']}"
