"""What attackers hold: messages that an eavesdropper kept, model files, and the same from an unprotected run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from infl.attacks._kit.classifiers import with_options
from infl.federation.agreement import Agreement
from infl.federation.fitted import read_as_fitted
from infl.federation.packings import rescaled
from infl.federation.seeds import derive
from infl.federation.settings import RunSettings
from infl.privacy.seal.packing import TAG_WORDS
from infl.sums.lanes import WIDER_COUNT, split_sums

if TYPE_CHECKING:
    from infl._types import Data
    from infl.federation.coordinator import Transport
    from infl.federation.local import Outcome
    from infl.federation.messages import Answer, Plan, Reply
    from infl.federation.run import FederatedRun
    from infl.models.locked import LockedModel
    from infl.models.task import SiteData, Task
    from infl.privacy.seal import MaskedArrays, Packing

Made = TypeVar("Made")

NO_LOCK_NO_SEAL: dict[str, Any] = {"lock": "none", "seal": "none", "strength": 0.0}
"""Changes to a run's settings that take lock and seal away."""
UNPROTECTED: dict[str, Any] = NO_LOCK_NO_SEAL | {"privacy": None}
"""The same, and no noise: the control of most attacks."""


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
                self.heard.append((plans[reply.site], replace(reply, words=reply.words.copy())))
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

    def updates(self) -> list[Update]:
        """Return the training messages as a listener reads them: words as numbers on the agreement's scales."""
        from infl.privacy.seal import dequantise

        updates, first, seen = [], self.packing, -1
        scales: dict[str, int] = {}
        packing = first
        for plan, answer in self.heard:
            for total in (
                plan.previous if not self.outcome.replica.sealed else ()
            ):  # whoever reads sums knows what they widen
                if total.kind == "train" and total.seq > seen:
                    sums, low = (
                        split_sums(dequantise(signed(total.words), packing)[1], packing),
                        signed(total.words)[0],
                    )
                    scales, seen = (
                        rescaled(scales, sums[WIDER_COUNT], low, packing) if WIDER_COUNT in sums else {},
                        total.seq,
                    )
                    packing = first.coarser(scales)
            if plan.kind == "train":
                updates.append(Update(answer.site, plan.round, dequantise(signed(answer.words), packing)[0]))
        return updates

    @property
    def packing(self) -> Packing:
        """Arrays of a training message, and their first scales; they follow from the agreement."""
        return next(e.packing for e in self.outcome.replica.programme.exchanges if e.round)

    def tensors(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Cut a flat update into the module's tensors; their names and shapes are public."""
        import torch

        views = self.outcome.replica.flat_model.shared.views(torch.from_numpy(np.array(flat, dtype=np.float32)))
        return {name: view.numpy() for name, view in views.items()}


def signed(words: MaskedArrays) -> tuple[np.ndarray, np.ndarray]:
    """Return both lanes of a message as numbers, without the tag."""
    high = np.concatenate([words.high[:-TAG_WORDS], words.of_all[:-TAG_WORDS]])
    return words.low.view(np.int32), high.view(np.int64)


@dataclass(frozen=True)
class Update:
    """One training message, read as numbers."""

    site: str
    round: int
    values: np.ndarray


@dataclass(frozen=True)
class AuditContext:
    """The run under audit, and the means to attack it and its controls.

    Attributes
    ----------
    run
        The user's run.
    sites
        The data of its sites: to judge attacks by, and to repeat the run under other protections with the same seed.
    seed
        Of the attackers' own randomness.

    Examples
    --------
    >>> import infl
    >>> sites = infl.datasets.khan_sites()
    >>> run = infl.tl.fit_federated(sites, target="tumour_class", rounds=2, progress=False)
    >>> context = infl.attacks.AuditContext(run, sites)
    >>> context.protection, context.sealed
    ('lock field, seal group', True)
    """

    run: FederatedRun
    sites: Mapping[str, Data]
    seed: int = 0
    _kept: dict[tuple[str | int, ...], Any] = field(default_factory=dict, repr=False)

    @cached_property
    def task(self) -> Task:
        """The run's task."""
        return self.run.model.header.build_task()

    @property
    def panel(self) -> dict[str, Any]:
        """Names of features and classes; public."""
        return self.run.model.header.panel

    @property
    def chance(self) -> float | None:
        """What the headline metric is of a guess; None where nobody can say."""
        return self.task.chance(self.panel)

    def rng(self, *purpose: str | int) -> np.random.Generator:
        """Return a generator for an attack."""
        return np.random.default_rng(derive(self.seed, "audit", *purpose))

    def judging(self, *, keyless: bool) -> list[SiteData]:
        """Return the sites' data with the run's validation parts, read with or without what the key tells."""
        return self.once(
            ("judging", keyless),
            lambda: [read_as_fitted(self.run.model, a, s, keyless=keyless) for s, a in self.sites.items()],
        )

    def once(self, name: tuple[str | int, ...], make: Callable[[], Made]) -> Made:
        """Return what `make` makes, made once for each name: several attacks use what takes long, e.g. shadow models."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    @property
    def settings(self) -> RunSettings:
        """What the run was agreed with."""
        return RunSettings.of(self.run.settings)

    def repeat(
        self,
        sites: Mapping[str, Data] | None = None,
        *,
        line: Callable[[Transport], Transport] = lambda inner: inner,
        salt: str | None = None,
        **changes: Any,
    ) -> Recorded:
        """Fit the run again with an eavesdropper on the line; `changes` to the agreement (``lock="none"``, ``rounds=2``).

        Without changes to the protections the run's own key is used, so this is the user's run once more. `line` may put
        something between coordinator and sites that loses messages; `salt` is what a coordinator offers (default: drawn).
        """
        from infl.federation.local import run_in_process
        from infl.keys import Keyring

        sites = self.sites if sites is None else sites
        task = changes.pop("task", self.task)
        settings = replace(self.settings, **changes)
        needs_key = settings.lock != "none" or settings.seal != "none"
        key = (self.run.key or Keyring.create()) if needs_key else None
        if settings.seal == "none" and len(sites) < settings.fewest:
            settings = replace(settings, min_sites=1)
        dp = settings.privacy
        if dp is not None and dp.colluders >= settings.fewest:  # sites put together keep no noise from each other
            settings = replace(settings, privacy=replace(dp, colluders=settings.fewest - 1))
        origin = None if settings.lock == "published" else self.run.origin
        start = None if origin is None else origin.open(self.run.key if origin.model.header.fingerprint else None)
        agreement = Agreement.new(
            task, self.panel, sites, key, settings, salt=salt, init="" if start is None else start.digest
        )
        ears: list[Eavesdropper] = []

        def listen(transport: Transport) -> Transport:
            ears.append(Eavesdropper(line(transport)))
            return ears[0]

        outcome = run_in_process(agreement, task, sites, key, start=start, wrap=listen)
        return Recorded(outcome, ears[0].heard)

    @cached_property
    def protected(self) -> Recorded:
        """The user's run once more, listened to."""
        return self.repeat()

    @cached_property
    def unprotected(self) -> Recorded:
        """The control: the same seed with neither lock, seal nor noise."""
        return self.repeat(**UNPROTECTED | self.without_noise)

    @property
    def without_noise(self) -> dict[str, Any]:
        """Changes that leave noise for differential privacy out, and the many rounds that it needs.

        Both would only make a file worth less to a thief, so what its lock is worth is seen without them.
        """
        return {} if self.run.privacy is None else {"privacy": None, "rounds": min(self.run.settings["rounds"], 20)}

    def patients(self, n: int) -> list[Recorded]:
        """Repeat the first round with one patient at each site, n times with others: what a listener wants most.

        Returns the protected and the unprotected version in turn.
        """
        recorded = []
        task = with_options(self.task, validation=0.0, batch_size=1)
        for trial in range(n):
            rng = self.rng("patients", trial)
            chosen = {s: a[[int(rng.integers(a.n_obs))]] for s, a in self.sites.items()}
            common: dict[str, Any] = {
                "sites": chosen,
                "task": task,
                "rounds": 1,
                "local_epochs": 1,
                "patience": 0,
                "participation": 1.0,
            }
            recorded += [self.repeat(**common), self.repeat(**common, **UNPROTECTED)]
        return recorded

    @property
    def sealed(self) -> bool:
        """Whether what travels is sealed."""
        return self.run.settings["seal"] != "none"

    @property
    def protection(self) -> str:
        """The run's protections in a few words."""
        s = self.run.settings
        lock = f"lock {s['lock']}" + (f" {s['strength']:g}" if s["lock"] == "field" and s["strength"] != 1 else "")
        return f"{lock}, seal {s['seal']}"
