"""The global model at a site: which key it needs, which sums it applies, and what it says of itself."""

import hashlib
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.federation.test_programme import House

import infl.federation.run_lock as lock_module
from infl.errors import FederationError, KeyringError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.exchanges import summarised
from infl.federation.messages import REVEAL_KIND
from infl.federation.packings import left_out
from infl.federation.replica import Replica
from infl.federation.run_lock import named
from infl.keys import Keyring
from infl.models import Classifier
from infl.privacy import DP
from infl.privacy.dp import NOISE_TAIL, grid_exponent
from infl.privacy.seal.packing import limit
from infl.sums.lanes import LEFT_OUT_COUNT, WIDER_COUNT

TASK = Classifier(target="label", width=8, n_blocks=1)


def agreed(sites: dict[str, AnnData], key: Keyring | None, task: Classifier = TASK, **settings: Any) -> Agreement:
    return Agreement.new(task, task.agree(sites), sites, key, **settings)


def note_metrics(replica: Replica, total: dict[str, np.ndarray]) -> None:
    replica._note_metrics(summarised(replica.task, replica.agreement.panel, total))


def test_a_run_with_a_key_needs_that_key(small_sites: dict[str, AnnData]) -> None:
    key = Keyring.create()
    agreement = agreed(small_sites, key)
    with pytest.raises(KeyringError, match="the run needs key version 1"):
        Replica(agreement, None)
    with pytest.raises(KeyringError):
        Replica(agreement, Keyring.create())
    assert Replica(agreement, key).seal.min_sites == 3


@pytest.mark.parametrize("lock", ["field", "published", None])
def test_a_model_says_under_which_key_it_is_locked(small_sites: dict[str, AnnData], lock: str | None) -> None:
    key = Keyring.create()
    header = Replica(agreed(small_sites, key, lock=lock), key).model().header
    locked = (1, key.fingerprint())
    assert (header.key_version, header.fingerprint) == ((0, "") if lock is None else locked)
    assert header.lock == (lock or "none") and bool(header.salt) == (lock == "published")


def test_without_seal_and_lock_there_is_no_secret(small_sites: dict[str, AnnData]) -> None:
    replica = Replica(agreed(small_sites, None, seal="none", lock=None), None)
    assert (replica.seal.name, replica.seal_secret, replica.gain) == ("none", b"", None)
    assert torch.equal(replica.theta, replica.flat_model.copy_shared())


@pytest.mark.parametrize(("seal", "travels_locked"), [("none", True), ("group", False), ("pairwise", False)])
def test_updates_travel_locked_where_nothing_seals_them(
    small_sites: dict[str, AnnData], seal: str, travels_locked: bool
) -> None:
    key = Keyring.create()
    replica = Replica(agreed(small_sites, key, seal=seal), key)
    assert (replica.gain is not None) is travels_locked
    if replica.gain is not None:
        assert replica.gain.shape == replica.theta.shape and replica.gain.std() > 0.1


def test_sums_are_applied_in_order_and_once(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites)
    house.until("train", 3)
    seen = {total.seq: total for plan in house.plans for total in plan.previous}
    totals = tuple(seen[seq] for seq in sorted(seen))
    late = Replica(house.agreement, house.key)
    with pytest.raises(FederationError, match="the sum of exchange 0 is missing, the next that came is 1"):
        late.catch_up(totals[1:])
    assert (late.seq, late.chain) == (-1, "")
    late.catch_up(totals[:2])
    late.catch_up(totals)
    late.catch_up(totals[:3])
    first = house.sites["site_1"].replica
    first.catch_up(totals)
    assert (late.seq, late.chain, late.made) == (len(totals) - 1, first.chain, first.made)
    assert torch.equal(late.theta, first.theta) and late.absent == {}


def test_who_is_not_in_a_sum_is_noted(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites, n_sites=4)
    plan = house.until("train", 1)
    ask = house.ask
    house.ask = lambda cohort, plan_for: ask(cohort[:3], plan_for)  # type: ignore[method-assign]
    next(iter(house.coordinator.run()))
    replica = house.sites["site_1"].replica
    replica.catch_up(tuple(house.coordinator.progress.totals))
    assert replica.absent == {str(plan.seq): ["site_4"]}
    assert replica.rows[0]["n_sites"] == 3


def test_all_who_seal_in_one_process_share_a_context(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites)
    plan = house.until("train", 1)
    replica = house.sites["site_1"].replica
    replica.catch_up(plan.previous)
    context = replica.context(plan)
    assert replica.context(replace(plan)) is context is replica.context(replace(plan, kind=REVEAL_KIND + plan.kind))
    changed = [replica.context(replace(plan, attempt=1)), replica.context(replace(plan, peers={"a": bytes(128)}))]
    replica.chain = "0" * 64
    changed.append(replica.context(plan))
    assert len({context.digest(), *(other.digest() for other in changed)}) == 4


def test_what_weights_follow_from_is_named_with_lengths() -> None:
    expected = hashlib.sha256(b"infl run\n" + (2).to_bytes(8, "little") + b"ab" + (1).to_bytes(8, "little") + b"c")
    assert named("run", "ab", b"c") == expected.digest()
    assert named("run", "a", "bc") != named("run", "ab", "c") != named("sum", "ab", "c")


def test_names_and_length_of_a_run_change_no_salt(small_sites: dict[str, AnnData]) -> None:
    """Salts of the lock follow from what weights follow from, so that the same weights have the same."""
    key = Keyring.create()
    agreement = agreed(small_sites, key)
    made = Replica(agreement, key).made
    for same in ({"run": "0" * 32}, {"salt": "0" * 32}, {"rounds": 7}, {"patience": 3}):
        assert Replica(replace(agreement, **same), key).made == made
    for other in ({"seed": 1}, {"local_epochs": 2}, {"sites": agreement.sites[::-1]}):
        assert Replica(replace(agreement, **other), key).made != made


def test_noise_and_what_is_left_beside_it(small_sites: dict[str, AnnData]) -> None:
    key, task = Keyring.create(), TASK.for_dp()
    dp = DP(noise_multiplier=2.0, delta=1e-3, noise="local", clip_norm=0.5)
    replica = Replica(agreed(small_sites, key, task, privacy=dp, rounds=2), key)
    step = 2.0 ** grid_exponent(0.5, len(replica.theta))
    assert replica.noise_in_steps == pytest.approx(2.0 * 0.5 / step)
    assert replica.room == limit(32, 4) - int(np.ceil(NOISE_TAIL * replica.noise_in_steps))
    assert replica.room * step > 1


def test_noise_that_leaves_no_room_is_refused(small_sites: dict[str, AnnData]) -> None:
    """A gradient of the size of the clipping norm must fit beside the noise."""
    key, task = Keyring.create(), TASK.for_dp()

    def replica(noise: float) -> Replica:
        dp = DP(noise_multiplier=noise, delta=1e-3, noise="local", clip_norm=1.0)
        return Replica(agreed(small_sites, key, task, privacy=dp, rounds=2), key)

    step = 2.0 ** grid_exponent(1.0, len(replica(1.0).theta))
    for left in (0.5, 2.0):  # norms of a gradient
        noise = (limit(32, 4) - left / step) / NOISE_TAIL * step
        with nullcontext() if left > 1 else pytest.raises(SettingsError, match="leaves no room for gradients"):
            assert replica(noise).room * step == pytest.approx(left, rel=0.01)


def test_under_privacy_only_what_the_task_gives_privately_is_summed(small_sites: dict[str, AnnData]) -> None:
    key = Keyring.create()
    with pytest.raises(SettingsError, match=r"agree on what task\.for_dp\(\) gives"):
        Replica(agreed(small_sites, key, privacy=DP(noise_multiplier=2.0, delta=1e-3), rounds=2), key)


@pytest.mark.parametrize("maximise", [False, True])
def test_the_best_round_is_the_first_that_none_beats(
    small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch, maximise: bool
) -> None:
    """Two rounds after it without a better one training stops, and does not begin again."""
    monkeypatch.setattr(Classifier, "summarise", lambda task, sums: {"loss": float(sums.get("x", np.nan))})
    monkeypatch.setattr(Classifier, "maximise", maximise)
    key, seen = Keyring.create(), []
    replica = Replica(agreed(small_sites, key, patience=2), key)
    note_metrics(replica, {"metric.x": np.asarray(9.0)})  # before the first round there is nothing to judge
    assert replica.rows == [] and replica.best_round == 0
    for number, value in enumerate((np.nan, 5.0, 3.0, np.nan, 3.0, 1.0), 1):
        replica.rows.append({"loss": 0.0, "n_sites": 4})
        replica.theta, replica.made = torch.full_like(replica.theta, number), f"0{number}"
        note_metrics(replica, {"metric.x": np.asarray(-value if maximise else value)})
        kept = 0 if replica.best_theta is None else int(replica.best_theta[0])
        seen.append((replica.best_round, kept, replica.stopped))
        assert kept == 0 or replica.best_made == f"0{kept}"
    assert seen == [(0, 0, False), (2, 2, False), (3, 3, False), (3, 3, False), (3, 3, True), (6, 6, True)]
    replica.rows.append({"loss": 0.0, "n_sites": 3})
    note_metrics(replica, {})  # a site was missing
    assert np.isnan(replica.rows[-1]["val_loss"]) and replica.best_round == 6


def test_without_patience_training_goes_on(small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classifier, "summarise", lambda task, sums: {"loss": float(sums["x"])})
    key = Keyring.create()
    replica = Replica(agreed(small_sites, key), key)
    for value in range(1, 30):
        replica.rows.append({"loss": 0.0, "n_sites": 4})
        note_metrics(replica, {"metric.x": np.asarray(float(value))})
    assert replica.best_round == 1 and not replica.stopped


def test_under_privacy_a_round_goes_against_the_mean_gradient(
    small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean is over as many records as a sample has on average, whoever answered."""
    dp = DP(noise_multiplier=2.0, delta=1e-3, noise="local", sample_rate=0.25)
    house = House(small_sites, lr=1e-3, rounds=1, privacy=dp, private=True)
    opened: list[np.ndarray] = []
    moved: list[torch.Tensor] = []
    replica = house.sites["site_1"].replica
    unseal = replica.seal.unseal
    monkeypatch.setattr(replica.seal, "unseal", lambda *what: opened.append(lanes := unseal(*what)) or lanes)
    replica.rule = replace(replica.rule, at_sum=lambda theta, update, state: moved.append(update.clone()))
    house.until("close")
    replica.catch_up(tuple(house.coordinator.progress.totals))
    gradient = opened[1][0] * 2.0 ** replica.programme.exchanges[1].packing.fields[0].exponent
    assert replica.programme.exchanges[1].kind == "train" and np.abs(gradient).max() > 0
    np.testing.assert_allclose(moved[0], -gradient / (0.25 * replica.n_total), rtol=1e-5)
    assert replica.steps == [(2.0, 0.25, 1)]


def test_the_module_is_in_the_mode_that_is_asked_for(small_sites: dict[str, AnnData]) -> None:
    key = Keyring.create()
    replica = Replica(agreed(small_sites, key), key)
    assert not replica.module().training and replica.module(training=True).training and not replica.module().training
    assert replica.steps == []


def test_secrets_are_of_the_runs_salt(small_sites: dict[str, AnnData]) -> None:
    key = Keyring.create()
    agreement = agreed(small_sites, key, seal="none")
    replica, other = Replica(agreement, key), Replica(replace(agreement, salt="0" * 32), key)
    assert replica.gain is not None and other.gain is not None and not torch.equal(replica.gain, other.gain)
    for one in (replica, other):
        assert one.seal_secret == key.subkey("seal", version=1, salt=bytes.fromhex(one.agreement.salt))


def test_the_loss_of_a_round_is_the_mean_over_samples(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites)
    plan = house.until("train", 1)
    told = []
    for site in house.sites.values():
        site.replica.catch_up(plan.previous)
        told.append((len(site.data.train), site.trainer.update(plan)[1]))
    house.until("train", 2)
    replica = house.sites["site_1"].replica
    replica.catch_up(tuple(house.coordinator.progress.totals))
    mean = sum(n * loss for n, loss in told) / sum(n for n, _ in told)
    assert replica.rows[0]["loss"] == pytest.approx(mean, rel=1e-5)
    assert len({n for n, _ in told}) > 1


def test_salts_follow_from_sums_that_move_weights(small_sites: dict[str, AnnData]) -> None:
    """Counts weigh the updates; moments and metrics change no weight."""
    house = House(small_sites, patience=0)
    replica = house.sites["site_1"].replica
    made = {"": replica.made}
    for exchange in house.coordinator.run():
        replica.catch_up(tuple(house.coordinator.progress.totals))
        made[f"{exchange.kind} {exchange.round}"] = replica.made
    names, values = [*made], [*made.values()]
    changed = {name for name, before, after in zip(names[1:], values, values[1:], strict=False) if before != after}
    assert changed - {"judge 0"} == {"count 0", "train 1", "train 2", "train 3"}
    assert made["judge 0"] == made[f"train {replica.best_round}"] == made["close 0"]


def test_where_factors_stay_closed_those_before_count(small_sites: dict[str, AnnData]) -> None:
    key = Keyring.create()
    replica = Replica(agreed(small_sites, key, aggregation="qfedavg"), key)
    told = [(None, 7.0), (5.0, 5.0), (None, 5.0), (0.0, 0.0), (None, 5.0), (3.0, 3.0), (None, 3.0)]
    for importance, counted in told:
        arrays = {} if importance is None else {"importance": np.asarray(importance)}
        assert replica._counted(arrays, 7.0) == counted
    assert Replica(agreed(small_sites, key), key)._counted({"importance": np.asarray(5.0)}, 7.0) == 7.0


def test_what_sums_moved_has_a_salt_that_follows_from_them(
    small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processors round weights differently; the salts must be the same at all sites."""
    locked: list[dict[str, str]] = []
    lock = lock_module.lock_model
    monkeypatch.setattr(lock_module, "lock_model", lambda *a, salts: locked.append(salts) or lock(*a, salts=salts))
    house = House(small_sites)
    replica = house.sites["site_1"].replica
    replica.model()
    list(house.coordinator.run())
    replica.catch_up(tuple(house.coordinator.progress.totals))
    replica.model()
    begun, ended = locked
    assert begun == {} and {*ended} == {entry.name for entry in replica.flat_model.shared.entries}
    assert len({*ended.values()}) == len(ended)


@pytest.mark.parametrize(("marks", "said"), [(1.0, "; later rounds have a wider scale"), (0.0, "zero\n")])
def test_updates_that_count_as_zero_are_said(
    small_sites: dict[str, AnnData], capsys: pytest.CaptureFixture[str], marks: float, said: str
) -> None:
    house = House(small_sites)
    plan = house.until("train", 2)
    (total,) = (total for total in house.coordinator.progress.totals if total.seq == plan.seq - 1)
    wider = np.zeros((2, 8))
    wider[1, 3] = marks
    assert left_out(total, {LEFT_OUT_COUNT: np.asarray(2.0), WIDER_COUNT: wider}) == 2
    error = capsys.readouterr().err
    assert "round 1: 2 of 3 updates were not finite or out of range, and count as zero" in error and said in error
    assert left_out(total, {LEFT_OUT_COUNT: np.asarray(0.0), WIDER_COUNT: wider}) == 0
    assert left_out(total, {}) == 0 and capsys.readouterr().err == ""


def test_a_rule_that_gives_nobody_any_weight_is_an_error(small_sites: dict[str, AnnData]) -> None:
    house = House(small_sites, aggregation="qfedavg")
    for site in house.sites.values():
        site.replica.rule = replace(site.replica.rule, importance=lambda seen: 0.0)
    with pytest.raises(FederationError, match="round 1: aggregation='qfedavg' gives no site any weight"):
        list(house.coordinator.run())
