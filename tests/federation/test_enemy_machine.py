"""A machine plays coordinator and network against real sites, by any message in any order, and looks for what must not happen.

Two worlds get the same script: their sites have data of one shape, and what can be seen of them must not differ. Each fault of
old, put back, is found. Short here; `make fuzz` plays for longer (INFL_ENEMY_STEPS).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from torch import Tensor, nn

from infl.errors import InflError, SealError
from infl.federation.agreement import Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.membership import Membership
from infl.federation.messages import END_KIND, KEYS_KIND, REPLAY_KIND, REVEAL_KIND, Answer, Key, Plan, Reveal, Total
from infl.federation.programme import Programme
from infl.federation.replica import Replica
from infl.federation.site import Site
from infl.federation.wire import decode, encode
from infl.keys import Identity, Keyring
from infl.models.task import SiteData, Sums, Task
from infl.privacy.seal import Context, GroupSeal, Ledger, MaskedArrays, NoSeal, PairwiseSite, add, uncover
from infl.privacy.seal.reveal import mask
from infl.sums.lanes import UPPER, join_sums

SITES = ("a", "b", "c", "d")
MIN_SITES = 3
LISTS = (SITES, SITES, SITES, SITES[1:], SITES[:-1], SITES[:2])
STEPS = int(os.environ.get("INFL_ENEMY_STEPS", "0"))
"""In `make fuzz`: how many steps to play; 0 plays for a few seconds."""


# -- a task of three numbers ---------------------------------------------------------------------------------------------
class Points(SiteData):
    def __init__(self, x: np.ndarray) -> None:
        self.x = torch.from_numpy(x).float()
        self.train, self.validation = np.arange(len(x) - 1), np.arange(len(x) - 1, len(x))

    def batch(self, index: np.ndarray) -> tuple[Tensor]:
        return (self.x[index],)


class Center(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(3))


@dataclass(frozen=True)
class Three(Task):
    """Three numbers, near the mean of all points. Trained anew after a start they differ, as on another processor."""

    name: ClassVar[str] = "three"

    def agree(self, sites: Any) -> dict[str, Any]:
        return {"features": ["x", "y", "z"]}

    def read(self, adata: Any, panel: Any, *, site: str, rng: Any = None, keyless: bool = False) -> Points:
        return Points(adata)

    def build(self, panel: Any) -> Center:
        return Center()

    def losses(self, module: Any, batch: tuple[Tensor]) -> Tensor:
        return (batch[0] - module.at).square().sum(1) * (1 + int.from_bytes(os.urandom(2)) / 2**16)

    def metric_shapes(self, panel: Any) -> dict[str, tuple[int, ...]]:
        return {"loss": (), "n": ()}

    def evaluate(self, module: Any, data: Any, index: np.ndarray) -> Sums:
        loss = (data.x[index] - module.at).square().sum()
        return {"loss": loss.detach().double().numpy(), "n": np.asarray(float(len(index)))}

    def summarise(self, sums: Sums) -> dict[str, float]:
        return {"loss": float(sums["loss"] / sums["n"])}

    def infer(self, module: Any, data: Any, private: Sums) -> dict[str, np.ndarray]:
        raise AssertionError("enemies and sites exchange messages; no model is applied")

    def write(self, adata: Any, outputs: Any, panel: Any, *, key_added: str) -> None:
        raise AssertionError("enemies and sites exchange messages; nothing is written")


TASK = Three(lr=0.1, batch_size=4)


# -- one world -----------------------------------------------------------------------------------------------------------
class World:
    """Four sites with files of their own, and what a coordinator, one conspirator and whoever carries messages know of them."""

    def __init__(self, size: float, patches: dict[str, Any]) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        rng = np.random.default_rng(0)
        self.data = {name: rng.normal(size=(5 + k, 3)) * size for k, name in enumerate(SITES)}
        self.key, self.identities = Keyring.create(), {name: Identity.create() for name in SITES}
        for name, identity in self.identities.items():
            self.key.grant(name, identity)
        common: dict[str, Any] = {"rounds": 2, "seal": "pairwise", "lock": None, "min_sites": MIN_SITES}
        self.agreement = Agreement.new(TASK, TASK.agree({}), SITES, self.key, **common)
        self.kind: type[Site] = patches.get("site", Site)
        self.patches = patches
        self.sites: dict[str, Site] = {}
        self.peers: dict[str, bytes] = {}
        self.heard: dict[bytes, dict[str, Answer]] = {}
        self.contexts: dict[bytes, Context] = {}
        self.of: dict[tuple[int, int], list[bytes]] = {}
        self.given: dict[tuple[bytes, tuple[str, ...]], list[Any]] = {}
        self.opened: dict[int, dict[tuple[bytes, tuple[str, ...]], MaskedArrays]] = {}
        self.sent: dict[tuple[str, bytes], bytes] = {}
        self.sealed: tuple[Context, bytes, MaskedArrays] | None = None
        self.faults: list[str] = []
        for name in SITES:
            (self.folder / name).mkdir()
            self.start(name)
        programme: Programme = self.sites["a"].replica.programme
        self.exchanges = programme.exchanges

    def close(self) -> None:
        for site in self.sites.values():
            if site.ledger is not None:
                site.ledger.close()
        shutil.rmtree(self.folder)

    def start(self, name: str) -> None:
        """Begin as the program at a site does, from its files."""
        if name in self.sites and self.sites[name].ledger is not None:
            self.sites[name].ledger.close()  # type: ignore[union-attr]
        replica = Replica(self.agreement, self.key, TASK)
        store = Checkpoint(self.folder / name)
        ledger = None if self.patches.get("ledger") is False else Ledger(store.ledger_path(name), bytes(32))
        member = Membership.of(name, self.identities[name], SITES, self.key.trail)
        site = self.kind(
            name,
            self.data[name],
            replica,
            ledger,
            membership=member,
            on_change=lambda s: store.save_sites(s.replica, {name: s}),
        )  # type: ignore[arg-type]
        store.restore_sites(replica, {name: site})
        self._watch(replica)
        self.sites[name] = site
        reply = self._handle(name, self._plan(0, KEYS_KIND, 0, 0, (), lanes=(0, 2, 0)))
        if isinstance(reply, Key):
            self.peers = self.peers | {name: reply.public}

    def _watch(self, replica: Replica) -> None:
        """Note what is sealed, and which sums are applied."""
        seal, apply = replica.seal.seal, replica._apply
        if self.patches.get("seal"):
            seal = self.patches["seal"](min_sites=MIN_SITES).seal

        def watched(context: Context, name: str, vector: Any, sums: Any, packing: Any, **others: Any) -> MaskedArrays:
            words = seal(context, name, vector, sums, packing, **others)
            plain = NoSeal().seal(context, name, vector, sums, packing, **others | {"ledger": None})
            self.sealed = context, name.encode(), plain
            return words

        def applied(total: Total) -> Context:
            context = apply(total)
            if len(set(total.responders)) < MIN_SITES:
                self.faults.append(f"a sum of {total.responders} was opened")
            return context

        replica.seal.seal, replica._apply = watched, applied  # type: ignore[method-assign]

    # -- messages ----------------------------------------------------------------------------------------------------
    def _plan(self, seq: int, kind: str, round: int, attempt: int, previous: tuple[Total, ...], **others: Any) -> Plan:
        a = self.agreement
        known = {"cohort": SITES, "lanes": (0, 2, 0), "peers": self.peers} | others
        return Plan(
            run=a.run, seq=seq, kind=kind, round=round, attempt=attempt, agreement=a.digest, key_version=a.key_version,
            fingerprint=a.fingerprint, previous=previous, **known,
        )  # fmt: skip

    def plan(self, seq: int, attempt: int) -> Plan:
        """Return the plan of an exchange."""
        due = self.exchanges[seq]
        return self._plan(seq, due.kind, due.round, attempt, (), lanes=due.packing.lanes)

    def _handle(self, name: str, plan: Plan) -> Any:
        try:
            reply = self.sites[name].handle(decode(encode(plan)))
        except InflError:
            return "refused"
        except Exception as error:  # noqa: BLE001 - a site says no more of it, and the people there have a defect to report
            if not self.patches:
                self.faults.append(f"{name} stumbled over {plan.kind!r}: {error!r}")
            return "refused"
        return None if reply is None else decode(encode(reply))

    def tell(self, name: str, plan: Plan) -> tuple[str, int]:
        """Send a plan, as bytes; note all that can be learned, and return what anybody sees of the reply."""
        self.sealed, site = None, self.sites[name]
        context = site.replica.context(plan) if plan.kind.startswith(REVEAL_KIND) else None
        reply = self._handle(name, plan)
        self._compare(name, plan, reply)
        if isinstance(reply, Answer):
            self._note_answer(name, plan, reply)
        if isinstance(reply, Reveal) and context is not None:
            self.contexts[context.digest()] = context
            self.given.setdefault((context.digest(), plan.answered), []).append(reply.revealed)
            self._look(plan.seq, context, plan.answered)
        return (
            (reply, 0) if isinstance(reply, str) else (type(reply).__name__, 0 if reply is None else len(encode(reply)))
        )

    def _compare(self, name: str, plan: Plan, reply: Any) -> None:
        """Note what a site does that is not due: the programme is a list, and the site knows how far it has come."""
        at = self.sites[name].replica.seq + 1
        if reply is None and at < len(self.exchanges):
            self.faults.append(f"{name} ended the run before exchange {at}")
        if isinstance(reply, Answer | Reveal):
            asked = (plan.seq, plan.kind.removeprefix(REVEAL_KIND), plan.round, plan.cohort, plan.lanes)
            known = self.exchanges[at] if at < len(self.exchanges) else None
            due = known and (at, known.kind, known.round, SITES, known.packing.lanes)
            if asked != due or (plan.run, plan.fingerprint) != (self.agreement.run, self.agreement.fingerprint):
                self.faults.append(f"{name} did what is not due: {asked[:3]}, due is {due and due[:3]}")

    def _note_answer(self, name: str, plan: Plan, reply: Answer) -> None:
        assert self.sealed is not None
        context, _, plain = self.sealed
        digest = context.digest()
        for lane, clear in (
            (reply.words.low, plain.low),
            (reply.words.high[:-2], plain.high[:-2]),
            (reply.words.of_all[:-2], plain.of_all[:-2]),
        ):
            if (lane == clear).any():
                self.faults.append(f"{name} sent {plan.kind!r} in the clear")
        before = self.sent.setdefault((name, digest), plain.digest().encode())
        if before != plain.digest().encode():
            self.faults.append(f"{name} sent two plaintexts under one mask, for {plan.kind!r}")
        self.heard.setdefault(digest, {})[name] = reply
        self.contexts[digest] = context
        known = self.of.setdefault((plan.seq, plan.attempt), [])
        if digest not in known:
            known.append(digest)

    def _look(self, seq: int, context: Context, answered: tuple[str, ...]) -> None:
        """Try to open a sum, as coordinator and conspirator would."""
        words = self.sum_of(context.digest(), answered)
        if words is None:
            return
        with suppress(InflError):
            given = self.given[context.digest(), answered]
            words = uncover(context, words, given, answered)
            replica = Replica(self.agreement, self.key, TASK)
            replica.seal.min_sites = 1
            packing = self.exchanges[seq].packing
            if answered != SITES:
                self._look_at_the_rest(replica, context, answered, words)
                words = words.of_some()
            replica.seal.unseal(replace(context, packing=packing.digest()), answered, words, packing)
            self.opened.setdefault(seq, {})[context.digest(), answered] = words
        if len({names for _, names in self.opened.get(seq, {})}) > 1:
            self.faults.append(f"two sums of exchange {seq} were opened: {[n for _, n in self.opened[seq]]}")

    def _look_at_the_rest(
        self, replica: Replica, context: Context, answered: tuple[str, ...], words: MaskedArrays
    ) -> None:
        """Try to open what is opened of all sites only, of some, as who keeps it and has the ring would."""
        if len(words.of_all):
            with suppress(SealError):
                replica.seal._open(context, [SITES.index(site) for site in answered], words.copy())
                self.faults.append(f"metrics of {answered} were opened, in {context.kind!r}")

    def sum_of(self, digest: bytes, names: tuple[str, ...]) -> MaskedArrays | None:
        words = None
        for name in names:
            if name not in self.heard.get(digest, {}):
                return None
            words = add(words, self.heard[digest][name].words)
        return words

    def forged(self, name: str, value: float, names: tuple[str, ...]) -> Plan | None:
        """Return a plan that brings a site a made-up sum of the exchange that it waits for."""
        replica = self.sites[name].replica
        if (due := replica.due) is None:
            return None
        seq, packing, words = replica.seq + 1, replica.packing, None
        plan = self.plan(seq, 0)
        arrays = {f.name: np.zeros(f.shape) for f in packing.fields if f.bits == 64 and not f.name.endswith(UPPER)}
        arrays = {key: array + (2.0 if key in ("n", "metric.n") else 0.0) for key, array in arrays.items()}
        seal = GroupSeal(replica.seal_secret, min_sites=1)
        for number, site in enumerate(names):
            first = float(number == 0)
            vector, sums = np.full(packing.n32, value * first), first * join_sums(arrays, packing)
            words = add(words, seal.seal(replica.context(plan), site, vector, sums, packing, share=first))
        assert words is not None
        words = words if names == SITES else words.of_some()
        total = Total(seq, due.kind, due.round, 0, SITES, names, words, plan.epochs)
        return self._plan(seq + 1, REPLAY_KIND, 0, 0, (total,))

    def total(self, seq: int, attempt: int, names: tuple[str, ...], keep: bool = False) -> Total | None:
        """Return a sum of an exchange: opened if it can be, else with its pairwise masks on it; None if nobody sent anything.

        With `keep`, a sum of some sites has what is opened of all only, too.
        """
        due = self.exchanges[seq]
        for digest in reversed(self.of.get((seq, attempt), [])):
            words = self.opened.get(seq, {}).get((digest, names)) or self.sum_of(digest, names)
            if words is not None:
                words = words if names == SITES or keep else words.of_some()
                return Total(seq, due.kind, due.round, attempt, SITES, names, words, self.contexts[digest].epochs)
        return None


# -- the machine ---------------------------------------------------------------------------------------------------------
names, seqs, attempts, lists = st.sampled_from(SITES), st.integers(0, 3), st.integers(0, 1), st.sampled_from(LISTS)
LIES: dict[str, Callable[[Plan], Plan]] = {
    "none": lambda p: p,
    "early end": lambda p: replace(p, kind=END_KIND, round=0),
    "another round": lambda p: replace(p, round=p.round + 1),
    "training for judging": lambda p: replace(p, kind="judge", round=0),
    "another number": lambda p: replace(p, seq=p.seq + 1),
    "without a neighbour": lambda p: replace(p, cohort=p.cohort[1:]),
    "shorter": lambda p: replace(p, lanes=(0, *p.lanes[1:])),
    "another key": lambda p: replace(p, fingerprint=""),
    "another run": lambda p: replace(p, run="0" * 32),
}


class Enemies(RuleBasedStateMachine):
    """Every action is done in both worlds, and must look alike."""

    patches: ClassVar[dict[str, Any]] = {}

    @initialize()
    def begin(self) -> None:
        self.worlds = [World(size, self.patches) for size in (1.0, 1e9)]
        self.told: list[tuple[str, list[Plan]]] = []

    def teardown(self) -> None:
        for world in getattr(self, "worlds", ()):
            world.close()

    def _tell(self, name: str, plans: list[Plan | None]) -> None:
        if any(plan is None for plan in plans):
            assert plans[0] is plans[1] is None, "one world has heard what the other has not"
            return
        known = [plan for plan in plans if plan is not None]
        self.told.append((name, known))
        seen = [world.tell(name, plan) for world, plan in zip(self.worlds, known, strict=True)]
        assert seen[0] == seen[1], f"what is seen of {name} depends on its data: {seen}"

    @rule(name=names, seq=seqs, attempt=attempts, lie=st.sampled_from(sorted(LIES)))
    def ask(self, name: str, seq: int, attempt: int, lie: str = "none") -> None:
        self._tell(name, [LIES[lie](world.plan(seq, attempt)) for world in self.worlds])

    @rule(name=names, seq=seqs, attempt=attempts, answered=lists)
    def reveal(self, name: str, seq: int, attempt: int, answered: tuple[str, ...]) -> None:
        plans: list[Plan | None] = []
        for world in self.worlds:
            plan, known = world.plan(seq, attempt), world.of.get((seq, attempt), [])
            heard = world.heard[known[-1]] if known else {}
            shares = {sender: a.shares[name] for sender, a in heard.items() if name in a.shares and sender in answered}
            plans.append(replace(plan, kind=REVEAL_KIND + plan.kind, answered=answered, shares=shares))
        self._tell(name, plans)

    @rule(name=names, seq=seqs, attempt=attempts, responders=lists, keep=st.booleans())
    def give(self, name: str, seq: int, attempt: int, responders: tuple[str, ...], keep: bool = False) -> None:
        plans: list[Plan | None] = []
        for world in self.worlds:
            total = world.total(seq, attempt, responders, keep)
            plans.append(None if total is None else world._plan(seq + 1, REPLAY_KIND, 0, 0, (total,)))
        self._tell(name, plans)

    @rule(attempt=attempts, answered=st.sampled_from(LISTS[:5]), told=st.booleans())
    def honest(self, attempt: int, answered: tuple[str, ...], told: bool) -> None:
        """Do the next exchange, as a coordinator would whose sites are there, or one of them lost; tell its sum, or not."""
        seq = min(site.replica.seq for site in self.worlds[0].sites.values()) + 1
        if seq >= len(self.worlds[0].exchanges):
            return
        for name in answered:
            self.ask(name, seq, attempt, "none")
        for name in answered:
            self.reveal(name, seq, attempt, answered)
        for name in SITES if told else ():
            self.give(name, seq, attempt, answered)

    @rule(name=names, value=st.sampled_from((0.0, 1.0)), responders=lists)
    def forge(self, name: str, value: float, responders: tuple[str, ...]) -> None:
        """Give a site a sum that the conspirator made: whoever has the ring can seal for all."""
        self._tell(name, [world.forged(name, value, responders) for world in self.worlds])

    @rule(which=st.integers(0, 2**16), name=names)
    def replay(self, which: int, name: str) -> None:
        if self.told:
            _, plans = self.told[which % len(self.told)]
            self._tell(name, list(plans))

    @rule(name=names)
    def restart(self, name: str) -> None:
        for world in self.worlds:
            world.start(name)

    @invariant()
    def nothing_is_wrong(self) -> None:
        for world in getattr(self, "worlds", ()):
            assert not world.faults, world.faults[0]
            models: dict[tuple[int, str], bytes] = {}
            for site in world.sites.values():
                r = site.replica
                known = models.setdefault((r.seq, r.chain), r.theta.numpy().tobytes())
                assert known == r.theta.numpy().tobytes(), "two models with one history"


def play(machine: type[Enemies], examples: int, steps: int, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    quiet = settings(
        max_examples=examples, stateful_step_count=steps, derandomize=not STEPS, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False, phases=phases,
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=quiet)


def test_enemies_get_nothing() -> None:
    play(Enemies, *((-(-STEPS // 50), 50) if STEPS else (25, 12)))


def test_a_restored_backup_seals_nothing_under_old_masks() -> None:
    """What a site sent after its backup was made is in no file of it any more; trained anew it is not the same."""
    machine = Enemies()
    machine.begin()
    try:
        machine.honest(0, SITES, True)
        for world in machine.worlds:
            shutil.copytree(world.folder / "a", world.folder / "backup")
        machine.ask("a", 1, 0)
        for world in machine.worlds:
            world.sites["a"].ledger.close()  # type: ignore[union-attr]
            shutil.rmtree(world.folder / "a")
            shutil.move(world.folder / "backup", world.folder / "a")
            world.start("a")
        machine.ask("a", 1, 0)
        assert all(world.heard for world in machine.worlds)
        machine.nothing_is_wrong()
    finally:
        machine.teardown()


def test_a_restored_backup_does_without_epochs() -> None:
    """The control of the test above."""
    with one_epoch(), pytest.raises(AssertionError, match="two plaintexts under one mask"):
        test_a_restored_backup_seals_nothing_under_old_masks()


# -- each old fault, put back, is found ----------------------------------------------------------------------------------
class Refusing(Site):
    """Says that its values are out of range, by saying nothing."""

    def _values(self, plan: Plan) -> Any:
        update, arrays, weight = super()._values(plan)
        if plan.kind == "train" and float(arrays["train_loss"]) > 1e6:
            raise SealError("out of range")
        return update, arrays, weight


class Forgetful(Site):
    """Remembers no reveal."""

    def _handle(self, plan: Plan) -> Any:
        self.revealed, self._given, self.answering._revealed = (-1, 0, ""), None, {}
        return super()._handle(plan)

    def _has_opened(self, plan: Plan) -> bool:
        return False


class Blind(Site):
    """Applies any sum, however few are in it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.replica.seal.min_sites = 1
        fault = self.replica.programme.fault
        of_sums = lambda asked, due: "" if isinstance(asked, Total) else fault(asked, due)  # noqa: E731
        object.__setattr__(self.replica.programme, "fault", of_sums)


class Obedient(Site):
    """Does what a plan says, as a site of version 0.1."""

    def _check_due(self, plan: Plan) -> None:
        pass


@contextmanager
def unchained() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("infl.federation.replica.linked", lambda *_: "")
        yield


@contextmanager
def any_list() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("infl.privacy.seal.pairwise.threshold", lambda n: 1)
        patch.setattr("infl.privacy.seal.reveal.threshold", lambda n: 1)
        yield


@contextmanager
def one_epoch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("messages", "site"):
            patch.setattr(f"infl.federation.{module}.epochs_of", lambda peers: "")
        yield


@contextmanager
def uncovered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairwiseSite, "cover", lambda *_: {})
        yield


@contextmanager
def one_mask_for_all() -> Iterator[None]:
    """What takes the masks off the update of some sites takes those off their metrics, too."""

    def everywhere(words: MaskedArrays, plus: Any, minus: Any, *, lanes: Any = ("low", "high")) -> None:
        if lanes != ("of_all",):
            mask(words, plus, minus, lanes=("low", "high", "of_all"))

    with pytest.MonkeyPatch.context() as patch:
        for module in ("pairwise", "reveal"):
            patch.setattr(f"infl.privacy.seal.{module}.mask", everywhere)
        yield


def test_metrics_of_some_stay_closed_when_their_update_is_opened() -> None:
    machine = Enemies()
    machine.begin()
    try:
        machine.honest(0, SITES, True)
        machine.honest(0, SITES[:-1], True)
        assert 1 in machine.worlds[0].opened
        machine.nothing_is_wrong()
    finally:
        machine.teardown()


def test_they_would_be_open_under_one_mask() -> None:
    """The control of the test above."""
    with one_mask_for_all(), pytest.raises(AssertionError, match="metrics of .* were opened"):
        test_metrics_of_some_stay_closed_when_their_update_is_opened()


@contextmanager
def as_it_is() -> Iterator[None]:
    yield


FAULTS: dict[str, tuple[dict[str, Any], Callable[[], Any], str]] = {
    "no history in the context": ({}, unchained, "two models with one history"),
    "a refusal follows from values": ({"site": Refusing}, as_it_is, "depends on its data|one world has heard"),
    "a site forgets what it revealed": ({"site": Forgetful, "ledger": False}, as_it_is, "two sums of exchange"),
    "neither ledger nor epoch": ({"ledger": False}, one_epoch, "two plaintexts under one mask"),
    "no seal": ({"seal": NoSeal}, uncovered, "in the clear"),
    "sums of few are applied": ({"site": Blind}, any_list, "was opened"),
    "a site does what it is told": ({"site": Obedient}, as_it_is, "did what is not due|ended the run before"),
    "one mask for update and metrics": ({}, one_mask_for_all, "metrics of .* were opened"),
}


SELDOM = {"one mask for update and metrics", "sums of few are applied"}
"""Faults that random play finds after a hundred runs or more."""


@pytest.mark.parametrize("fault", [pytest.param(f, marks=[pytest.mark.long] if f in SELDOM else []) for f in FAULTS])
def test_each_old_fault_is_found(fault: str) -> None:
    patches, around, said = FAULTS[fault]
    machine = type("Faulty", (Enemies,), {"patches": patches})
    with around(), pytest.raises(AssertionError, match=said):
        play(machine, 300, 25, (Phase.generate,))  # found is enough: no shorter script is looked for
