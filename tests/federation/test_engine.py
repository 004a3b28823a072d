"""Laws of the round: protection changes nothing, one seed fixes everything, lost sites cost themselves only."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

import infl
from infl._mudata import without_pull
from infl.errors import DataError, FederationError, FileError, InflWarning, KeyringError, SealError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Reply, Transport
from infl.federation.local import run_in_process
from infl.federation.messages import Answer, Plan
from infl.federation.packings import update_exponent
from infl.federation.replica import Replica
from infl.federation.site import Site
from infl.keys import Keyring
from infl.models import Classifier, Mosaic, Spatial
from infl.models.task import Task
from infl.sums.lanes import fitted, split_sums, sums_packing

OPTIONS = {"target": "label", "width": 8, "n_blocks": 1, "progress": False, "rounds": 4}

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")


def fit(sites: dict[str, AnnData], **options: object) -> object:
    return infl.tl.fit_federated({s: a.copy() for s, a in sites.items()}, **{**OPTIONS, **options})


def weights(run) -> torch.Tensor:
    key = run.key if run.model.header.fingerprint else None
    return torch.cat([t.ravel() for t in run.model.effective(key).values()])


def latents(sites: dict[str, AnnData]) -> np.ndarray:
    """What a fit wrote: computed with the exact weights, before the lock's rounding under a salt of its own."""
    return np.concatenate([a.obsm["X_infl"] for a in sites.values()])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@dataclass
class TappedTransport:
    """A transport with somebody on the line, who may lose or change answers and plans."""

    inner: Transport
    on_answer: Callable[[Plan, Answer], Reply | None] = lambda plan, reply: reply
    on_plan: Callable[[str, Plan], Plan] = lambda site, plan: plan
    asked: list[Plan] = field(default_factory=list)

    def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
        plans: dict[str, Plan] = {}

        def plan(site: str) -> Plan:
            plans[site] = self.on_plan(site, plan_for(site))
            self.asked.append(plans[site])
            return plans[site]

        for reply in self.inner.ask(cohort, plan):
            changed = self.on_answer(plans[reply.site], reply) if isinstance(reply, Answer) else reply
            if changed is not None:
                yield changed

    def holder(self, site: str) -> str:
        return self.inner.holder(site)


def run_over(sites: dict[str, AnnData], wrap: Callable[[Transport], Transport], **settings: object):
    task = Classifier(target="label", width=8, n_blocks=1)
    key = Keyring.create()
    agreement = Agreement.new(task, task.agree(sites), sites, key, **{"rounds": 4, **settings})
    return run_in_process(agreement, task, sites, key, wrap=wrap).run


# -- protection changes nothing ----------------------------------------------------------------------------------------
def test_locked_is_unlocked_is_sealed(small_sites: dict[str, AnnData]) -> None:
    plain = fit(small_sites, lock=None, seal="none")
    for protection in ({"lock": "field", "seal": "none"}, {"lock": None}, {}, {"strength": 0.3}):
        run = fit(small_sites, **protection)
        assert relative(weights(run), weights(plain)) < 1e-5, protection
        np.testing.assert_allclose(run.history["val_loss"], plain.history["val_loss"], rtol=1e-4)


def test_sealing_changes_no_bit(small_sites: dict[str, AnnData]) -> None:
    assert torch.equal(weights(fit(small_sites, lock=None)), weights(fit(small_sites, lock=None, seal="none")))


def test_average_is_weighted_by_training_samples(small_sites: dict[str, AnnData]) -> None:
    """One round against the average written out."""
    run = fit(small_sites, rounds=1, lock=None, seal="none", validation=0.0)
    task = Classifier(target="label", width=8, n_blocks=1, validation=0.0)
    parts = []
    for name in small_sites:
        panel = task.agree(small_sites)
        agreement = Agreement.new(task, panel, [*small_sites], None, rounds=1, lock=None, seal="none")
        outcome = run_in_process(
            agreement, task, small_sites, None, wrap=lambda t, n=name: TappedTransport(t, _only(n))
        )
        parts.append(weights(outcome.run))
    begun = Replica(agreement, None, task).theta
    expected = begun + sum(part - begun for part in parts)  # who is lost counts as zero, with the weight agreed on
    alone = [task.read(small_sites[name], panel, site=name, rng=np.random.default_rng(0)) for name in small_sites]
    assert [len(data.train) for data in alone] == [adata.n_obs for adata in small_sites.values()]
    torch.testing.assert_close(weights(run), expected, rtol=1e-5, atol=1e-6)


def _only(site: str) -> Callable[[Plan, Answer], Answer | None]:
    return lambda plan, reply: reply if plan.kind != "train" or reply.site == site else None


# -- one seed ----------------------------------------------------------------------------------------------------------
def test_one_seed_same_bits_another_seed_others(small_sites: dict[str, AnnData]) -> None:
    first, again, other = (weights(fit(small_sites, lock=None, seed=s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_seed_leaves_global_generators_alone(small_sites: dict[str, AnnData]) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    fit(small_sites)
    assert (torch.rand(1), np.random.rand()) == expected


def test_run_names_never_repeat_so_masks_never_do(small_sites: dict[str, AnnData]) -> None:
    names = {fit(small_sites, rounds=1).settings["run"] for _ in range(3)}
    assert len(names) == 3


# -- choosing the round ------------------------------------------------------------------------------------------------
def test_best_round_by_validation_is_kept(small_sites: dict[str, AnnData]) -> None:
    run = fit(small_sites, lock=None, lr=0.05, rounds=8)
    best = run.history["val_loss"].idxmin()
    assert run.history.index[run.history["best"]].tolist() == [best]
    if best < 8:
        shorter = fit(small_sites, lock=None, lr=0.05, rounds=int(best))
        torch.testing.assert_close(weights(run), weights(shorter))


def test_early_stopping(small_sites: dict[str, AnnData]) -> None:
    run = fit(small_sites, lr=0.1, rounds=60, patience=2)
    assert len(run.history) < 60
    judged = run.history["val_loss"]
    assert judged.notna().all()
    assert len(judged) - 1 - judged.iloc[:-1].idxmin() == 2  # a round's model is judged while the next is trained
    assert run.history.index[run.history["best"]].tolist() == [judged.idxmin()]


def test_without_validation_the_last_round_is_kept(small_sites: dict[str, AnnData]) -> None:
    run = fit(small_sites, validation=0.0)
    assert run.history.index[run.history["best"]].tolist() == [4]


def test_proximal_term_keeps_sites_near(small_sites: dict[str, AnnData]) -> None:
    start = fit(small_sites, lock=None, rounds=1, lr=1e-9, validation=0.0)
    moved = {
        mu: float(
            (
                weights(fit(small_sites, lock=None, rounds=1, local_epochs=10, validation=0.0, **o)) - weights(start)
            ).norm()
        )
        for mu, o in {
            0: {},
            50: {"aggregation": "fedprox", "aggregation_options": {"mu": 50.0}},
        }.items()
    }
    assert moved[50] < 0.8 * moved[0]
    same = fit(small_sites, lock=None, aggregation="fedprox", aggregation_options={"mu": 0.0})
    torch.testing.assert_close(weights(same), weights(fit(small_sites, lock=None)))


# -- cohorts and losses ------------------------------------------------------------------------------------------------
def test_client_sampling_asks_a_share_each_round(small_sites: dict[str, AnnData]) -> None:
    lines: list[TappedTransport] = []
    run = run_over(small_sites, lambda t: lines.append(TappedTransport(t)) or lines[0], participation=0.75, rounds=6)
    cohorts = {p.round: p.cohort for p in lines[0].asked if p.kind == "train"}
    assert [len(c) for c in cohorts.values()] == [3] * 6
    assert len(set(cohorts.values())) > 1
    assert (run.history["n_sites"] == 3).all()


def test_lost_site_costs_itself_only(small_sites: dict[str, AnnData]) -> None:
    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and plan.round == 2 and reply.site == "site_2" else reply

    run = run_over(small_sites, lambda t: TappedTransport(t, lose))
    assert run.history["n_sites"].tolist() == [4, 3, 4, 4]
    plain = run_over(small_sites, lambda t: TappedTransport(t, lose), seal="none", lock=None)
    assert relative(weights(run), weights(plain)) < 1e-5


@pytest.mark.parametrize("seal", ["group", "pairwise", "none"])
def test_losses_and_metrics_are_of_all_sites_or_not_told(small_sites: dict[str, AnnData], seal: str) -> None:
    """A sum of some beside one of all would tell the missing site's; the best round is one of those that are told."""

    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and plan.round in (2, 4) and reply.site == "site_2" else reply

    lines: list[TappedTransport] = []
    run = run_over(small_sites, lambda t: lines.append(TappedTransport(t, lose)) or lines[0], seal=seal)
    assert run.history["n_sites"].tolist() == [4, 3, 4, 3]
    assert run.history["loss"].isna().tolist() == [False, True, False, True]
    judged = [c for c in run.history if c.startswith("val_")]
    assert len(judged) > 1  # a round's model is judged in the next one; the last one, at the end
    assert run.history[judged].isna().all(axis=1).tolist() == [True, False, True, False]
    assert run.history.index[run.history["best"]].tolist() == [run.history["val_loss"].idxmin()]
    sums = {total.seq: total for plan in lines[0].asked for total in plan.previous}.values()
    assert {len(total.words.of_all) > 0 for total in sums if total.responders != total.cohort} == {False}
    assert all(len(total.words.of_all) for total in sums if total.kind == "train" and total.responders == total.cohort)


def test_rounds_that_are_not_told_count_as_rounds_without_a_better_one(small_sites: dict[str, AnnData]) -> None:
    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and plan.round in (3, 4, 5) and reply.site == "site_2" else reply

    run = run_over(small_sites, lambda t: TappedTransport(t, lose), rounds=9, patience=3)
    best = int(run.history.index[run.history["best"]][0])
    assert run.history["val_loss"].isna().tolist()[1:4] == [True] * 3
    assert len(run.history) == 9 or len(run.history) - 1 - best == 3


def test_final_sums_that_stay_closed_leave_out_what_follows_from_them(
    small_sites: dict[str, AnnData], capsys: pytest.CaptureFixture[str]
) -> None:
    kinds: list[str] = []

    def lose(plan: Plan, reply: Answer) -> Answer | None:
        kinds.append(plan.kind)
        return None if plan.kind == "latent" and reply.site == "site_2" else reply

    task, key = Classifier(target="label", width=8, n_blocks=1, coordinate=1), Keyring.create()
    agreement = Agreement.new(task, task.agree(small_sites), small_sites, key, rounds=2)
    outcome = run_in_process(agreement, task, small_sites, key, wrap=lambda t: TappedTransport(t, lose))
    assert "site_2 missing in the sums for 'latent': they stay closed" in capsys.readouterr().err
    assert kinds[-8:] == ["temperature"] * 4 + ["close"] * 4  # the programme is what it was
    assert not {"latent_sum", "temperature"} & {*outcome.run.model.private_arrays(key)}
    assert "class_counts" in outcome.run.model.private_arrays(key)
    whole = run_in_process(agreement, task, small_sites, key)
    assert {"latent_sum", "temperature"} <= {*whole.run.model.private_arrays(key)}
    assert torch.equal(outcome.replica.theta, whole.replica.theta)


@pytest.mark.parametrize("lost_in", ["domains 1", "centres_1_0"])
def test_final_sums_that_build_on_each_other_are_left_out_together(
    lost_in: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mixture half way, or clusters of one of several levels, would be no model's."""
    rng = np.random.default_rng(0)
    spots = {s: AnnData(rng.poisson(3.0, (60, 12)).astype(np.float32)) for s in ("a", "b", "c", "d")}
    for name, adata in spots.items():
        adata.var_names, adata.obs_names = [f"g{i}" for i in range(12)], [f"{name}{i}" for i in range(60)]
        adata.obsm["spatial"] = rng.random((60, 2))
    mosaic = lost_in.startswith("centres")
    task: Task = Mosaic(n_domains=2, n_latent=3) if mosaic else Spatial(n_domains=2, n_latent=3, steps=3)
    with without_pull():
        sites: dict[str, Any] = {s: MuData({"rna": adata}) for s, adata in spots.items()} if mosaic else spots

    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == lost_in and reply.site == "b" else reply

    key = Keyring.create()
    agreement = Agreement.new(task, task.agree(sites), sites, key, rounds=1)
    for wrap, whole in ((lambda t: TappedTransport(t, lose), False), (lambda t: t, True)):
        outcome = run_in_process(agreement, task, sites, key, wrap=wrap)
        assert (f"b missing in the sums for '{lost_in}'" in capsys.readouterr().err) is not whole
        infl.tl.predict(adata := sites["a"].copy(), outcome.run.model, key=key)
        assert ("infl_domain" in adata.obs and bool(adata.obs["infl_domain"].notna().all())) is whole
        assert np.isfinite(adata.obsm["X_infl"]).all()


@pytest.mark.parametrize("name", ["qfedavg", "afl", "fedavg"])
def test_factors_of_sites_are_of_the_last_round_in_which_all_were(small_sites: dict[str, AnnData], name: str) -> None:
    """The lost site counts as zero with the weight that all had together when it was last there."""

    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and plan.round == 2 and reply.site == "site_2" else reply

    options = {"qfedavg": {"q": 1}, "fedavg": {"weight": "sites"}}.get(name, {})
    settings = {"aggregation": name, "aggregation_options": options, "lock": None, "rounds": 2}
    run, plain = (
        run_over(small_sites, lambda t: TappedTransport(t, lose), **settings, seal=s) for s in ("group", "none")
    )
    assert relative(weights(run), weights(plain)) < 1e-5
    assert run.history["loss"].isna().tolist() == [False, True]


def test_too_few_answers_name_the_missing(small_sites: dict[str, AnnData]) -> None:
    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and reply.site in ("site_2", "site_4") else reply

    with pytest.raises(FederationError, match=r"only 2 of 4 .* missing: site_2, site_4"):
        run_over(small_sites, lambda t: TappedTransport(t, lose))


def test_every_site_must_be_counted(small_sites: dict[str, AnnData]) -> None:
    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "count" and reply.site == "site_1" else reply

    with pytest.raises(FederationError, match="missing: site_1"):
        run_over(small_sites, lambda t: TappedTransport(t, lose))


def test_an_update_out_of_range_counts_as_zero_and_later_scales_are_wider(
    small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first round on a scale that is 2¹⁸ times too fine is lost for all; the other three are as they would be."""
    expected = fit(small_sites, lock=None, rounds=3)
    tight = update_exponent(1e-3, 1) - 18
    monkeypatch.setattr("infl.federation.exchanges.update_exponent", lambda lr, epochs: tight)
    lines: list[TappedTransport] = []
    run = run_over(small_sites, lambda t: lines.append(TappedTransport(t)) or lines[0])
    assert {plan.attempt for plan in lines[0].asked} == {0}
    assert run.history["n_sites"].tolist() == [0, 4, 4, 4]
    assert np.isnan(run.history["loss"].iloc[0]) and run.history["loss"].iloc[1:].notna().all()
    assert "round 1: 4 of 4 updates were not finite or out of range" in capsys.readouterr().err
    assert run.history["val_loss"].iloc[-1] == pytest.approx(expected.history["val_loss"].iloc[-1], rel=0.1)


@pytest.mark.parametrize("value", [1e12, np.nan])
def test_one_site_out_of_range_costs_itself_that_round(
    small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """As if it had been lost, to the bit; and its own weights stay as they were."""
    compute = Site._values

    def large(site: Site, plan: Plan) -> Any:
        update, arrays, weight = compute(site, plan)
        if plan.kind == "train" and plan.round == 2 and site.name == "site_2":
            update = update * np.float32(value)
        return update, arrays, weight

    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and plan.round == 2 and reply.site == "site_2" else reply

    lost = run_over(small_sites, lambda t: TappedTransport(t, lose), rounds=2, lock=None)
    monkeypatch.setattr(Site, "_values", large)
    run = run_over(small_sites, lambda t: t, rounds=2, lock=None)
    assert run.history["n_sites"].tolist() == [4, 3]
    np.testing.assert_array_equal(run.history["loss"], lost.history["loss"])
    assert torch.equal(weights(run), weights(lost))


def test_a_round_without_a_finite_update_ends_the_run_in_one_line(
    small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = Site._values

    def broken(site: Site, plan: Plan) -> Any:
        update, arrays, weight = compute(site, plan)
        return (update * np.float32(np.nan) if plan.kind == "train" else update), arrays, weight

    monkeypatch.setattr(Site, "_values", broken)
    with pytest.raises(FederationError, match="round 1: no site's update is finite; training diverges: lower lr="):
        run_over(small_sites, lambda t: t)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e40])
def test_a_sum_that_is_not_finite_ends_the_run_and_names_no_site_to_others(
    small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    compute = Site._values

    def broken(site: Site, plan: Plan) -> Any:
        update, arrays, weight = compute(site, plan)
        if plan.kind == "means" and site.name == "site_2":
            arrays = {name: array * value for name, array in arrays.items()}
        return update, arrays, weight

    monkeypatch.setattr(Site, "_values", broken)
    with pytest.raises(
        FederationError, match=r"^1 of 4 sites have values that are not finite, or larger than any scale"
    ):
        run_over(small_sites, lambda t: t)
    assert "site_2: what it had for the sums for 'means' was not finite or out of range" in capsys.readouterr().err


def test_sums_of_any_expected_size_are_exact(small_sites: dict[str, AnnData]) -> None:
    """Sums of squares of raw counts: more than one limb of 64 bits holds on a scale of 2⁻²⁰."""
    packing = sums_packing({"x": (4,)})
    parts = [np.array([3.0e34, 1.5, -7e15, 2.0**-20]), np.array([-1e34, 2.0**-20, 7e15 + 0.5, 0.0])]
    total = sum(fitted(np.empty(0), {"x": part}, packing, 2, weight=1.0)[1] for part in parts)
    assert np.array_equal(split_sums(total, packing)["x"], parts[0] + parts[1])


# -- enemies on the line -----------------------------------------------------------------------------------------------
def test_altered_sum_is_rejected_and_nothing_applied(small_sites: dict[str, AnnData]) -> None:
    def flip(plan: Plan, reply: Answer) -> Answer:
        if plan.kind == "train" and plan.round == 2 and reply.site == "site_3":
            reply.words.low[5] ^= 1
        return reply

    with pytest.raises(SealError):
        run_over(small_sites, lambda t: TappedTransport(t, flip))


def test_answer_for_another_key_is_refused_with_both_names(small_sites: dict[str, AnnData]) -> None:
    from dataclasses import replace

    def other(plan: Plan, reply: Answer) -> Answer:
        return replace(reply, key_version=7, fingerprint="ffff") if reply.site == "site_2" else reply

    with pytest.raises(KeyringError, match=r"site_2 used key version 7 \(ffff\)"):
        run_over(small_sites, lambda t: TappedTransport(t, other))


@pytest.mark.parametrize("change", [{"run": "0" * 32}, {"agreement": "0" * 64}, {"fingerprint": "ffff"}])
def test_site_refuses_a_plan_that_was_not_agreed_on(small_sites: dict[str, AnnData], change: dict[str, str]) -> None:
    from dataclasses import replace

    with pytest.raises((FederationError, KeyringError), match="site_1"):
        run_over(small_sites, lambda t: TappedTransport(t, on_plan=lambda site, plan: replace(plan, **change)))


def test_answers_that_nobody_asked_for_are_refused(small_sites: dict[str, AnnData]) -> None:
    from dataclasses import replace

    for change in ({"site": "site_9"}, {"site": "site_1"}, {"seq": 99}):
        with pytest.raises(FederationError, match="not asked for"):
            run_over(small_sites, lambda t, c=change: TappedTransport(t, lambda plan, reply: replace(reply, **c)))


def test_what_the_coordinator_gets_holds_no_weight(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    run = fit(small_sites, checkpoint=tmp_path / "run")
    files = [*(tmp_path / "run" / "sums").iterdir(), *(tmp_path / "run").glob("*.json")]
    assert len(files) == 3
    content = b"".join(file.read_bytes() for file in (*files, tmp_path / "run" / "sites.checkpoint"))
    for tensor in run.model.effective(run.key).values():
        assert tensor.numpy().tobytes()[:16] not in content


# -- going on ----------------------------------------------------------------------------------------------------------
class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", range(9))
def test_resume_after_any_exchange_gives_the_same_bits(
    small_sites: dict[str, AnnData], tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the sites' file of an exchange was written and before the coordinator's, or right after both."""
    from infl.federation.checkpoint import Checkpoint

    key = Keyring.create()
    whole = infl.tl.fit_federated(small_sites, key=key, **OPTIONS)
    expected = latents(small_sites)
    calls = iter(range(100))
    write = Checkpoint.save_progress

    def dying(self: Checkpoint, progress: object) -> None:
        number = next(calls)
        if number == moment and moment % 2:
            raise Killed
        write(self, progress)
        if number == moment:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoint, "save_progress", dying)
        fit(small_sites, key=key, checkpoint=tmp_path / "run", resume=True)
    resumed = infl.tl.fit_federated(small_sites, key=key, checkpoint=tmp_path / "run", resume=True, **OPTIONS)
    np.testing.assert_array_equal(latents(small_sites), expected)
    columns = list(whole.history)
    np.testing.assert_array_equal(resumed.history[columns], whole.history[columns])


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from conftest import make_sites
import infl, os, signal
from infl.federation.site import Site
from infl.keys import Keyring
train, ring = Site._compute, Keyring.load({ring!r}, passphrase="test")
def dying(self, plan):
    if plan.round == {round} and self.name == "site_3":
        os.kill(os.getpid(), signal.SIGKILL)
    return train(self, plan)
Site._compute = dying
infl.tl.fit_federated(make_sites(), key=ring, checkpoint={checkpoint!r}, resume=True, **{options!r})
"""


@pytest.mark.parametrize("round", [1, 3])
def test_resume_after_kill_9_in_the_middle_of_a_round(
    small_sites: dict[str, AnnData], tmp_path: Path, round: int, monkeypatch: pytest.MonkeyPatch, age_by_hand: Any
) -> None:
    monkeypatch.setattr("infl.keys.age.encrypt_under", age_by_hand)
    key = Keyring.create()
    key.save(tmp_path / "ring.key", passphrase="test")
    script = SCRIPT.format(
        folder=str(Path(__file__).parent),
        ring=str(tmp_path / "ring.key"),
        checkpoint=str(tmp_path / "run"),
        round=round,
        options=OPTIONS,
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    infl.tl.fit_federated(small_sites, key=key, checkpoint=tmp_path / "run", resume=True, **OPTIONS)
    resumed = latents(small_sites)
    infl.tl.fit_federated(small_sites, key=key, **OPTIONS)
    np.testing.assert_array_equal(resumed, latents(small_sites))


def test_a_finished_run_resumes_to_the_very_same_model(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    key = Keyring.create()
    first, again = (fit(small_sites, key=key, checkpoint=tmp_path, resume=True).model for _ in range(2))
    assert first.header == again.header
    assert all(torch.equal(first.stored[name], again.stored[name]) for name in first.stored)


def test_resume_with_other_settings_is_refused(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    key = Keyring.create()
    fit(small_sites, key=key, checkpoint=tmp_path)
    with pytest.raises(FileError, match="resume=True"):
        fit(small_sites, key=key, checkpoint=tmp_path)
    with pytest.raises(SettingsError, match=r"rounds differs \(was 4, now 5\)"):
        fit(small_sites, key=key, checkpoint=tmp_path, resume=True, rounds=5)
    with pytest.raises(SettingsError, match=r"option lr differs \(was [\d.]+, now 0.5\)"):
        fit(small_sites, key=key, checkpoint=tmp_path, resume=True, lr=0.5)
    with pytest.raises(SettingsError, match="fingerprint differs"):
        fit(small_sites, key=Keyring.create(), checkpoint=tmp_path, resume=True)


def test_damaged_checkpoint_is_named(small_sites: dict[str, AnnData], tmp_path: Path) -> None:
    key = Keyring.create()
    fit(small_sites, key=key, checkpoint=tmp_path)
    content = bytearray((tmp_path / "sites.checkpoint").read_bytes())
    content[100] ^= 1
    (tmp_path / "sites.checkpoint").write_bytes(content)
    with pytest.raises(FileError, match=r"sites\.checkpoint"):
        fit(small_sites, key=key, checkpoint=tmp_path, resume=True)


def test_ctrl_c_ends_the_round_and_says_how_to_go_on(
    small_sites: dict[str, AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infl.federation.site import Site

    train, key = Site._compute, Keyring.create()

    def interrupting(self: Site, plan: Plan):
        if plan.round == 2 and self.name == "site_1":
            os.kill(os.getpid(), signal.SIGINT)
        return train(self, plan)

    monkeypatch.setattr(Site, "_compute", interrupting)
    with pytest.raises(FederationError, match=r"checkpoint=.*resume=True"):
        fit(small_sites, key=key, checkpoint=tmp_path)
    monkeypatch.setattr(Site, "_compute", train)
    done = json.loads(json.dumps(fit(small_sites, key=key, checkpoint=tmp_path, resume=True).settings))
    assert done["rounds"] == 4
    with pytest.raises(FederationError, match="nothing was kept"), monkeypatch.context() as patch:
        patch.setattr(Site, "_compute", interrupting)
        fit(small_sites, key=key)


# -- pairwise seal -----------------------------------------------------------------------------------------------------
def test_pairwise_seal_gives_the_same_bits(small_sites: dict[str, AnnData]) -> None:
    assert torch.equal(weights(fit(small_sites, lock=None, seal="pairwise")), weights(fit(small_sites, lock=None)))


@pytest.mark.parametrize("lost_while", ["train", "reveal", "both"])
def test_pairwise_seal_with_lost_sites(small_sites: dict[str, AnnData], lost_while: str) -> None:
    """Lost before the sum, or while masks come off. One each of four is too many: what was opened is not asked for again."""
    from infl.federation.messages import REVEAL_KIND, Reveal

    lines: list[TappedTransport] = []

    @dataclass
    class Losing(TappedTransport):
        def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
            plan = plan_for(cohort[0])
            for reply in super().ask(cohort, plan_for):
                in_round = plan.round == 2 and plan.attempt == 0
                early = isinstance(reply, Answer) and reply.site == "site_2" and lost_while in ("train", "both")
                late = isinstance(reply, Reveal) and reply.site == "site_4" and lost_while in ("reveal", "both")
                if not (in_round and (early or late)):
                    yield reply

    def run() -> object:
        return run_over(small_sites, lambda t: lines.append(Losing(t)) or lines[0], seal="pairwise", min_sites=3)

    if lost_while == "both":
        with pytest.raises(FederationError, match="was opened already"):
            run()
        return
    assert run().history["n_sites"].tolist() == {"train": [4, 3, 4, 4], "reveal": [4] * 4}[lost_while]
    assert {p.attempt for p in lines[0].asked if p.round == 2 and not p.kind.startswith(REVEAL_KIND)} == {0}


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize("change", ["values", "labels", "order", "observations"])
def test_a_run_does_not_go_on_with_other_data(khan_sites, tmp_path, change, with_key):
    options = {"target": "tumour_class", "rounds": 1, "progress": False, "checkpoint": tmp_path, "resume": True}
    options |= {"key": Keyring.create()} if with_key else {"lock": None, "seal": "none"}
    warnings.simplefilter("ignore", InflWarning)
    infl.tl.fit_federated({name: a.copy() for name, a in khan_sites.items()}, **options)
    other = {name: a.copy() for name, a in khan_sites.items()}
    mended = other["site_3"]
    if change == "values":
        mended.X[3, 7] += 1
    elif change == "labels":
        labels = mended.obs["tumour_class"].astype(str)
        a, b = labels.iloc[0], next(label for label in labels if label != labels.iloc[0])
        mended.obs["tumour_class"] = labels.replace({a: b, b: a}).astype("category")
    elif change == "order":
        other["site_3"] = mended[::-1].copy()
    else:
        other["site_3"] = mended[:-1].copy()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=r"cannot resume .*: site_3 has other data"):
        infl.tl.fit_federated(other, **options)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "infl_prediction" not in other["site_1"].obs
    for name, adata in khan_sites.items():  # the same values, however they are stored
        adata.X = sparse.csc_matrix(adata.X) if name == "site_2" else np.asfortranarray(adata.X)
    infl.tl.fit_federated(khan_sites, **options)


def test_a_digest_of_data_tells_nothing_without_the_secret():
    from infl.federation.digest import data_digest

    data = {"labels": np.array([0, 1, 1])}
    assert data_digest(data, b"one run") != data_digest(data, b"another run")
    assert data_digest(data, b"one run") == data_digest({"labels": np.array([0, 1, 1])}, b"one run")


def test_a_checkpoint_without_digests_is_taken_with_a_warning(khan_sites, tmp_path, monkeypatch):
    from infl.federation.checkpoint import Checkpoint

    options = {"target": "tumour_class", "rounds": 1, "progress": False, "checkpoint": tmp_path, "resume": True}
    options["key"] = Keyring.create()
    monkeypatch.setattr(Checkpoint, "note_data", lambda *args: None)
    infl.tl.fit_federated(khan_sites, **options)
    monkeypatch.undo()
    with pytest.warns(InflWarning, match="cannot be checked"):
        infl.tl.fit_federated(khan_sites, **options)
