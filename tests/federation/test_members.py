"""Members are lines of the key holder's trail, and each start of a site is one of its own: with real messages, through the wire."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from infl import __version__
from infl.deploy.site_worker import SiteWorker
from infl.errors import FederationError, KeyringError, SealError, SettingsError
from infl.federation.agreement import MAX_PAIRWISE, Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.coordinator import Coordinator
from infl.federation.local import run_in_process
from infl.federation.membership import Membership
from infl.federation.messages import KEYS_KIND, REVEAL_KIND, Answer, Key, Offer, Plan, Reveal
from infl.federation.replica import Replica
from infl.federation.site import Site
from infl.federation.wire import decode, encode
from infl.keys import Identity, Keyring
from infl.models import Classifier, Task
from infl.privacy import DP
from infl.privacy.account import Account
from infl.privacy.seal import Ledger, PairwiseSite

TASK = Classifier(target="label", width=8, n_blocks=1)


class Machines:
    """Sites with folders and identities of their own, and a coordinator that follows the protocol until told otherwise."""

    def __init__(
        self,
        data: dict[str, AnnData],
        folder: Path,
        *,
        members: bool = True,
        task: Task = TASK,
        identities: dict[str, Identity] | None = None,
        **settings: Any,
    ) -> None:
        self.data, self.folder, self.members, self.key = data, folder, members, Keyring.create()
        self.identities = identities or {name: Identity.create() for name in data}
        for name, identity in self.identities.items():
            self.key.grant(name, identity)
        options = {"rounds": 4, "seal": "pairwise"} | settings
        self.agreement = Agreement.new(task, task.agree(data), data, self.key, **options)
        self.sites = {name: self.start(name) for name in data}
        self.plans: list[tuple[str, Plan]] = []
        self.replies: list[Any] = []
        self.lose: Callable[[str, Any], bool] = lambda site, message: False
        self.store = Checkpoint(folder / "coordinator")
        self.coordinator = self.restarted()

    def start(self, name: str) -> Site:
        """Start a site; what is in its folder is where it goes on."""
        identity = self.identities[name]
        membership = Membership.of(name, identity, self.data, self.key.trail) if self.members else None
        store = Checkpoint(self.folder / name, identity.subkey("checkpoint"))
        ledger = Ledger(store.ledger_path(name), identity.subkey("ledger"))
        replica = Replica(self.agreement, self.key)
        save = lambda site: store.save_sites(site.replica, {name: site})  # noqa: E731
        account = None if self.agreement.dp is None else Account(self.folder / f"{name} account")
        site = Site(name, self.data[name], replica, ledger, membership=membership, on_change=save, account=account)
        store.restore_sites(replica, {name: site})
        return site

    def restart(self, name: str) -> Site:
        """End a site's process, and start it again."""
        assert self.sites[name].ledger is not None
        self.sites[name].ledger.close()  # type: ignore[union-attr]
        self.sites[name] = self.start(name)
        return self.sites[name]

    def restarted(self) -> Coordinator:
        """Return a coordinator that goes on where the last one was."""
        exchanges = next(iter(self.sites.values())).replica.programme.exchanges
        save, progress = self.store.save_progress, self.store.progress()
        self.coordinator = Coordinator(
            self.agreement, exchanges, self, progress=progress, on_change=save, between_machines=self.members
        )
        return self.coordinator

    def holder(self, site: str) -> str:
        return site

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Any]:
        for name in cohort:
            plan = decode(encode(plan_for(name)))
            self.plans.append((name, plan))
            if self.lose(name, plan):
                continue
            reply = self.sites[name].handle(plan)
            if reply is None:
                continue
            reply = decode(encode(reply))
            if not self.lose(name, reply):
                self.replies.append(reply)
                yield reply

    def until(self, round: int) -> None:
        """Run to the end of a round."""
        for exchange in self.coordinator.run():
            if exchange.round == round:
                return
        raise AssertionError

    def last(self, kind: str, name: str) -> Plan:
        return [plan for site, plan in self.plans if (site, plan.kind) == (name, kind)][-1]

    def thetas(self) -> list[np.ndarray]:
        return [site.replica.theta.numpy() for site in self.sites.values()]


@pytest.fixture
def three(small_sites: dict[str, AnnData]) -> dict[str, AnnData]:
    return {name: small_sites[name] for name in ("site_1", "site_2", "site_3")}


# -- ghosts ----------------------------------------------------------------------------------------------------------
class Conspiracy:
    """A coordinator with one member: it has the key ring, and plays ghosts with data that it knows."""

    def __init__(self, data: dict[str, AnnData], ring: Keyring, identities: dict[str, Identity], *, members: bool):
        self.ring, self.victim, self.friend = ring, "site_1", "site_2"
        known = data[self.friend]
        names = (self.victim, self.friend, "site_3")
        self.agreement = Agreement.new(TASK, TASK.agree(data), names, ring, rounds=2, seal="pairwise")
        everybody = data | {"site_3": known}
        membership = Membership.of(self.victim, identities[self.victim], names, ring.trail) if members else None
        self.sites = {name: Site(name, everybody[name], self.replica()) for name in names}
        self.sites[self.victim] = Site(self.victim, data[self.victim], self.replica(), membership=membership)
        self.identities = identities | {"site_3": identities[self.friend]}  # a ghost has no identity of its own

    def replica(self) -> Replica:
        return Replica(self.agreement, self.ring)

    def holder(self, site: str) -> str:
        return site

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Any]:
        for name in cohort:
            plan = plan_for(name)
            if plan.kind == KEYS_KIND and name != self.victim:
                secret = self.sites[name].replica.seal_secret
                public = PairwiseSite(name, secret, plan.run, identity=self.identities[name])
                self.sites[name].pairwise = self.sites[name].answering = public
            reply = self.sites[name].handle(decode(encode(plan)))
            if reply is not None:
                yield reply

    def victims_update(self) -> tuple[np.ndarray, np.ndarray]:
        """Run the first round; return what the conspirators make of it, and what the victim's update is."""
        exchanges = self.sites[self.victim].replica.programme.exchanges
        coordinator = Coordinator(self.agreement, exchanges, self)
        mine: dict[str, np.ndarray] = {}

        def noted(site: Site) -> None:
            values = site._values

            def note(plan: Plan) -> Any:
                update, arrays, weight = values(plan)
                mine[site.name] = update * weight
                return update.copy(), arrays, weight

            site._values = note  # type: ignore[method-assign]

        for site in self.sites.values():
            noted(site)
        for exchange in coordinator.run():
            if exchange.round == 1:
                break
        (total,) = [t for t in coordinator.progress.totals if t.kind == "train"]
        friend = self.sites[self.friend].replica  # the conspirator opens the sum as each site does
        packing = friend.packing
        low, _ = friend.seal.unseal(friend.context(total), total.responders, total.words, packing)
        scale = np.concatenate(
            [np.full(np.prod(f.shape, dtype=int), 2.0**f.exponent) for f in packing.fields if f.bits == 32]
        )
        return low * scale - mine[self.friend] - mine["site_3"], mine[self.victim]


def test_a_ghost_with_a_members_name_is_refused_and_the_control_is_opened(three: dict[str, AnnData]) -> None:
    """A coordinator and one site play a third: of a sum of "three" two parts are theirs, and the rest is the victim's."""
    ring, identities = Keyring.create(), {name: Identity.create() for name in three}
    for name, identity in identities.items():
        ring.grant(name, identity)
    with pytest.raises(SealError, match="'site_3' is not signed with its member's identity; refused"):
        Conspiracy(three, ring, identities, members=True).victims_update()
    found, update = Conspiracy(three, ring, identities, members=False).victims_update()
    assert np.abs(update).max() > 1e-4
    np.testing.assert_allclose(found, update, atol=1e-6)


def test_a_ghost_that_nobody_granted_is_refused(three: dict[str, AnnData]) -> None:
    ring, identities = Keyring.create(), {name: Identity.create() for name in ("site_1", "site_2")}
    for name, identity in identities.items():
        ring.grant(name, identity)
    with pytest.raises(KeyringError, match="site_1: 'site_3' is no member in this site's copy of the grant trail"):
        Conspiracy(three, ring, identities, members=True)


def test_members_with_one_identity_are_one(three: dict[str, AnnData]) -> None:
    """A key holder's own ring refuses it; a site does not rely on that."""
    ring, mine, other = Keyring.create(), Identity.create(), Identity.create()
    ring.grant("site_1", mine)
    for name, recipient in (("site_2", other.public), ("site_3", Identity.create().public)):
        event = {"action": "grant", "who": name, "recipient": recipient, "versions": (1,), "identity": other.verifier}
        ring._record(event)
    with pytest.raises(KeyringError, match="site_1: 'site_3' has the identity of another site in the grant trail"):
        Membership.of("site_1", mine, three, ring.trail)


def test_a_site_is_who_the_trail_says(three: dict[str, AnnData]) -> None:
    ring, identities = Keyring.create(), {name: Identity.create() for name in three}
    for name, identity in identities.items():
        ring.grant(name, identity)
    mine = identities["site_1"]
    members = Membership.of("site_1", mine, three, ring.trail)
    assert members.identity is mine
    assert members.members == {name: bytes.fromhex(identity.verifier) for name, identity in identities.items()}
    with pytest.raises(FrozenInstanceError):
        members.members = {}  # type: ignore[misc]
    with pytest.raises(KeyringError, match="site_2: the grant trail in this site's ring calls it 'site_1'"):
        Membership.of("site_2", mine, three, ring.trail)
    with pytest.raises(KeyringError, match="site_1: the grant trail in this site's ring does not have its identity"):
        Membership.of("site_1", Identity.create(), three, ring.trail)


@pytest.mark.parametrize("verifier", ["", "not hexadecimal", "00" * 31, "00" * 33])
def test_a_member_without_an_identity_is_none(three: dict[str, AnnData], verifier: str) -> None:
    ring, mine = Keyring.create(), Identity.create()
    ring.grant("site_1", mine)
    event = {"action": "grant", "who": "site_2", "recipient": Identity.create().public, "versions": (1,)}
    ring._record(event | {"identity": verifier})
    with pytest.raises(KeyringError, match="site_1: 'site_2' was granted without an identity"):
        Membership.of("site_1", mine, ["site_1", "site_2"], ring.trail)


def test_without_a_seal_members_need_no_keys_of_each_other(three: dict[str, AnnData], tmp_path: Path) -> None:
    machines = Machines(three, tmp_path, seal="none", min_sites=1)
    site, exchange = machines.sites["site_1"], machines.coordinator.exchanges[0]
    plan = machines.coordinator._plan("site_1", exchange, machines.agreement.sites, 0)
    assert plan.peers == {}
    assert isinstance(site.handle(decode(encode(plan))), Answer)


# -- keys of each start ------------------------------------------------------------------------------------------------
CHANGES: dict[str, Callable[[dict[str, bytes], Machines], dict[str, bytes]]] = {
    "none": lambda peers, m: {},
    "without its own": lambda peers, m: {name: key for name, key in peers.items() if name != "site_1"},
    "without a signature": lambda peers, m: {name: key[:64] for name, key in peers.items()},
    "one altered": lambda peers, m: peers | {"site_2": bytes([peers["site_2"][0] ^ 1]) + peers["site_2"][1:]},
    "one of another name": lambda peers, m: peers | {"site_2": peers["site_3"]},
    "one of a stranger": lambda peers, m: peers
    | {"ghost": PairwiseSite("ghost", m.sites["site_2"].replica.seal_secret, m.agreement.run,
                             identity=m.identities["site_2"]).advertise()},
    "one of another run": lambda peers, m: peers
    | {"site_2": PairwiseSite("site_2", m.sites["site_2"].replica.seal_secret, "another",
                              identity=m.identities["site_2"]).advertise()},
}  # fmt: skip


@pytest.mark.parametrize("seal", ["group", "pairwise"])
@pytest.mark.parametrize("change", CHANGES)
def test_keys_that_are_not_those_of_the_members_last_starts(
    three: dict[str, AnnData], tmp_path: Path, change: str, seal: str
) -> None:
    house = Machines(three, tmp_path, seal=seal)
    house.until(1)
    plan = house.last("train", "site_1")
    plan = replace(plan, seq=plan.seq + 1, round=2, previous=house.coordinator.progress.totals)
    with pytest.raises((SealError, FederationError), match="last start|signed|no member|not a member|is none"):
        house.sites["site_1"].handle(decode(encode(replace(plan, peers=CHANGES[change](dict(plan.peers), house)))))
    assert isinstance(house.sites["site_1"].handle(decode(encode(plan))), Answer)


def difference(one: Answer, other: Answer) -> np.ndarray:
    """What somebody without any key makes of two messages: their difference, as if the masks were the same."""
    return (one.words.low - other.words.low).view(np.int32).astype(float)


@pytest.mark.parametrize(
    ("seal", "members"), [("group", True), ("pairwise", True), ("group", False)], ids=["group", "pairwise", "control"]
)
def test_a_restored_backup_seals_nothing_under_masks_that_were_used(
    three: dict[str, AnnData], tmp_path: Path, seal: str, members: bool
) -> None:
    """A site's folder is put back: other weights of its own (fedbn), and a ledger that knows nothing of the last message.

    Without epochs it seals another update in the same context: the difference of the two is that of the plaintexts.
    """
    house = Machines(three, tmp_path, members=members, seal=seal, aggregation="fedbn")
    original, save = house.sites["site_1"], house.sites["site_1"].on_change

    def save_and_copy(site: Site) -> None:
        save(site)
        if site.trainer.own.after is None:  # before a round leaves anything there
            shutil.rmtree(tmp_path / "backup", ignore_errors=True)
            shutil.copytree(tmp_path / "site_1", tmp_path / "backup")

    original.on_change = save_and_copy  # type: ignore[method-assign]
    house.until(2)
    original.on_change = save  # type: ignore[method-assign]
    house.until(3)
    plan = house.last("train", "site_1")
    (first,) = (r for r in house.replies if isinstance(r, Answer) and (r.site, r.seq) == ("site_1", plan.seq))
    house.sites["site_1"].ledger.close()  # type: ignore[union-attr]
    shutil.rmtree(tmp_path / "site_1")
    shutil.copytree(tmp_path / "backup", tmp_path / "site_1")
    site = house.sites["site_1"] = house.start("site_1")
    assert plan.round == 3
    assert not any(entry["round"] == 3 for entry in site.ledger.entries)  # type: ignore[union-attr]
    if not members:
        second = site.handle(plan)
        assert isinstance(second, Answer)
        assert 0 < np.abs(difference(first, second)).max() < 2**28  # small numbers: the masks are gone
        return
    with pytest.raises(FederationError, match="not those of its last start"):
        site.handle(plan)
    public = site.handle(replace(plan, kind=KEYS_KIND, lanes=(0, 2, 0)))
    assert isinstance(public, Key)
    second = site.handle(decode(encode(replace(plan, peers=dict(plan.peers) | {"site_1": public.public}))))
    assert isinstance(second, Answer)
    assert np.abs(difference(first, second)).max() > 2**30
    assert difference(first, second).std() > 2**29  # noise over the whole range


def test_within_a_start_the_same_bytes_are_sent_again(three: dict[str, AnnData], tmp_path: Path) -> None:
    house = Machines(three, tmp_path)
    house.lose = lambda site, message: isinstance(message, Answer) and message.site == "site_3" and message.seq == 4
    with pytest.raises(FederationError, match="only 2 of 3 sites answered, 3 are needed"):
        house.until(3)
    plan = house.last("train", "site_1")
    again = house.sites["site_1"].handle(plan)
    (before,) = (r for r in house.replies if isinstance(r, Answer) and (r.site, r.seq) == ("site_1", plan.seq))
    assert again.words.digest() == before.words.digest()


# -- restarts ----------------------------------------------------------------------------------------------------------
class Died(Exception):
    """The coordinator's process ended."""


def ledger_kinds(house: Machines, name: str, kind: str) -> list[str]:
    return [e["kind"] for e in house.sites[name].ledger.entries if e["kind"].endswith(kind)]  # type: ignore[union-attr]


@pytest.mark.parametrize("everybody", [False, True], ids=["sites stay up", "all start again"])
@pytest.mark.parametrize("moment", ["before masks come off", "after the first reveal", "before the sum is kept"])
def test_a_coordinator_that_dies_while_masks_come_off_opens_that_sum_and_no_other(
    three: dict[str, AnnData], tmp_path: Path, moment: str, everybody: bool
) -> None:
    """Of three sites none may be lost, and each reveals once: what is being opened is on disk on both sides."""
    house, dead = Machines(three, tmp_path), list[str]()

    def die(site: str, message: Any) -> bool:
        revealed = isinstance(message, Reveal) and message.seq == 4
        asked = isinstance(message, Plan) and message.kind.startswith(REVEAL_KIND) and message.seq == 4
        if not dead and (
            (moment == "before masks come off" and asked) or (moment == "after the first reveal" and revealed)
        ):
            dead.append(site)
            raise Died
        return False

    def save(progress: Any) -> Any:
        if not dead and moment == "before the sum is kept" and progress.seq == 5:
            dead.append("coordinator")
            raise Died
        return house.store.save_progress(progress)

    house.lose, house.coordinator.on_change = die, save
    with pytest.raises(Died):
        list(house.coordinator.run())
    opening = house.store.progress().opening
    assert opening is not None and opening.total.seq == 4
    if everybody:
        for name in three:
            house.restart(name)
    list(house.restarted().run())
    assert house.store.progress().opening is None
    expected = run_in_process(house.agreement, TASK, three, house.key, stacked=False).replica.theta
    assert all(np.array_equal(theta, expected.numpy()) for theta in house.thetas())
    for name in three:
        revealed = ledger_kinds(house, name, ":reveal")
        assert revealed == [f"{seq}:reveal" for seq in range(len(house.coordinator.exchanges))]
    given = [(r.site, r.revealed.box) for r in house.replies if isinstance(r, Reveal) and r.seq == 4]
    assert len(set(given)) == 3  # asked twice, a site gives the same


@pytest.mark.parametrize("reached", [True, False], ids=["after it wrote what it gives", "before"])
def test_a_site_that_dies_before_its_reveal_arrives_gives_it_when_it_is_back(
    three: dict[str, AnnData], tmp_path: Path, reached: bool
) -> None:
    house, dead = Machines(three, tmp_path), list[str]()

    def die(site: str, message: Any) -> bool:
        revealed = isinstance(message, Reveal) and reached
        asked = isinstance(message, Plan) and message.kind.startswith(REVEAL_KIND) and not reached
        if (revealed or asked) and site == "site_2" and message.seq == 4 and not dead:
            dead.append(site)
            return True
        return False

    house.lose = die
    with pytest.raises(FederationError, match="site_2 gave no part to open the sum of exchange 4"):
        list(house.coordinator.run())
    house.restart("site_2")
    list(house.restarted().run())
    expected = run_in_process(house.agreement, TASK, three, house.key, stacked=False).replica.theta
    assert all(np.array_equal(theta, expected.numpy()) for theta in house.thetas())


def test_after_a_reveal_no_other_sum_of_the_exchange_is_answered_or_opened(
    three: dict[str, AnnData], tmp_path: Path
) -> None:
    """Neither in a new set of keys, nor by a site whose checkpoint is older than its ledger."""
    house = Machines(three, tmp_path)
    house.until(1)
    older = (tmp_path / "site_1" / "sites.checkpoint").read_bytes()
    house.until(2)
    plan = replace(house.last("train", "site_1"), attempt=0)
    assert plan.round == 2

    def keyed(site: Site) -> Plan:
        public = site.handle(replace(plan, kind=KEYS_KIND, lanes=(0, 2, 0), previous=()))
        assert isinstance(public, Key)
        return replace(plan, peers=dict(plan.peers) | {"site_1": public.public})

    again = house.restart("site_1")
    with pytest.raises(FederationError, match="a sum of this exchange was opened already"):
        again.handle(keyed(again))
    again.ledger.close()  # type: ignore[union-attr]
    (tmp_path / "site_1" / "sites.checkpoint").write_bytes(older)
    again = house.start("site_1")
    assert again.revealed[0] < plan.seq
    with pytest.raises(FederationError, match="a sum of this exchange was opened already"):
        again.handle(keyed(again))
    house.sites["site_1"] = again


def test_a_site_reveals_for_one_list_of_sites_whichever_comes_first(
    small_sites: dict[str, AnnData], tmp_path: Path
) -> None:
    """Two sums of four sites and of three would tell one site's part, by their difference."""
    house = Machines(small_sites, tmp_path)
    house.until(1)
    plan = house.last("reveal train", "site_1")
    for left_out in ("site_2", "site_3", "site_4"):
        fewer = tuple(name for name in plan.answered if name != left_out)
        with pytest.raises(SealError, match="shares of this exchange were already given for another list of sites"):
            house.sites["site_1"].handle(replace(plan, answered=fewer))
    again = house.sites["site_1"].handle(plan)
    assert [r for r in house.replies if isinstance(r, Reveal) and r.site == "site_1"][-1].revealed == again.revealed


def test_a_site_that_is_away_when_keys_are_collected_counts_as_lost(
    small_sites: dict[str, AnnData], tmp_path: Path
) -> None:
    """Four sites, one of them away from before the keys were asked for until later: it has no masks with the others."""
    house, away = Machines(small_sites, tmp_path, rounds=6), list[str]()
    house.lose = lambda site, message: site in away
    seen = {}
    for exchange in house.coordinator.run():
        if exchange.round:
            seen[exchange.round] = len(house.coordinator.progress.totals[-1].responders)
        if exchange.round == 2:
            away.append("site_4")
        if exchange.round == 3:
            break
    for exchange in house.restarted().run():
        if exchange.round:
            seen[exchange.round] = len(house.coordinator.progress.totals[-1].responders)
        if exchange.round == 4:
            away.clear()
            house.restart("site_4")
    assert seen == {1: 4, 2: 4, 3: 3, 4: 3, 5: 4, 6: 4}
    assert set(house.last("train", "site_1").peers) == set(small_sites)
    first, *others = house.thetas()
    assert all(np.array_equal(first, theta) for theta in others)


def test_with_fewer_keys_than_open_a_sum_nothing_is_sent(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    """A coordinator that leaves others out of the keys would have a victim mask against fewer and fewer."""
    house = Machines(small_sites, tmp_path)
    house.until(1)
    plan = house.last("train", "site_1")
    plan = replace(plan, seq=plan.seq + 1, round=2, previous=house.coordinator.progress.totals)
    peers = {name: plan.peers[name] for name in ("site_1", "site_2")}
    with pytest.raises(FederationError, match="no public key of 'site_3' for the pairwise seal: too few sites joined"):
        house.sites["site_1"].handle(replace(plan, peers=peers))


def test_more_than_a_hundred_sites_are_refused_under_the_pairwise_seal(three: dict[str, AnnData]) -> None:
    names = [f"site_{i}" for i in range(MAX_PAIRWISE + 1)]
    with pytest.raises(
        SettingsError, match="seal='pairwise' is for at most 100 sites, and there are 101: .* seal='group'"
    ):
        Agreement.new(TASK, TASK.agree(three), names, Keyring.create(), seal="pairwise")
    assert Agreement.new(TASK, TASK.agree(three), names[1:], Keyring.create(), seal="pairwise").quorum == 67
    assert Agreement.new(TASK, TASK.agree(three), names, Keyring.create(), seal="group").quorum == 3


def test_how_many_sites_may_be_away_is_said(small_sites: dict[str, AnnData]) -> None:
    def said(n: int, **settings: Any) -> str:
        names = [f"site_{i}" for i in range(n)]
        return Agreement.new(TASK, TASK.agree(small_sites), names, Keyring.create(), **settings).tolerance()

    assert (
        said(3, seal="pairwise") == 'seal "pairwise" opens sums of all 3 sites only: the run waits whenever one is away'
    )
    assert "at least 3 of the 4 sites: a round waits when more than 1 is away" in said(4, seal="pairwise")
    assert said(3, seal="group") == ""


def test_refusals_and_keys_are_in_the_ledger(three: dict[str, AnnData], tmp_path: Path) -> None:
    house = Machines(three, tmp_path)
    house.until(1)
    site, sent = house.sites["site_1"], list[Any]()
    worker = SiteWorker("site_1", lambda agreement: site, lambda content: sent.append(decode(content)))
    worker._consider(Offer(__version__, house.agreement.to_json().encode()))
    plan = house.last("train", "site_1")
    for n in range(3):  # however often it is asked for
        worker._answer(replace(plan, seq=plan.seq + 5 + n, previous=()))
    assert [type(message).__name__ for message in sent] == ["Consent", *["Trouble"] * 3]
    assert ledger_kinds(house, "site_1", ":refusal") == [f"{plan.seq}:refusal"]
    assert ledger_kinds(house, "site_1", ":keys") == ["0:keys"]
    assert set(site.ledger.frame()["kind"]) == {"keys", "count", "means", "deviations", "train", "reveal", "refusal"}  # type: ignore[union-attr]
    again = house.restart("site_1")  # and the file is read as it was written
    assert again.ledger.rows() == site.ledger.rows()  # type: ignore[union-attr]


# -- accounts of differential privacy ----------------------------------------------------------------------------------
def private_run(data: dict[str, AnnData], folder: Path, identities: dict[str, Identity]) -> Machines:
    privacy = DP(noise_multiplier=2.0, delta=1e-3, accountant="rdp")
    task = TASK.for_dp()
    for name in data:  # a run has folders of its own; the account is the site's
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(folder / "coordinator", ignore_errors=True)
    return Machines(data, folder, task=task, identities=identities, rounds=2, privacy=privacy)


@pytest.mark.parametrize("restored", [False, True])
def test_a_backup_of_an_account_does_not_reset_what_records_have_spent(
    three: dict[str, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored: bool
) -> None:
    identities = {name: Identity.create() for name in three}
    account, backup = tmp_path / "site_2 account", tmp_path / "backup"
    private_run(three, tmp_path, identities).until(1)
    shutil.copytree(account, backup)
    list(private_run(three, tmp_path, identities).coordinator.run())
    if not restored:
        list(private_run(three, tmp_path, identities).coordinator.run())
        return
    shutil.rmtree(account)
    shutil.copytree(backup, account)
    now = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("infl.privacy.heads.time.time_ns", lambda: now)
    house = private_run(three, tmp_path, identities)
    with pytest.raises(FederationError, match=r"site_2: its account goes back .*\(1 sums after 3\).* newest backup"):
        list(house.coordinator.run())
    assert not [reply for reply in house.replies if isinstance(reply, Answer) and reply.seq > 0]


def test_a_member_without_an_account_has_no_part_in_a_private_run(three: dict[str, AnnData], tmp_path: Path) -> None:
    house = private_run(three, tmp_path, {name: Identity.create() for name in three})
    house.sites["site_3"].account = None
    house.sites["site_3"].pairwise = house.sites["site_3"].answering = house.sites["site_3"]._epoch()
    with pytest.raises(FederationError, match="site_3 shows no account of what its records have spent"):
        list(house.coordinator.run())


def test_a_site_that_died_after_it_charged_a_sum_is_in_the_next_run(
    three: dict[str, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts again, answers the same exchange, and charges it once: others must not count it twice."""
    identities, died = {name: Identity.create() for name in three}, list[str]()
    house = private_run(three, tmp_path, identities)

    def die(site: str, message: Any) -> bool:
        if isinstance(message, Answer) and message.site == "site_2" and message.seq == 1 and not died:
            died.append(site)
            return True
        return False

    house.lose = die
    with pytest.raises(FederationError, match="site_2"):
        list(house.coordinator.run())
    house.restart("site_2")
    list(house.restarted().run())
    assert died
    now = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("infl.privacy.heads.time.time_ns", lambda: now)
    list(private_run(three, tmp_path, identities).coordinator.run())
