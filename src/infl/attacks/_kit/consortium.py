"""Hospitals as a lying coordinator meets them: bytes go in, bytes come back, and nothing else.

Each hospital is what runs there between machines: a site folder with files of its own, a ring that the key holder granted, a policy,
and the worker that answers. They have some patients of the audited run's sites, and agree to its settings.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from infl import __version__
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.deploy.policy import columns_of
from infl.deploy.site_data import SiteSettings
from infl.deploy.site_folder import SiteFolder
from infl.deploy.site_worker import SiteWorker
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Coordinator, Progress
from infl.federation.initial import build_flat_model
from infl.federation.messages import Answer, Consent, Offer, Plan, Total, Trouble, linked
from infl.federation.programme import Programme
from infl.federation.wire import decode, encode
from infl.keys import Identity, Keyring
from infl.models.registry import known_tasks
from infl.privacy.seal import MaskedArrays, add

if TYPE_CHECKING:
    from types import TracebackType

    from infl._types import Data
    from infl.attacks._kit.audit_context import AuditContext
    from infl.federation.messages import Reply
    from infl.federation.site import Site

MOST_OBS, MOST_SITES = 32, 4


class _ReachedError(Exception):
    """The coordinator is where the attacker wants it."""


@dataclass
class Hospital:
    """One hospital's machine.

    Parameters
    ----------
    site_folder
        Its folder.
    """

    site_folder: SiteFolder
    site: Site | None = None
    finished: bool = False
    log: list[str] = field(default_factory=list)
    """What the people at the hospital can read, and the coordinator cannot."""
    _back: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        """Begin as the program at the hospital does."""
        name = self.site_folder.settings.name
        self._worker = SiteWorker(name, self._prepare, self._back.append, finish=self._finish, note=self.log.append)

    def _prepare(self, agreement: Agreement) -> Site:
        self.site = self.site_folder.prepare(agreement)
        return self.site

    def _finish(self, site: Site) -> None:
        self.finished = True
        self.site_folder.finish(site)

    def tell(self, message: Any) -> Any:
        """Send a message as bytes; return what comes back, read from bytes (None: nothing)."""
        self._back.clear()
        self._worker.answer(encode(message))
        return decode(self._back[-1]) if self._back else None

    def close(self) -> None:
        """Close the files."""
        if self.site is not None and self.site.ledger is not None:
            self.site.ledger.close()

    def forget(self) -> None:
        """Start anew, as if nothing had been offered."""
        self.close()
        shutil.rmtree(self.site_folder.home / "runs", ignore_errors=True)
        self._start()

    def consents(self, agreement: Agreement) -> bool:
        """Whether the hospital takes part when it is offered a run."""
        return isinstance(self.tell(Offer(__version__, agreement.to_json().encode())), Consent)

    def does(self, message: Any) -> bool:
        """Whether it does as a message says."""
        reply = self.tell(message)
        return reply is not None and not isinstance(reply, Trouble)


class Consortium:
    """Several hospitals, and a coordinator that the attacker leads up to any point of the run.

    Parameters
    ----------
    context
        The run under audit.
    sites
        Other data (None: some observations of the run's sites).
    policy
        Lines of the hospitals' policies (None: those that accept the run without asking a person).
    members
        Names of those to whom the key holder granted the key (None: all).
    changes
        To the run's settings.
    """

    def __init__(
        self,
        context: AuditContext,
        sites: Mapping[str, Data] | None = None,
        *,
        policy: Callable[[Agreement], str] | None = None,
        members: tuple[str, ...] | None = None,
        **changes: Any,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.ring = Keyring.create()
        data = some_of(context) if sites is None else sites
        self.task = changes.pop("task", context.task)
        settings = replace(context.settings, rounds=3, patience=0, participation=1.0)
        if settings.seal == "group" and settings.privacy is not None and settings.privacy.noise == "distributed":
            settings = replace(
                settings, seal="pairwise"
            )  # as hospitals want it: members open single shares of a group's seal
        panel = context.panel | ({"sites": list(data)} if "sites" in context.panel else {})
        self.agreement = Agreement.new(self.task, panel, data, self.ring, settings, **changes)
        shared = build_flat_model(self.task, self.agreement).shared
        self.exchanges = Programme(self.task, self.agreement, shared).exchanges
        self.progress = Progress()
        self.heard: dict[tuple[int, str], MaskedArrays] = {}
        """What a hospital last sent in an exchange."""
        self.transcript: list[tuple[Any, ...]] = []
        """Of each honest plan: to whom, for what, and what of the reply can be seen."""
        self._change: Callable[[str, Plan], Plan] = lambda name, plan: plan
        """What becomes of an honest plan on its way to a hospital."""
        self._until: tuple[str, int] = ("", 0)
        self.plans: dict[str, Plan] = {}
        lines = (policy or accepting)(self.agreement)
        identities = {name: Identity.create() for name in data}
        for name in data if members is None else members:
            self.ring.grant(name, identities[name])
        self.hospitals = {name: self._hospital(name, adata, identities[name], lines) for name, adata in data.items()}

    def __enter__(self) -> Consortium:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hospital in self.hospitals.values():
            hospital.close()
        self._folder.cleanup()

    def __getitem__(self, name: str) -> Hospital:
        return self.hospitals[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the hospitals, in order."""
        return self.agreement.sites

    def _hospital(self, name: str, adata: Data, identity: Identity, policy: str) -> Hospital:
        home = Path(self._folder.name) / name
        home.mkdir()
        paths = [
            home / "data.h5mu" if hasattr(adata, "mod") else home / "data.h5ad",
            home / "ring.key",
            home / "me.key",
        ]
        if not hasattr(adata, "mod"):  # what the run does not read need not be fit to be written
            adata = adata.copy()
            adata.obs = adata.obs[[c for c in adata.obs if c in columns_of(self.agreement)]]
            adata.uns = {name: value for name, value in adata.uns.items() if isinstance(value, np.ndarray)}
        adata.write(paths[0])
        identity.save(paths[2])
        self.ring.only(self.ring.current).save(paths[1], recipients=[identity.public])
        (home / "policy.toml").write_text(policy)
        site_folder = SiteFolder(home)
        site_folder.save_settings(SiteSettings(name, *map(str, paths)))
        return Hospital(site_folder)

    # -- the honest coordinator ------------------------------------------------------------------------------------
    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        """Send plans, as a transport does; stop where the attacker begins."""
        plans = {name: plan_for(name) for name in cohort}
        first = next(iter(plans.values()))
        if (first.kind, first.round) == self._until:
            self.plans = plans
            raise _ReachedError
        for name, plan in plans.items():
            reply = self[name].tell(self._change(name, plan))
            self.transcript.append((name, plan.kind, plan.seq, plan.attempt, *seen(reply)))
            if isinstance(reply, Answer):
                self.heard[plan.seq, name] = reply.words.copy()
            if reply is not None and not isinstance(reply, Trouble):
                yield reply

    def holder(self, site: str) -> str:
        """Every hospital has a replica of its own."""
        return site

    def offer(self) -> bool:
        """Offer the run as it was agreed; whether all take part."""
        accepted = [hospital.consents(self.agreement) for hospital in self.hospitals.values()]
        return all(accepted)

    def lie_by(self, change: Callable[[str, Plan], Plan]) -> None:
        """Tell sites from now on what `change` makes of a site's plan."""
        self._change = change

    def until(self, kind: str, round: int = 0) -> dict[str, Plan]:
        """Lead the run honestly up to an exchange, and return the plans that are due; nobody has got them."""
        if self.progress.seq == 0:
            self.offer()
        self._until = (kind, round)
        coordinator = Coordinator(self.agreement, self.exchanges, self, progress=self.progress, between_machines=True)
        try:
            for _ in coordinator.run():
                self.progress = coordinator.progress
        except _ReachedError:
            return self.plans
        finally:
            self._until = ("", 0)
        return {}

    def go_on_from(self, total: Total) -> None:
        """Say that the last sum was another one."""
        replica = self[self.names[0]].site.replica  # type: ignore[union-attr]
        chain = self.progress.chain and linked(replica.chain, replica.context(total), total)
        self.progress = replace(self.progress, totals=(*self.progress.totals[:-1], total), chain=chain)

    def sum_of(self, total: Total, names: tuple[str, ...], *, of_all: bool = False) -> Total:
        """Return what a coordinator can say that the sum of an exchange was: that of some of the answers.

        With `of_all` it keeps what is to be opened of all hospitals only.
        """
        words = None
        for name in names:
            words = add(words, self.heard[total.seq, name])
        assert words is not None
        whole = of_all or names == total.cohort
        return replace(total, responders=names, words=words if whole else words.of_some())


def seen(reply: Any) -> tuple[str, int]:
    """Return what of a reply is not sealed: what it is, and how long."""
    return type(reply).__name__, 0 if reply is None else len(encode(reply))


def some_of(context: AuditContext) -> dict[str, Data]:
    """Return some observations of the first sites, under names that enrolment takes."""
    rng, chosen = context.rng("hospitals"), {}
    few = list(context.sites.values())[: max(MOST_SITES, context.run.settings["min_sites"])]
    for number, adata in enumerate(few, 1):
        rows = sorted(rng.choice(adata.n_obs, min(MOST_OBS, adata.n_obs), replace=False))
        chosen[f"site_{number}"] = adata[rows].copy()
    return chosen


def accepting(agreement: Agreement, **others: Any) -> str:
    """Return a policy that asks no person about this panel, and accepts runs with these protections alone."""
    a, dp = agreement, agreement.dp
    lines = {
        "ask": False,
        "targets": sorted(columns_of(agreement)),
        "panels": [a.panel_digest],
        "min_sites": a.min_sites,
        "min_holders": 1,  # of the few observations that are chosen, one hospital alone may have a class
        "max_rounds": max(a.rounds, 1),
        "seals": [a.seal],
        "locks": [a.lock],
        "min_strength": a.strength,
    }
    if dp is not None and dp.epsilon and dp.delta:
        lines |= {"max_epsilon": dp.epsilon, "max_delta": dp.delta}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in (lines | others).items())


class Lies(Attack):
    """Base of attacks by lies: each of them worked or not, beside what the hospitals do when they are sent the truth."""

    against: ClassVar[Attacker] = Attacker.DEVIATING
    quick: ClassVar[bool] = True
    tried: ClassVar[str]
    """What was tried, in plain words."""

    def applies(self, context: AuditContext) -> bool:
        """Whether there is a seal to get around, and hospitals can be set up for the run's task."""
        return context.sealed and len(context.sites) > 2 and context.task.name in known_tasks()

    @abstractmethod
    def lies(self, context: AuditContext) -> Iterator[tuple[str, bool]]:
        """Tell each lie; yield what it was, and whether it worked. What is true is called ``"honest"``."""

    def run(self, context: AuditContext) -> list[Finding]:
        """Tell all lies to real sites."""
        tried = list(self.lies(context))
        honest = [worked for what, worked in tried if what == "honest"]
        lies = {what: worked for what, worked in tried if what != "honest"}
        share, worked = sum(lies.values()) / len(lies), [what for what, yes in lies.items() if yes]
        came = f"Worked: {', '.join(worked)}." if worked else "None worked."
        return [
            Finding(
                metric="share of lies that worked",
                value=share,
                low=share,
                high=share,
                chance=0.0,
                control=sum(honest) / len(honest),
                promised=True,
                margin=0.0,
                note=f"{self.tried} {len(lies)} lies: {', '.join(lies)}. {came} Control: what is true, and due.",
            )
        ]
