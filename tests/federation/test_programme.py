"""A coordinator that deviates, by real messages through the wire: a site answers what it agreed to, and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from tests.federation.conftest import make_sites

from infl.errors import FederationError, SealError
from infl.federation.agreement import Agreement
from infl.federation.checkpoint import Checkpoint
from infl.federation.coordinator import Coordinator, Progress
from infl.federation.local import LocalTransport
from infl.federation.messages import END_KIND, KEYS_KIND, Answer, Plan, Reveal, Total
from infl.federation.programme import MAX_ATTEMPTS, Exchange, cohort_of
from infl.federation.replica import Replica
from infl.federation.site import Site
from infl.federation.wire import decode, encode
from infl.keys import Keyring
from infl.models import Classifier
from infl.privacy.seal import Ledger, Packing, RangeError, add
from infl.sums.lanes import fitted

TASK = Classifier(target="label", width=8, n_blocks=1)
Change = Callable[[Plan], Plan]


class Trusting(Site):
    """The control: a site as that of version 0.1, which does what a plan says."""

    def _check_due(self, plan: Plan) -> None:
        pass

    def _reveal(self, plan: Plan) -> Reveal:
        self._given = None
        return super()._reveal(plan)


class House:
    """Three sites with replicas of their own, and the plans that an honest coordinator sends them, as bytes."""

    def __init__(
        self,
        data: dict[str, AnnData],
        kind: type[Site] = Site,
        lr: float = 1e-3,
        n_sites: int = 3,
        private: bool = False,
        **settings: Any,
    ) -> None:
        task = replace(TASK.for_dp() if private else TASK, lr=lr)
        self.key, names = Keyring.create(), [*data][:n_sites]
        data = {name: data[name] for name in names}
        self.agreement = Agreement.new(task, task.agree(data), data, self.key, **{"rounds": 3} | settings)
        self.sites = {name: kind(name, adata, Replica(self.agreement, self.key)) for name, adata in data.items()}
        self.plans: list[Plan] = []
        self.replies: list[Any] = []
        self.transport = LocalTransport(self.sites)
        self.exchanges = self.sites[names[0]].replica.programme.exchanges
        self.coordinator = Coordinator(self.agreement, self.exchanges, self)

    def holder(self, site: str) -> str:
        return site

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Any]:
        for name in cohort:
            plan = decode(encode(plan_for(name)))
            self.plans.append(plan)
            reply = self.sites[name].handle(plan)
            if reply is not None:
                self.replies.append(reply)
                yield reply

    def until(self, kind: str, round: int = 0) -> Plan:
        """Run to the exchange before this one, and return its plan for the first site, as it would be sent."""
        for exchange in self.coordinator.run():
            progress: Progress = self.coordinator.progress
            following = self.exchanges[progress.position]
            if (following.kind, following.round) == (kind, round):
                name = self.agreement.sites[0]
                return self.coordinator._plan(name, following, self.agreement.sites, 0)
            assert exchange
        raise AssertionError

    def tell(self, plan: Plan) -> Any:
        return self.sites[self.agreement.sites[0]].handle(decode(encode(plan)))


DEVIATIONS: dict[str, Change] = {
    "extra_round": lambda p: replace(p, round=4),
    "a round twice": lambda p: replace(p, round=1),
    "skipped_round": lambda p: replace(p, round=3),
    "train_again_for_judge": lambda p: replace(p, kind="judge", round=0),
    "count_again": lambda p: replace(p, kind="count", round=0, lanes=(0, 2, 3)),
    "early_end": lambda p: replace(p, kind=END_KIND, round=0, lanes=(0, 2, 0)),
    "replayed_exchange": lambda p: replace(p, seq=p.seq - 1),
    "future_exchange": lambda p: replace(p, seq=p.seq + 1),
    "differencing": lambda p: replace(p, cohort=p.cohort[1:]),
    "other_order": lambda p: replace(p, cohort=p.cohort[::-1]),
    "more words": lambda p: replace(p, lanes=(p.lanes[0] + 1, *p.lanes[1:])),
    "fewer sums": lambda p: replace(p, lanes=(*p.lanes[:2], p.lanes[2] - 1)),
    "metrics among what is opened of some": lambda p: replace(p, lanes=(p.lanes[0], sum(p.lanes[1:]) - 2, 0)),
    "no lanes": lambda p: replace(p, lanes=()),
    "endless_attempts": lambda p: replace(p, attempt=MAX_ATTEMPTS),
    "negative_attempt": lambda p: replace(p, attempt=-1),
}


@pytest.mark.parametrize("change", DEVIATIONS.values(), ids=DEVIATIONS)
def test_nothing_but_the_exchange_that_is_due_is_answered(small_sites: dict[str, AnnData], change: Change) -> None:
    house = House(small_sites)
    plan = house.until("train", 2)
    with pytest.raises(FederationError, match=r"not as agreed|a number is missing or out of range") as refused:
        house.tell(change(plan))
    if change(plan).seq != plan.seq and change(plan).seq >= 0:
        assert f"exchange {plan.seq} is due, not {change(plan).seq}" in str(refused.value)
    assert isinstance(house.tell(plan), Answer)  # the site is there for the plan that is due


@pytest.mark.parametrize("name", ["extra_round", "replayed_exchange", "early_end", "more words", "skipped_round"])
def test_the_control_answers(small_sites: dict[str, AnnData], name: str) -> None:
    """A site without the check does as it is told, so the test above would fail without it."""
    house = House(small_sites, Trusting)
    plan = house.until("train", 2)
    assert isinstance(house.tell(DEVIATIONS[name](plan)), Answer | type(None))


@pytest.mark.parametrize(
    ("attempt", "said"),
    [(-1, "attempt -1"), (0, ""), (MAX_ATTEMPTS - 1, ""), (MAX_ATTEMPTS, "attempt 12 is one too many")],
)
def test_an_exchange_is_asked_for_twelve_times(small_sites: dict[str, AnnData], attempt: int, said: str) -> None:
    house = House(small_sites)
    plan = house.until("train", 2)
    programme = house.sites["site_1"].replica.programme
    due = programme.due(plan.seq, rounds=1, stopped=False)
    assert due is not None and (due.kind, due.round) == ("train", 2)
    fault = programme.fault(replace(plan, attempt=attempt), due)
    assert said in fault and bool(said) == bool(fault)


def test_sites_of_a_round_follow_from_the_seed(small_sites: dict[str, AnnData]) -> None:
    """Between all rounds each site is asked as often as another, and in the agreed order."""
    house = House(small_sites, n_sites=4, participation=0.5, min_sites=2)
    agreement, count = house.agreement, house.exchanges[0]
    rounds = [Exchange("train", number, Packing(())) for number in range(1, 401)]
    cohorts = [cohort_of(agreement, exchange) for exchange in rounds]
    assert cohort_of(agreement, count) == agreement.sites
    assert all(len(cohort) == 2 and [*cohort] == sorted(cohort, key=agreement.sites.index) for cohort in cohorts)
    asked = [sum(site in cohort for cohort in cohorts) for site in agreement.sites]
    assert min(asked) > 150 and sum(asked) == 800
    assert cohorts == [cohort_of(replace(agreement, run="0" * 32), exchange) for exchange in rounds]


@pytest.mark.parametrize("stopped", [False, True])
def test_the_exchanges_come_one_after_the_other(small_sites: dict[str, AnnData], stopped: bool) -> None:
    """Having stopped, what follows the last round is due; of the sums before the first one nothing is left out."""
    programme = House(small_sites).sites["site_1"].replica.programme
    every = [
        "count",
        "means",
        "deviations",
        "train 1",
        "train 2",
        "train 3",
        "judge",
        "temperature",
        "confidence",
        "close",
    ]
    assert [f"{e.kind} {e.round}" if e.round else e.kind for e in programme.exchanges] == every
    assert [e.round for e in programme.exchanges] == [0, 0, 0, 1, 2, 3, 0, 0, 0, 0]
    assert [e.of_all for e in programme.exchanges] == [True] * 3 + [False] * 7
    assert [e.step for e in programme.exchanges] == [0] * 10  # each sum of this task has one
    left = [programme.due(n, rounds=min(max(n - 3, 0), 1 if stopped else 3), stopped=stopped) for n in range(11)]
    kinds = ["" if e is None else f"{e.kind} {e.round}" if e.round else e.kind for e in left]
    assert kinds == ([*every[:3], "judge", *every[6:], "", "", ""] if stopped else [*every, ""])


def test_masks_come_off_a_sum_of_enough_that_were_asked(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites, n_sites=4, seal="pairwise")
    programme, sites = house.sites["site_1"].replica.programme, house.agreement.sites
    train = next(exchange for exchange in house.exchanges if exchange.kind == "train")
    assert programme.opening_fault(sites[:3], sites, train) == programme.opening_fault(sites, sites, train) == ""
    assert "a sum of 2 sites is to be opened, agreed were at least 3" in programme.opening_fault(
        sites[:2], sites, train
    )
    assert "agreed were at least 4" in programme.opening_fault(sites[:3], sites, house.exchanges[0])
    assert "agreed were at least 4" in programme.opening_fault(sites[:3], sites, None)
    for wrong in (sites[::-1], (*sites[:3], "ghost"), (*sites[:3], sites[2])):
        assert "not asked, or in another order" in programme.opening_fault(wrong, sites, train)


def test_a_programme_is_not_altered_under_way(small_sites: dict[str, AnnData]) -> None:
    programme = House(small_sites).sites["site_1"].replica.programme
    for thing, name in ((programme, "agreement"), (programme.exchanges[0], "of_all")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, None)


def test_before_the_rounds_no_round_is_trained(small_sites: dict[str, AnnData]) -> None:
    """Training on moments of a sum that never came would use the data with scales of the coordinator's choice."""
    house = House(small_sites)
    plan = house.until("means")
    train = next(e for e in house.exchanges if e.kind == "train")
    with pytest.raises(FederationError, match="'means' of round 0 is due, not 'train' of round 1"):
        house.tell(replace(plan, kind="train", round=1, lanes=train.packing.lanes))


def test_after_stopping_no_round_is_trained_and_all_is_judged(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites, lr=0.05, rounds=40, patience=1)
    kinds = [exchange.kind for exchange in house.coordinator.run()]
    replica = house.sites[house.agreement.sites[0]].replica
    assert (
        replica.stopped and kinds.count("train") < 40 and kinds[-4:] == ["judge", "temperature", "confidence", "close"]
    )
    assert replica.due is None
    last = house.plans[-1]
    assert last.kind == END_KIND
    train = next(e for e in house.exchanges if e.kind == "train")
    with pytest.raises(FederationError, match="the run is over"):
        house.tell(replace(last, kind="judge", lanes=train.packing.lanes))


def test_a_sum_of_another_exchange_is_not_applied(small_sites: dict[str, AnnData]) -> None:
    """A sum that passed its tag in its own place is refused in another one."""
    house = House(small_sites)
    plan = house.until("train", 2)
    (total,) = [t for t in house.coordinator.progress.totals if t.seq == plan.seq - 1]
    replica = house.sites[house.agreement.sites[0]].replica
    before = replica.theta.clone()
    for wrong in (
        replace(total, round=2),
        replace(total, kind="judge", round=0),
        replace(total, cohort=total.cohort[::-1]),
        replace(total, words=replace(total.words, high=total.words.high[:-1])),
        replace(total, attempt=1),
    ):
        with pytest.raises(SealError):
            replica.catch_up((decode(encode(wrong)),))
        assert np.array_equal(replica.theta.numpy(), before.numpy()) and replica.seq == total.seq - 1
    replica.catch_up((total,))
    assert isinstance(total, Total) and replica.seq == total.seq


@pytest.mark.parametrize("marked", [True, False], ids=["marked inside the sum", "control"])
def test_nothing_visible_follows_from_values(
    small_sites: dict[str, AnnData], marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features ten million million times as large, and one site's updates out of range: the same plans, answers and sizes."""

    def refuse(update: Any, arrays: Any, packing: Packing, n_sites: int, *, weight: float) -> Any:
        update, sums, fits = fitted(update, arrays, packing, n_sites, weight=weight)
        if not fits:
            raise RangeError({"update": 2.0})
        return update, sums, fits

    def large(site: Site, plan: Plan) -> Any:
        update, arrays, weight = compute(site, plan)
        return (update * np.float32(1e5) if site.name == "site_3" else update), arrays, weight

    def seen(house: House) -> list[Any]:
        plans = [(p.seq, p.kind, p.round, p.attempt, p.cohort, p.lanes, len(p.previous)) for p in house.plans]
        replies = [(r.seq, r.attempt, r.words.lanes) for r in house.replies]
        return [plans, replies, [len(encode(r)) for r in house.replies]]

    compute = Site._values
    first = House(small_sites)
    list(first.coordinator.run())
    if not marked:
        monkeypatch.setattr("infl.federation.site.fitted", refuse)
    monkeypatch.setattr(Site, "_values", large)
    small_sites["site_2"].X = small_sites["site_2"].X * np.float32(1e13)
    second = House(small_sites)
    with nullcontext() if marked else pytest.raises(SealError, match="out of the agreed range"):
        list(second.coordinator.run())
    assert (seen(first) == seen(second)) is marked
    if marked:
        assert second.sites["site_1"].replica.wider and not first.sites["site_1"].replica.wider


def test_what_is_asked_for_at_any_time_changes_nothing(small_sites: dict[str, AnnData]) -> None:
    """Neither the word for a public key in the middle of a run, nor a plan that is refused, moves a site's own weights."""
    house = House(small_sites, rounds=6, aggregation="fedbn", seal="pairwise")
    plan = house.until("train", 5)
    site = house.sites[house.agreement.sites[0]]
    before, trained = site.trainer.own.now, site.trainer.own.after
    house.tell(replace(plan, kind=KEYS_KIND, lanes=(0, 2, 0), previous=()))
    with pytest.raises(FederationError):
        house.tell(replace(plan, seq=plan.seq + 7, previous=()))
    assert site.trainer.own.now is before and site.trainer.own.after is trained


def test_sites_that_agreed_on_other_things_open_nothing_together(small_sites: dict[str, AnnData]) -> None:
    """One site is told of more rounds than the others: their masks do not fit each other."""
    house = House(small_sites)
    names = house.agreement.sites
    other = replace(house.agreement, rounds=4)
    house.sites[names[0]] = Site(names[0], small_sites[names[0]], Replica(other, house.key))

    def ask(cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Any]:
        for name in cohort:
            plan = plan_for(name)
            digest = other.digest if name == names[0] else plan.agreement
            yield house.sites[name].handle(decode(encode(replace(plan, agreement=digest))))

    house.ask = ask  # type: ignore[method-assign]
    with pytest.raises(SealError):
        list(house.coordinator.run())


def test_a_sum_is_opened_once(small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairwise seal: the sum of all in one attempt and of all but one in the next would give that one away."""
    house = House(small_sites, seal="pairwise")
    house.until("train", 2)
    steps, seen = house.coordinator, []
    monkeypatch.setattr(
        steps, "_uncover", lambda *a: seen.append(Coordinator._uncover(steps, *a))
    )  # opened, and not told
    with pytest.raises(FederationError, match="opened already"):
        next(iter(steps.run()))
    assert seen and seen[0] is not None
    control = House(small_sites, Trusting, seal="pairwise")
    control.until("train", 2)
    steps, seen = control.coordinator, []
    monkeypatch.setattr(steps, "_uncover", lambda *a: seen.append(Coordinator._uncover(steps, *a)))
    with pytest.raises(FederationError, match="sites were lost"):
        next(iter(steps.run()))
    assert len(seen) == MAX_ATTEMPTS


def test_what_was_opened_is_remembered(small_sites: dict[str, AnnData], tmp_path: Any) -> None:
    house = House(small_sites, seal="pairwise")
    name = house.agreement.sites[0]
    site, store = house.sites[name], Checkpoint(tmp_path / "site")
    site.on_change = lambda s: store.save_sites(s.replica, {name: s})
    house.until("train", 2)
    again = Site(name, small_sites[name], Replica(house.agreement, house.key))
    store.restore_sites(again.replica, {name: again})
    assert again.revealed == site.revealed and again.revealed[0] == again.replica.seq + 1


def test_a_count_of_some_sites_is_not_applied(small_sites: dict[str, AnnData]) -> None:
    """All else is weighted by it; and two sites that were told of different ones would have different models."""
    house = House({**small_sites}, min_sites=2)
    names = house.agreement.sites
    first = house.exchanges[0]
    plans = [house.coordinator._plan(name, first, names, 0) for name in names]
    words = None
    for name, plan in zip(names[:2], plans, strict=False):
        reply = house.sites[name].handle(decode(encode(plan)))
        words = add(words, reply.words)
    total = Total(0, "count", 0, 0, names, names[:2], words)
    with pytest.raises(SealError, match="'count' is not of all sites"):
        house.sites[names[0]].replica.catch_up((decode(encode(total)),))


@pytest.mark.parametrize("chained", [True, False], ids=["chained", "control"])
def test_sites_that_were_given_other_sums_open_nothing_together_again(
    small_sites: dict[str, AnnData], chained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split view: one site is told of a round without its neighbour, the others of the round with all."""
    if not chained:
        monkeypatch.setattr("infl.federation.replica.linked", lambda *_: "")
    house = House(small_sites, min_sites=2)
    house.until("train", 2)
    names, coordinator = house.agreement.sites, house.coordinator
    due = house.exchanges[coordinator.progress.position]
    answers = [r for r in house.replies if isinstance(r, Answer) and r.seq == coordinator.progress.seq - 1]
    (honest,) = [t for t in coordinator.progress.totals if t.seq == coordinator.progress.seq - 1]
    words = None
    for answer in answers[:2]:
        words = add(words, answer.words)
    other = replace(honest, responders=names[:2], words=words.of_some())
    sums = dict.fromkeys(names, honest) | {names[2]: other}
    words = None
    for name in names:
        plan = coordinator._plan(name, due, names, 0)
        reply = house.sites[name].handle(decode(encode(replace(plan, previous=(sums[name],)))))
        words = add(words, reply.words)
    assert not house.sites[names[0]].replica.theta.equal(house.sites[names[2]].replica.theta)  # each sum passed its tag
    total = Total(honest.seq + 1, due.kind, due.round, 0, names, names, words)
    for name in names:
        with pytest.raises(SealError, match="not what the sites sealed") if chained else nullcontext():
            house.sites[name].replica.catch_up((total,))


@pytest.mark.parametrize("kind", [Site, Trusting], ids=["site", "control"])
@pytest.mark.parametrize("exchange", ["count", "train"])
def test_masks_come_off_no_sum_of_fewer_sites_than_agreed(kind: type[Site], exchange: str) -> None:
    """A coordinator and one member open what gets unmasked; the seal itself can do without one of five sites."""
    house = House(make_sites(5), kind, n_sites=5, seal="pairwise", min_sites=5 if exchange == "train" else 3)
    names = house.agreement.sites
    if exchange == "train":
        house.until("train", 2)
    coordinator, due = house.coordinator, house.exchanges[0 if exchange == "count" else 4]
    if exchange == "count":
        coordinator._collect_keys()
    assert due.kind == exchange
    shares = {}
    for name in names[:4]:
        answer = house.sites[name].handle(decode(encode(coordinator._plan(name, due, names, 0))))
        shares[name] = answer.shares
    plan = coordinator._plan(names[0], replace(due, kind="reveal " + due.kind), names, 0)
    mine = {sender: boxes[names[0]] for sender, boxes in shares.items() if names[0] in boxes}
    for answered in (names[:4], names[:4][::-1], (*names[:4], "ghost"), (*names[:4], names[0])):
        asked = replace(plan, answered=answered, shares=mine)
        if kind is Site:
            with pytest.raises(FederationError, match="a sum of 4 sites is to be opened|sites that were not asked"):
                house.tell(asked)
    if kind is Trusting:
        assert isinstance(house.tell(replace(plan, answered=names[:4], shares=mine)), Reveal)


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "control"])
def test_a_split_view_of_the_last_numbers_is_found_before_the_end(
    small_sites: dict[str, AnnData], closed: bool
) -> None:
    """One site is told that the last numbers stayed closed; without a sum after them, nobody would ever compare."""
    house = House(small_sites, min_sites=2)
    house.until("close")
    names, coordinator = house.agreement.sites, house.coordinator
    answers = [r for r in house.replies if isinstance(r, Answer) and r.seq == coordinator.progress.seq - 1]
    (honest,) = [t for t in coordinator.progress.totals if t.seq == coordinator.progress.seq - 1]
    words = None
    for answer in answers[:2]:
        words = add(words, answer.words)
    sums = dict.fromkeys(names, honest) | {names[2]: replace(honest, responders=names[:2], words=words.of_some())}
    due, words = house.exchanges[-1], None
    for name in names:
        plan = coordinator._plan(name, due, names, 0)
        words = add(words, house.sites[name].handle(decode(encode(replace(plan, previous=(sums[name],))))).words)
    known = ["confidence" in house.sites[name].replica.private for name in names]
    assert known == [True, True, False]  # and each sum passed its tag
    if not closed:
        return
    total = Total(honest.seq + 1, due.kind, due.round, 0, names, names, words)
    for name in names:
        with pytest.raises(SealError, match="not what the sites sealed"):
            house.sites[name].replica.catch_up((total,))


def test_what_a_round_leaves_is_kept_before_its_update_is_sent(small_sites: dict[str, AnnData], tmp_path: Any) -> None:
    """A site that starts again between its answer and the next plan: its update is in the sum, so its own part counts."""
    house = House(small_sites, aggregation="fedbn")
    name = house.agreement.sites[0]
    site, store = house.sites[name], Checkpoint(tmp_path / "site")
    site.on_change = lambda s: store.save_sites(s.replica, {name: s})
    plan = house.until("train", 2)
    answer = house.tell(plan)
    again = Site(name, small_sites[name], Replica(house.agreement, house.key))
    store.restore_sites(again.replica, {name: again})
    assert site.trainer.own.after is not None and again.trainer.own.after is not None
    assert again.trainer.own.after[0] == plan.seq
    assert again.trainer.own.after[2].weights.equal(site.trainer.own.after[2].weights)
    assert isinstance(answer, Answer)


def test_a_site_that_dies_while_it_writes_down_what_it_gives_gives_the_same_again(
    small_sites: dict[str, AnnData], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(small_sites, seal="pairwise")
    name = house.agreement.sites[0]
    store = Checkpoint(tmp_path / "site")
    ledger = Ledger(store.ledger_path(name), bytes(32))
    site = Site(name, small_sites[name], Replica(house.agreement, house.key), ledger)
    house.sites[name] = site
    kept: list[Any] = []
    site.on_change = lambda s: kept.append(s._given)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "record_reveal", dies)
    with pytest.raises(KeyboardInterrupt):
        next(iter(house.coordinator.run()))
    monkeypatch.undo()
    given = kept[-1]
    assert given is not None
    plan = house.plans[-1]
    assert house.tell(plan) is given[1] and ledger.revealed(house.agreement.run, plan.seq)
    ledger.close()


def test_a_ledger_does_not_grow_by_being_asked_for_keys(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites, seal="pairwise")
    name = house.agreement.sites[0]
    site = Site(name, small_sites[name], Replica(house.agreement, house.key), Ledger(None, bytes(32)))
    house.sites[name] = site
    plan = house.until("train", 1)
    assert site.ledger is not None
    before = len(site.ledger.entries)
    for seq in range(50):
        house.tell(replace(plan, kind=KEYS_KIND, seq=seq, lanes=(0, 2, 0), previous=()))
    assert len(site.ledger.entries) <= before + 1
