"""Offers that ask for more than a site should give: code, fewer protections, facts about its data, members that nobody knows."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from infl import __version__
from infl.attacks._kit.consortium import Consortium, Hospital, Lies, accepting, some_of
from infl.attacks._kit.contract import Attack, Attacker, Finding
from infl.data.labels import label_text
from infl.deploy.policy import columns_of
from infl.errors import FederationError, SettingsError
from infl.federation.messages import Consent, Offer
from infl.models.registry import known_tasks, task_class

if TYPE_CHECKING:
    from infl._types import Data
    from infl.attacks._kit.audit_context import AuditContext
    from infl.federation.agreement import Agreement


MOST_CLASSES = 4
"""That are asked for one by one."""


@dataclass
class Tripwire:
    """A module and a folder with a model, which leave a mark when their code runs.

    Attributes
    ----------
    module
        Name of the module; it can be imported while the wire is laid.
    folder
        Folder that looks like a pretrained model with code of its own.
    """

    module: str
    folder: Path

    @property
    def names(self) -> dict[str, str]:
        """All ways to name the code: what was tried, and the text."""
        return {
            "module:function": f"{self.module}:build",
            "module.function": f"{self.module}.build",
            "a module": self.module,
            "a folder": str(self.folder),
            "a file": str(self.folder / f"{self.module}.py"),
            "an address": (self.folder / f"{self.module}.py").as_uri(),
        }

    def ran(self) -> bool:
        """Whether the code ran; forgotten once it was asked for."""
        sys.modules.pop(self.module, None)
        mark = self.folder / "ran"
        ran = mark.exists()
        mark.unlink(missing_ok=True)
        return ran


@contextmanager
def tripwire() -> Iterator[Tripwire]:
    """Lay a tripwire: a module of a random name, found as any installed one is."""
    with tempfile.TemporaryDirectory() as name:
        wire = Tripwire(f"wire_{os.urandom(8).hex()}", Path(name))
        mark = f"open({str(wire.folder / 'ran')!r}, 'w').close()\n"
        body = f"{mark}def build(*args, **kwargs):\n    {mark}    raise RuntimeError\nBuild = Model = build\n"
        (wire.folder / f"{wire.module}.py").write_text(body)
        auto = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), f"{wire.module}.Model")
        (wire.folder / "config.json").write_text(json.dumps({"model_type": wire.module, "auto_map": auto}))
        sys.path.insert(0, name)
        try:
            yield wire
        finally:
            sys.path.remove(name)
            sys.modules.pop(wire.module, None)


def with_code(settings: dict[str, Any], options: dict[str, Any], text: str) -> Iterator[dict[str, Any]]:
    """Yield settings that name code: as the task, the rule, the lock, the seal, the panel, and as each of the task's options.

    Every task that is known here is tried, those of other packages too.
    """
    for name in ("task", "aggregation", "lock", "seal"):
        yield settings | {name: text}
    yield settings | {"panel": settings["panel"] | dict.fromkeys(("base", "backbone", "code"), text)}
    own = settings["task"]
    for task in known_tasks():
        known = [field.name for field in fields(task_class(task))]
        given = options if task == own else {k: v for k, v in options.items() if k in known}
        for option in known:
            if takes(task, option, text):
                yield settings | {"task": task, "options": given | {option: text}}
    yield settings | {"options": options | {"code": text}}


def takes(task: str, option: str, text: str) -> bool:
    """Whether an option of a task could be this text at all; one of a known kind that could not is refused before it is used."""
    kind = task_class(task).parameters.get(option)
    try:
        return kind is None or kind.read(option, text) == text
    except SettingsError:
        return False


def offer(hospital: Hospital, settings: dict[str, Any]) -> Any:
    """Offer a new run with these settings, whether or not they make an agreement, and return the reply.

    The hospital forgets the run, so that the next offer is looked at too.
    """
    reply = hospital.tell(Offer(__version__, json.dumps(settings | {"run": os.urandom(16).hex()}).encode()))
    hospital.forget()
    return reply


def any_column(agreement: Agreement) -> str:
    """Return a policy that takes any task on the columns that tasks look for by default, so that offers get far."""
    named = [replace(agreement, task=task, options={}) for task in known_tasks()]
    columns = set().union(columns_of(agreement), *map(columns_of, named))
    return accepting(agreement, targets=sorted(columns), panels=["*"])


class CodeInOffer(Lies):
    """Offer runs that name code: as a backbone, a base, a rule, a task."""

    name: ClassVar[str] = "code_in_offer"
    quick: ClassVar[bool] = False
    question: ClassVar[str] = "Does an offer make a hospital run code of the coordinator's choice?"
    tried: ClassVar[str] = (
        "Runs are offered that name a module, a file or a folder with code, in every setting of every known task."
    )

    def lies(self, context: AuditContext) -> Iterator[tuple[str, bool]]:
        """Offer the tripwire under all its names, and see whether it was touched."""
        with Consortium(context, policy=any_column) as hospitals, tripwire() as wire:
            settings = json.loads(hospitals.agreement.to_json())
            hospital = hospitals[hospitals.names[0]]
            for what, text in wire.names.items():
                ran = False
                for changed in with_code(settings, settings["options"], text):
                    offer(hospital, changed)
                    ran |= wire.ran()
                yield what, ran
            yield "honest", hospitals[hospitals.names[1]].consents(hospitals.agreement)


class Downgrade(Lies):
    """Offer less protection in words that look like more, and plans under another key or none."""

    name: ClassVar[str] = "downgrade"
    question: ClassVar[str] = "Can the coordinator talk a hospital out of its seal or its lock?"
    tried: ClassVar[str] = (
        "Runs are offered with less protection than the hospital's policy asks for, then plans that name another key."
    )

    def lies(self, context: AuditContext) -> Iterator[tuple[str, bool]]:
        """Offer each downgrade to a hospital of its own, then send plans for other keys."""
        offers: dict[str, dict[str, Any]] = {
            "no seal": {"seal": "none"},
            "no seal and no key": {"seal": "none", "lock": "none", "strength": 0.0, "fingerprint": "", "key_version": 0},
            "a seal without a key": {"fingerprint": "", "key_version": 0},
            "a seal with a key's version alone": {"fingerprint": ""},
            "a seal of another name": {"seal": "grouped"},
            "another key": {"fingerprint": "0" * 16},
            "no lock": {"lock": "none", "strength": 0.0},
            "a lock of no strength": {"strength": 0.0},
            "sums of two": {"min_sites": 2 if context.run.settings["min_sites"] > 2 else 1},
            "sums of none": {"min_sites": 0},
            "another seal": {"seal": "group"},
        }  # fmt: skip
        if context.run.settings["privacy"] is not None:
            dp = context.run.settings["privacy"]
            offers |= {
                "no noise": {"privacy": None},
                "less noise under the same ε": {"privacy": dp | {"noise_multiplier": 1e-6}},
            }
        with Consortium(context) as hospitals:
            settings = json.loads(hospitals.agreement.to_json())
            for what, changes in offers.items():
                if settings | changes != settings:
                    yield what, isinstance(offer(hospitals[hospitals.names[0]], settings | changes), Consent)
        with Consortium(context) as hospitals:
            plan = hospitals.until("train", 1)[hospitals.names[0]]
            hospital = hospitals[hospitals.names[0]]
            yield "a plan without a key", hospital.does(replace(plan, key_version=0, fingerprint=""))
            yield "a plan under another version", hospital.does(replace(plan, key_version=plan.key_version + 1))
            yield "a plan with another agreement", hospital.does(replace(plan, agreement="0" * 64))
            yield "honest", hospital.does(plan)


class GhostMembers(Lies):
    """With a hospital's ring, run members that do not exist: two of them and the helper make a sum of three with the victim."""

    name: ClassVar[str] = "ghost_members"
    quick: ClassVar[bool] = False
    against: ClassVar[Attacker] = Attacker.COLLUSION
    question: ClassVar[str] = "Does a hospital take part with members that the key holder never named?"
    tried: ClassVar[str] = "A coordinator and a hospital with the ring run the other members of a run themselves."

    def lies(self, context: AuditContext) -> Iterator[tuple[str, bool]]:
        """Have one real hospital train with ghosts, whose ring is real and whom the key holder granted nothing."""
        data = some_of(context)
        first, *others = data
        ghosts = {first: data[first], others[0]: data[others[0]]}
        ghosts |= {f"ghost_{k}": data[others[0]] for k in range(1, max(len(data) - 1, 2))}
        lies: dict[str, tuple[dict[str, Data], tuple[str, ...] | None]] = {
            "honest": (data, None),
            "ghosts beside a helper": (ghosts, (first, others[0])),
            "ghosts alone": (ghosts, (first,)),
        }
        for what, (cast, members) in lies.items():
            with Consortium(context, cast, members=members) as hospitals:
                victim = hospitals[first]
                yield what, victim.consents(hospitals.agreement) and self._trains(hospitals, first)

    @staticmethod
    def _trains(hospitals: Consortium, victim: str) -> bool:
        """Whether the victim sends an update."""
        with suppress(FederationError):
            due = hospitals.until("train", 1)
            return victim in due and hospitals[victim].does(due[victim])
        return False


class DataProbe(Attack):
    """Offer runs whose classes leave one out: a hospital that has it would decline, one that has not would accept."""

    name: ClassVar[str] = "data_probe"
    against: ClassVar[Attacker] = Attacker.DEVIATING
    question: ClassVar[str] = "Does a hospital's yes or no to an offer reveal which values a column has?"

    def applies(self, context: AuditContext) -> bool:
        """Whether there are classes to ask for."""
        tables = all(hasattr(adata, "X") for adata in context.sites.values())
        return len(context.panel.get("classes", [])) > 2 and tables and context.sealed and len(context.sites) > 2

    def run(self, context: AuditContext) -> list[Finding]:
        """Compare what hospitals with and without a value reply, under the default policy; control: one that asks nobody."""
        default, n = self._told(context, lambda agreement: "")
        listed, _ = self._told(context, accepting)
        alone, _ = self._told(context, lambda agreement: accepting(agreement, panels=["*"]))
        return [
            Finding(
                metric="share of offers whose reply tells who has a value",
                value=max(default, listed),
                low=max(default, listed),
                high=max(default, listed),
                chance=0.0,
                control=alone,
                promised=True,
                margin=0.1,
                note=f"{n} offers leave one class out, and go to a hospital with patients of that class and to one without. By default "
                "a person is asked, except for panels that the policy lists, so every reply is the same line. Control: a policy "
                "that asks nobody and accepts any panel; its yes or no reveals the class.",
            )
        ]

    def _told(self, context: AuditContext, policy: Callable[[Agreement], str]) -> tuple[float, int]:
        """Return for which share of the offers two hospitals, which differ by one class alone, reply differently."""
        different, classes = [], list(context.panel["classes"])
        for left_out in classes[:MOST_CLASSES]:
            data = some_of(context)
            name, adata = next(iter(data.items()))
            has = np.zeros(adata.n_obs, dtype=bool)
            for column in columns_of(context.run.model.header):
                has |= label_text(adata.obs[column]) == left_out
            if not has.any() or has.all():
                continue
            replies = []
            for kept in (adata, adata[~has].copy()):
                with Consortium(context, data | {name: kept}, policy=policy) as hospitals:
                    settings = json.loads(hospitals.agreement.to_json())
                    settings["panel"] |= {"classes": [c for c in classes if c != left_out]}
                    replies.append(type(offer(hospitals[name], settings)))
            different.append(replies[0] is not replies[1])
        return float(np.mean(different)) if different else 0.0, len(different)
