"""The same run over a line that loses messages, to sites that die, come back late, or lie."""

import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mudata import MuData

from infl import __version__
from infl._mudata import without_pull
from infl.deploy.attempt import REQUEST_AGAIN, Status
from infl.deploy.remote import Patience, RemoteTransport
from infl.deploy.run_attempt import RunAttempt, RunFolder
from infl.deploy.site_worker import DECLINED, SiteWorker
from infl.errors import DataError, FederationError
from infl.federation.agreement import Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.coordinator import MAX_TOTALS, Coordinator
from infl.federation.initial import build_flat_model
from infl.federation.local import run_in_process
from infl.federation.membership import Membership
from infl.federation.messages import Alive, Answer, Done, Offer, Plan, Trouble
from infl.federation.programme import Programme
from infl.federation.replica import Replica
from infl.federation.site import Site
from infl.federation.wire import decode, encode
from infl.keys import Identity, Keyring
from infl.models import Classifier, Mosaic
from infl.models.task import Task
from infl.privacy.seal import Ledger

pytestmark = pytest.mark.slow
QUICK = Patience(silence=2, repeat=0.1, first=20, least=20, consent=20)
TASK = Classifier(target="label", width=8, n_blocks=1)

ONE = threading.Lock()
"""Sites are processes of their own, with a generator each; here they take turns at torch's."""

Lose = Callable[[str, str, Any], bool]
"""Whether a message from or to a site (its name, "to" or "from", the message) is lost."""


class House:
    """A coordinator's machine and those of the sites, in one process; every site has a replica and files of its own."""

    def __init__(
        self,
        sites: dict[str, Any],
        folder: Path,
        lose: Lose = lambda *_: False,
        *,
        task: Task = TASK,
        **settings: Any,
    ) -> None:
        self.data, self.folder, self.lose, self.key, self.task = sites, folder, lose, Keyring.create(), task
        self.identities = {name: Identity.create() for name in sites}
        for name, identity in self.identities.items():
            self.key.grant(name, identity)
        self.agreement = Agreement.new(task, task.agree(sites), sites, self.key, **{"rounds": 4, **settings})
        self.workers: dict[str, SiteWorker] = {}
        self.results: dict[str, Replica] = {}
        self.transport = RemoteTransport(self.agreement.sites, self.to_site, QUICK)
        self.now, self.quick = 0, QUICK

    def to_site(self, site: str, parts: list[memoryview]) -> None:
        content = b"".join(parts)
        if site in self.workers and not self.lose(site, "to", decode(content)):
            self.workers[site].receive(content)

    def from_site(self, site: str, content: bytes) -> None:
        if site in self.workers and not self.lose(site, "from", decode(content)):
            self.transport.receive(site, content)

    def prepare(self, site: str) -> Callable[[Agreement], Site]:
        def make(agreement: Agreement) -> Site:
            membership = Membership.of(site, self.identities[site], agreement.sites, self.key.trail)
            store = Checkpoint(self.folder / site, membership.identity.subkey("checkpoint"))
            with ONE:
                replica = Replica(agreement, self.key)
            ledger = Ledger(store.ledger_path(site), membership.identity.subkey("ledger"))
            save = lambda s: store.save_sites(s.replica, {site: s})  # noqa: E731
            member = Site(site, self.data[site], replica, ledger, membership=membership, on_change=save)
            store.restore_sites(replica, {site: member})
            handle = member.handle

            def in_turn(plan: Plan) -> Any:
                with ONE:
                    return handle(plan)

            member.handle = in_turn  # type: ignore[method-assign]
            return member

        return make

    def start(self, site: str, prepare: Callable[[Agreement], Site] | None = None) -> None:
        finish = lambda s: self.results.__setitem__(site, s.replica)  # noqa: E731
        worker = SiteWorker(
            site, prepare or self.prepare(site), lambda c: self.from_site(site, c), finish=finish, beat=0.05
        )
        self.workers[site] = worker
        for target in (worker.run, worker.signs_of_life):
            threading.Thread(target=target, daemon=True).start()

    def kill(self, site: str) -> None:
        worker = self.workers.pop(site)
        worker.stop()
        if worker._site is not None and worker._site.ledger is not None:
            worker._site.ledger.close()

    def coordinator(self, *, told: bool = True) -> Coordinator:
        store = Checkpoint(self.folder / "coordinator")
        with ONE:
            shared = build_flat_model(self.task, self.agreement).shared
        consents = self.transport.offer(
            Offer(__version__, self.agreement.to_json().encode()),
            enough=lambda said: len(said) >= self.agreement.min_sites,
        )
        return Coordinator(
            self.agreement,
            Programme(self.task, self.agreement, shared).exchanges,
            self.transport,
            progress=store.progress(),
            on_change=store.save_progress,
            between_machines=True,
            applied={site: said.applied for site, said in consents.items()} if told else None,
        )

    def attempt(self) -> Status:
        """Make one attempt at the run, with a coordinator that is new."""
        run = RunFolder(self.folder / "coordinator")
        if not run.store.exists:
            run.store.begin(self.agreement)
        self.transport = RemoteTransport(self.agreement.sites, self.to_site, self.quick)
        return RunAttempt(run, self.transport).go()

    @contextmanager
    def open(self) -> Iterator["House"]:
        for site in self.agreement.sites:
            self.start(site)
        try:
            yield self
        finally:
            for site in [*self.workers]:
                self.kill(site)

    def in_process(self) -> Replica:
        return run_in_process(self.agreement, self.task, self.data, self.key, stacked=False).replica

    def expected(self) -> torch.Tensor:
        return self.in_process().theta


def test_the_same_bits_as_in_process(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    with House(small_sites, tmp_path).open() as house:
        rounds = [e.round for e in house.coordinator().run() if e.round]
    assert rounds == [1, 2, 3, 4]
    assert set(house.results) == set(small_sites)
    for replica in house.results.values():
        assert torch.equal(replica.theta, house.expected())


def test_modalities_that_differ_by_site_are_fitted_as_in_process(tmp_path: Path) -> None:
    rng, grid = np.random.default_rng(0), np.indices((6, 6)).reshape(2, -1).T.astype(float)
    stripe = np.arange(36) // 12

    def section(name: str, *modalities: str) -> MuData:
        parts = {}
        for modality in modalities:
            counts = rng.poisson(np.where(stripe[:, None] == np.arange(9) % 3, 8.0, 2.0)).astype(np.float32)
            parts[modality] = AnnData(
                counts,
                obs=pd.DataFrame(index=[f"{name}-{i}" for i in range(36)]),
                var=pd.DataFrame(index=[f"{modality}_{i}" for i in range(9)]),
            )
        with without_pull():
            mdata = MuData(parts)
        mdata.obsm["spatial"] = grid
        return mdata

    sites = {"a": section("a", "rna", "adt"), "b": section("b", "rna"), "c": section("c", "adt")}
    task = Mosaic(n_domains=3, n_latent=4, width=0, batch_size=16)
    with House(sites, tmp_path, task=task, rounds=2).open() as house:
        list(house.coordinator().run())
    expected = house.in_process()
    assert set(house.results) == set(sites)
    for replica in house.results.values():
        assert torch.equal(replica.theta, expected.theta)
        assert replica.private.keys() == expected.private.keys() >= {"latent_axes", "clusters_2"}
        assert all(np.array_equal(replica.private[name], value) for name, value in expected.private.items())


@pytest.mark.parametrize("seal", ["group", pytest.param("pairwise", marks=pytest.mark.long)])
def test_a_line_that_loses_a_quarter_of_all_messages(
    small_sites: dict[str, AnnData], tmp_path: Path, seal: str
) -> None:
    rng = random.Random(0)
    lose: Lose = lambda site, way, message: not isinstance(message, Alive) and rng.random() < 0.25  # noqa: E731
    with House(small_sites, tmp_path, lose, seal=seal).open() as house:
        list(house.coordinator().run())
    assert all(torch.equal(r.theta, house.expected()) for r in house.results.values())


@pytest.mark.parametrize(
    ("moment", "seal"),
    [
        (2, "group"),
        (3, "pairwise"),
        *(pytest.param(m, "group", marks=pytest.mark.long) for m in range(8) if m != 2),
    ],
)
def test_coordinator_dies_after_any_exchange_and_goes_on(
    small_sites: dict[str, AnnData], tmp_path: Path, moment: int, seal: str
) -> None:
    """The sites are new too, with new keys of the pairwise seal: a new attempt is new processes everywhere."""
    house = House(small_sites, tmp_path, seal=seal)
    with house.open():
        steps = house.coordinator().run()
        for _ in range(moment):
            next(steps)
    house.transport = RemoteTransport(house.agreement.sites, house.to_site, QUICK)
    with house.open():
        list(house.coordinator().run())
    assert all(torch.equal(r.theta, house.expected()) for r in house.results.values())


def test_a_coordinator_from_an_older_backup_says_so(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    """Its sites have sums that it lacks; what one site alone says does not count."""
    house = House(small_sites, tmp_path)
    with house.open():
        steps = house.coordinator().run()
        for number in range(6):
            next(steps)
            if number == 2:
                shutil.copytree(tmp_path / "coordinator", tmp_path / "backup")
    shutil.rmtree(tmp_path / "coordinator")
    (tmp_path / "backup").rename(tmp_path / "coordinator")
    with house.open():
        status = house.attempt()
    assert status.state == "stopped" and status.position == 3
    assert re.fullmatch(
        r"site_\d(, site_\d)+ have sums that coordinator lacks here: put back from .* in run\.toml", status.message
    )


@pytest.mark.parametrize(("seal", "spared"), [("group", True), ("pairwise", False)])
def test_a_site_from_an_older_backup_says_so(
    small_sites: dict[str, AnnData], tmp_path: Path, seal: str, spared: bool
) -> None:
    """Sums that it lacks are kept until all have acknowledged them, and no longer: it is left out, or the run stops."""
    least, one = 2 if spared else len(small_sites), next(iter(small_sites))
    house = House(small_sites, tmp_path, seal=seal, rounds=6, min_sites=least)
    house.quick = replace(QUICK, silence=60)  # nobody is away here
    house.transport = RemoteTransport(house.agreement.sites, house.to_site, house.quick)
    with house.open():
        steps = house.coordinator().run()
        for number in range(6):
            next(steps)
            if number == 2:
                shutil.copytree(tmp_path / one, tmp_path / "backup")
    shutil.copytree(tmp_path / one, tmp_path / "newer")
    shutil.rmtree(tmp_path / one)
    (tmp_path / "backup").rename(tmp_path / one)
    with house.open():
        status = house.attempt()
    if not spared:
        assert (status.state, status.position) == ("stopped", 6)
        assert status.message.startswith(f"{one} lack sums that are no longer kept: put back from an older backup; put")
        shutil.rmtree(tmp_path / one)
        (tmp_path / "newer").rename(tmp_path / one)
        with house.open():
            assert house.attempt().state == "finished"
        assert {*house.results} == {*small_sites}
        return
    assert status.position == status.exchanges and status.lacking == (one,)
    assert status.sites[one]["trouble"] == (
        f"{one} was put back from an older backup: put back a newer one there, or the run ends without it"
    )
    assert {*house.results} == {*small_sites} - {one}
    assert len([*(tmp_path / "coordinator" / "sums").iterdir()]) <= 2, "sums are kept for a site that cannot apply them"


@pytest.mark.parametrize("seal", ["group", "pairwise"])
def test_a_dead_site_costs_itself_and_catches_up_when_it_is_back(
    small_sites: dict[str, AnnData], tmp_path: Path, seal: str
) -> None:
    """When it starts again it has a new key; the others' keys are asked for again, too, while somebody is missing."""
    house = House(small_sites, tmp_path, rounds=6, seal=seal)
    seen: dict[int, tuple[str, ...]] = {}
    with house.open():
        coordinator = house.coordinator()
        for exchange in coordinator.run():
            if exchange.round:
                seen[exchange.round] = coordinator.progress.totals[-1].responders
            if exchange.round == 2:
                house.kill("site_2")
            if exchange.round == 4:
                house.start("site_2", lambda agreement: house.prepare("site_2")(agreement))
                house.workers["site_2"].receive(encode(Offer(__version__, house.agreement.to_json().encode())))
                while "site_2" in house.transport.lost():
                    house.transport._next()
    everyone = house.agreement.sites
    without = tuple(s for s in everyone if s != "site_2")
    assert seen == {1: everyone, 2: everyone, 3: without, 4: without, 5: everyone, 6: everyone}
    thetas = [r.theta for r in house.results.values()]
    assert len(thetas) == 4
    assert all(torch.equal(t, thetas[0]) for t in thetas)


@pytest.mark.parametrize("settings", [{}, {"aggregation": "fedadam"}, {"seal": "pairwise"}])
@pytest.mark.parametrize("told", [True, False], ids=["sites say what they have", "sites say nothing"])
def test_a_site_that_was_away_for_long_is_sent_the_sealed_sums(
    small_sites: dict[str, AnnData], tmp_path: Path, settings: dict[str, Any], told: bool
) -> None:
    """The coordinator keeps them on disk until all sites have applied them, also over a restart, and sends a few at a time."""
    house = House(small_sites, tmp_path, rounds=14, **settings)
    store, most = Checkpoint(tmp_path / "coordinator"), [0]
    with house.open():
        for exchange in house.coordinator().run():
            held = [t.seq for t in store.progress().totals]
            files = sorted((tmp_path / "coordinator" / "sums").glob("*.safetensors"))
            assert sorted(int(f.stem) for f in files) == held
            assert exchange.round or len(held) <= 1
            if exchange.round == 1:
                house.kill("site_2")
            if exchange.round == 12:
                break
    assert len(held) >= 11, "nothing that a site lacks is let go"

    def count(site: str, way: str, message: Any) -> bool:
        if isinstance(message, Plan):
            most.append(len(message.previous))
        return False

    house.lose = count
    house.transport = RemoteTransport(house.agreement.sites, house.to_site, QUICK)
    with house.open():
        list(house.coordinator(told=told).run())
    assert max(most) == MAX_TOTALS
    thetas = [r.theta for r in house.results.values()]
    assert len(thetas) == 4
    assert all(torch.equal(t, thetas[0]) for t in thetas)
    assert len({repr(r.rows) for r in house.results.values()}) == 1  # NaN, a round's loss without a site, equals itself
    weights = [t.numpy().tobytes()[:24] for t in thetas]
    stored = [file.read_bytes() for file in (tmp_path / "coordinator").rglob("*") if file.is_file()]
    assert not any(w in content for w in weights for content in stored)


def test_what_is_asked_again_while_it_is_answered_is_answered_once(small_sites: dict[str, AnnData]) -> None:
    """A site that takes long is asked again and again, since it does not say whether it is at work."""
    sent: list[Any] = []
    asked = encode(Plan("run", 0, "count", 0, 0, ("site_1",), (0, 2, 3), "", 1, "", ()))

    class Slow:
        replica = None

        def handle(self, plan: Plan) -> Done:
            for content in (asked, asked, other, asked):
                worker.receive(content)
            return Done("site_1", plan.seq)

    other = encode(Offer("another version", b""))
    worker = SiteWorker("site_1", lambda agreement: None, lambda c: sent.append(decode(c)))  # type: ignore[arg-type,return-value]
    worker._site = Slow()  # type: ignore[assignment]
    worker.receive(asked)
    original = worker._answer

    def answer(plan: Plan) -> None:
        original(plan)
        worker._inbox.put(None)

    worker._answer = answer  # type: ignore[method-assign]
    worker.run()
    assert [type(m) for m in sent] == [Done, Trouble]  # and what else came meanwhile is not lost


def test_a_late_answer_to_an_earlier_exchange_is_not_counted(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    held: list[bytes] = []
    house = House(small_sites, tmp_path)

    def twice(site: str, way: str, message: Any) -> bool:
        if way == "from" and isinstance(message, Answer):
            house.transport.receive(site, encode(message))
            held.append(encode(message))
            for old in held[-6:]:
                house.transport.receive(decode(old).site, old)
        return False

    house.lose = twice
    with house.open():
        list(house.coordinator().run())
    assert all(torch.equal(r.theta, house.expected()) for r in house.results.values())


MALFORMED: dict[str, Callable[[Answer], Any]] = {
    "too many words": lambda a: replace(a, words=replace(a.words, low=np.append(a.words.low, a.words.low))),
    "too few sums": lambda a: replace(a, words=replace(a.words, of_all=a.words.of_all[:-1])),
    "another run": lambda a: replace(a, run="0" * 32),
    "another key": lambda a: replace(a, key_version=7, fingerprint="abcd"),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_a_malformed_answer_costs_its_site_one_exchange(
    small_sites: dict[str, AnnData], tmp_path: Path, how: str
) -> None:
    house = House(small_sites, tmp_path, rounds=3)
    altered: list[int] = []

    def alter(site: str, way: str, message: Any) -> bool:
        if site == "site_2" and way == "from" and isinstance(message, Answer) and house.now == 2 and not altered:
            altered.append(message.seq)
            house.transport.receive(site, encode(MALFORMED[how](message)))
            return True
        return False

    house.lose = alter
    seen = {}
    with house.open():
        coordinator = house.coordinator()
        house.now = 1
        for exchange in coordinator.run():
            house.now = exchange.round + 1
            if exchange.round:
                seen[exchange.round] = coordinator.progress.totals[-1].responders
    everyone = house.agreement.sites
    assert altered
    assert seen == {1: everyone, 2: tuple(s for s in everyone if s != "site_2"), 3: everyone}
    assert house.transport.refused == 1
    thetas = [r.theta for r in house.results.values()]
    assert len(thetas) == 4
    assert all(torch.equal(t, thetas[0]) for t in thetas)


@pytest.mark.parametrize(
    ("lost", "said"),
    [((1, 3), "only 2 of 4 .* missing: site_1, site_3"), ((1, 2, 3, 4), "only 0 of 4 .* missing: site_1, site_2")],
)
def test_too_few_sites_end_the_attempt_and_are_named(
    small_sites: dict[str, AnnData], tmp_path: Path, lost: tuple[int, ...], said: str
) -> None:
    with House(small_sites, tmp_path).open() as house:
        steps = house.coordinator().run()
        for _ in range(4):
            next(steps)
        for number in lost:
            house.kill(f"site_{number}")
        with pytest.raises(FederationError, match=said):
            list(steps)


def test_a_site_declines_and_keeps_to_itself_why(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    def refuse(agreement: Agreement) -> Site:
        raise DataError("site_2: target 'label' is missing in obs")

    with House(small_sites, tmp_path).open() as house:
        house.kill("site_2")
        house.start("site_2", refuse)
        with pytest.raises(FederationError, match="missing: site_2"):
            list(house.coordinator().run())
        assert house.transport.peers["site_2"].trouble == f"site_2: {DECLINED}"


@pytest.mark.parametrize("declines", [False, True], ids=["accepts", "declines"])
@pytest.mark.parametrize("seal", ["group", "pairwise"])
def test_a_site_whose_process_begins_late_is_offered_the_run_then(
    small_sites: dict[str, AnnData], tmp_path: Path, seal: str, declines: bool
) -> None:
    """The others have said yes, and the first exchange has begun: it takes part, or says no, and nobody waits for it."""

    def refuse(agreement: Agreement) -> Site:
        raise DataError("site_4: the data file is gone")

    house = House(small_sites, tmp_path, seal=seal)
    with house.open():
        steps = house.coordinator().run()
        for _ in range(4):
            next(steps)
    house.transport = RemoteTransport(house.agreement.sites, house.to_site, QUICK)
    house.lose = lambda site, way, message: site == "site_4" and not isinstance(message, Alive)
    with house.open():
        if declines:
            house.kill("site_4")
            house.start("site_4", refuse)
        coordinator = house.coordinator()
        house.lose = lambda site, way, message: False
        list(coordinator.run())
    assert sorted(house.results) == [*small_sites][: 3 if declines else 4]
    assert house.transport.peers["site_4"].declined == declines


def test_a_plan_changed_midway_is_refused(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    house = House(small_sites, tmp_path)
    with house.open():
        steps = house.coordinator().run()
        next(steps)
        other = replace(house.agreement, rounds=400)
        house.transport.offer(Offer(__version__, other.to_json().encode()), enough=lambda said: False)
        assert house.transport.peers["site_1"].trouble == f"site_1: {DECLINED}"


@pytest.mark.parametrize(
    ("offer", "why"),
    [
        (Offer("0.0.0", b"{}"), r"site_1 has infl .*, the coordinator 0\.0\.0: install one version everywhere"),
        (Offer(__version__, b"{}"), "cannot be read"),
        (Offer(__version__, b"\xff"), "cannot be read"),
        (Offer(__version__, b'{"rounds": 1}'), "cannot be read"),
    ],
)
def test_offers_that_a_site_cannot_take(offer: Offer, why: str) -> None:
    sent: list[Any] = []
    noted: list[str] = []
    worker = SiteWorker(
        "site_1", lambda agreement: pytest.fail("prepared"), lambda c: sent.append(decode(c)), note=noted.append
    )
    worker._consider(offer)
    (trouble,) = sent
    assert isinstance(trouble, Trouble)
    assert re.search(why, noted[0])
    assert trouble.reason == (noted[0] if "version" in why else f"site_1: {DECLINED}")


def test_what_a_task_cannot_read_is_not_blamed_on_the_form_of_the_offer(
    small_sites: dict[str, AnnData], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A task of another package may look for a column that is not there; its own words are in the site's log alone."""

    def prepare(agreement: Agreement) -> Site:
        raise KeyError("dose")

    house = House(small_sites, tmp_path)
    sent: list[Any] = []
    noted: list[str] = []
    worker = SiteWorker("site_1", prepare, lambda content: sent.append(decode(content)), note=noted.append)
    worker._consider(Offer(__version__, house.agreement.to_json().encode()))
    assert noted == ["site_1: the run's options do not fit the task or the site's data; see the log at the site"]
    assert sent[0].reason == f"site_1: {DECLINED}"
    assert "KeyError: 'dose'" in caplog.text


def test_what_is_not_a_sites_own_message_is_dropped_and_counted() -> None:
    transport = RemoteTransport(("a", "b"), lambda site, content: None, QUICK)
    for site, content in (
        ("a", encode(Done("b", 1))),
        ("x", encode(Done("x", 1))),
        ("a", b"noise"),
        ("a", bytes(1 << 21)),
        ("a", encode(Offer("1", b"{}"))),
    ):
        transport.receive(site, content)
    assert transport.refused == 5
    assert transport._inbox.empty()


def test_noise_does_not_stop_a_site() -> None:
    sent: list[bytes] = []
    worker = SiteWorker("a", lambda agreement: pytest.fail("prepared"), sent.append)
    for content in (b"noise", encode(Done("a", 1)), bytes(100)):
        worker.receive(content)
    worker._inbox.put(None)
    worker.run()
    assert sent == []


def test_a_stopped_run_ends_at_once() -> None:
    transport = RemoteTransport(("a",), lambda site, content: None, Patience())
    transport.stop()
    with pytest.raises(FederationError, match="stopped"):
        list(transport.ask(("a",), lambda site: Plan("r", 0, "count", 0, 0, ("a",), (0, 2), "d", 1, "f", ())))


def test_an_offer_does_not_wait_for_a_site_that_was_there_and_died() -> None:
    now = [0.0]

    def send(site: str, content: bytes) -> None:
        now[0] += 10

    patience = Patience(silence=15, repeat=0.01, consent=10_000)
    transport = RemoteTransport(("a", "b", "c"), send, patience, clock=lambda: now[0])
    transport.receive("a", encode(Alive("a", 0, 0, "")))
    transport.receive("b", encode(Trouble("b", 0, "no")))
    assert transport.offer(Offer("1", b"{}"), enough=lambda said: len(said) == 3) == {}
    assert 15 < now[0] < 200


def test_deadline_follows_the_past() -> None:
    transport = RemoteTransport(("a",), lambda site, content: None, Patience(first=100, least=2, factor=3))
    assert transport._deadline("train") == 100
    transport._seconds["train"].extend([1.0, 2.0, 30.0])
    assert transport._deadline("train") == 6
    transport._seconds["train"].extend([0.1] * 9)
    assert transport._deadline("train") == 2


# -- restarts under the pairwise seal -------------------------------------------------------------------------------
def test_of_three_sites_one_dies_while_masks_come_off_and_the_next_attempt_opens_that_sum(
    small_sites: dict[str, AnnData], tmp_path: Path
) -> None:
    """No site can be spared, and the others have revealed: the sum is opened when the third is back."""
    three = {name: small_sites[name] for name in ("site_1", "site_2", "site_3")}
    died: list[int] = []

    def die(site: str, way: str, message: Any) -> bool:
        if (
            site == "site_2"
            and way == "to"
            and isinstance(message, Plan)
            and message.kind == "reveal train"
            and not died
        ):
            died.append(message.seq)
            house.kill(site)
        return bool(died) and site == "site_2" and not house.workers.get(site)

    house = House(three, tmp_path, die, seal="pairwise")
    house.quick = replace(QUICK, silence=1)
    with house.open():
        first = house.attempt()
        assert (first.state, len(died)) == ("ended", 1)
        assert "site_2 gave no part to open the sum" in first.message
        opening = RunFolder(tmp_path / "coordinator").store.progress().opening
        assert opening is not None and opening.total.seq == died[0]
        house.start("site_2")
        last = house.attempt()
    assert (last.state, last.attempts) == ("finished", 2)
    rows = RunFolder(tmp_path / "coordinator").exchanges()
    assert [row["seq"] for row in rows] == [*range(len(rows))] and {row["attempt"] for row in rows} == {0}
    assert len(house.results) == 3
    assert all(torch.equal(r.theta, house.expected()) for r in house.results.values())


# -- attempts --------------------------------------------------------------------------------------------------------
def test_an_attempt_makes_room_for_the_next(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    house, run = House(small_sites, tmp_path), RunFolder(tmp_path / "coordinator")
    with house.open():
        for position in (1, 2, 3):
            run.request(REQUEST_AGAIN)
            assert house.attempt().state == "ended"
            assert run.position == position
        run.clear_request()
        assert house.attempt().state == "finished"
    assert all(torch.equal(r.theta, house.expected()) for r in house.results.values())
    rows = run.exchanges()
    assert [row["seq"] for row in rows] == [*range(len(rows))]
    assert {len(row["responders"]) for row in rows} == {4}


def test_a_site_that_is_away_at_the_end_gets_the_model_when_it_is_back(
    small_sites: dict[str, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = RemoteTransport._deadline
    monkeypatch.setattr(RemoteTransport, "_deadline", lambda t, kind: 1 if kind == "end" else usual(t, kind))

    def end(site: str, way: str, message: Any) -> bool:
        return site == "site_2" and isinstance(message, Plan) and message.kind == "end"

    house = House(small_sites, tmp_path, end, min_sites=3)
    with house.open():
        states = [house.attempt()]
        while states[-1].state != "finished" and len(states) < 8:  # a busy machine may be late elsewhere, too
            states.append(house.attempt())
        assert [s.state for s in states[:2]] == ["ended", "ended"]
        assert states[-1].message == "site_2 lacks the model: `infl run resume` when it is up"
        assert set(house.results) == {"site_1", "site_3", "site_4"}
        house.lose = lambda *_: False
        last = house.attempt()
    assert (last.state, last.lacking, last.message) == ("finished", (), "")
    assert all(torch.equal(r.theta, house.expected()) for r in house.results.values())
    assert "site_2" in house.results
