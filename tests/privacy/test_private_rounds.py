"""What a site adds to a private sum: no record changes it by more than was accounted for, and no round is drawn twice."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from torch import nn

import infl
from infl.errors import DataError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.local import Outcome, run_in_process
from infl.federation.messages import Answer, Plan
from infl.federation.replica import Replica
from infl.federation.rules import Rule
from infl.federation.site import Site
from infl.federation.units import Units
from infl.models import Classifier
from infl.models.labelled import split_rows
from infl.privacy import DP
from infl.privacy.dp import clipped_gradients, grid_exponent

TASK = Classifier(target="tumour_class", width=8, n_blocks=0).for_dp()
QUIET = {"delta": 1e-4, "noise_multiplier": 1e-6, "sample_rate": 1.0, "accountant": "rdp"}
"""Next to no noise, and all records: the sum of gradients as it is."""


# -- sensitivity ---------------------------------------------------------------------------------------------------------
def gradients(n: int, size: int, clip_norm: float) -> np.ndarray:
    """Gradients that rounding is hard on (n, size): of exactly the clipping norm, all numbers just above a half step."""
    rng, step = np.random.default_rng(0), 2.0 ** grid_exponent(clip_norm, size)
    kinds = [
        np.full(size, (np.floor(clip_norm / size**0.5 / step) - 0.4) * step),
        np.full(size, clip_norm / size**0.5),
        np.eye(size)[0] * clip_norm,
        rng.normal(size=size) * 100,
        rng.normal(size=size) * 1e-3,
        rng.normal(size=size) * 1e18,
        np.where(rng.random(size) < 0.5, step, -step) * 0.9,
    ]
    rows = np.array([kinds[i % len(kinds)] * (1 if i % 2 else -1) for i in range(n)])
    return rows.astype(np.float32)


def summed(rows: np.ndarray, clip_norm: float) -> np.ndarray:
    """The integer sum of a module whose gradient for each record is its row."""
    layer = nn.Linear(rows.shape[1], 1, bias=False)
    x = torch.from_numpy(rows)
    units = [np.array([i]) for i in range(len(rows))]
    exponent = grid_exponent(clip_norm, rows.shape[1])
    return clipped_gradients(layer, lambda index: layer(x[index]).mean(), units, clip_norm, exponent)


def rounded_sum(rows: np.ndarray, clip_norm: float) -> np.ndarray:
    """The control: clipped records are added, and their sum is rounded to the nearest step."""
    exact = rows.astype(np.float64)
    exact *= np.minimum(1, clip_norm / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-300))
    return np.rint(exact.sum(0) / 2.0 ** grid_exponent(clip_norm, rows.shape[1])).astype(np.int64)


def sensitivity(add: Any, rows: np.ndarray, clip_norm: float) -> float:
    """Most that leaving one record out changes the sum by, in units of the clipping norm; integers, hence exact."""
    whole, step = add(rows, clip_norm), 2.0 ** grid_exponent(clip_norm, rows.shape[1])
    changes = [whole - add(np.delete(rows, i, 0), clip_norm) for i in range(len(rows))]
    return max(float(np.sqrt(sum(int(c) ** 2 for c in change))) for change in changes) * step / clip_norm


@pytest.mark.parametrize(("size", "clip_norm"), [(1, 1.0), (7, 0.3), (256, 1.0), (1000, 2.5)])
def test_no_record_changes_the_sum_by_more_than_the_clipping_norm(size: int, clip_norm: float) -> None:
    rows = gradients(21, size, clip_norm)
    assert 0.98 < sensitivity(summed, rows, clip_norm) <= 1.0


def test_rounding_to_nearest_would_let_a_record_change_it_by_more() -> None:
    """The controls: what the sum of the others leaves of a step may decide which way all of a record's numbers go."""
    size, step = 1000, 2.0**-10
    for others, own in ((0.45, 80.1), (0.0, 80.6)):
        clip_norm = float(np.linalg.norm(np.full(size, own * step)))
        assert 2.0 ** grid_exponent(clip_norm, size) == step
        rows = np.array([np.full(size, others * step), np.full(size, own * step)], dtype=np.float32)
        assert sensitivity(rounded_sum, rows, clip_norm) > 1.004
        assert sensitivity(summed, rows, clip_norm) <= 1.0


def test_a_gradient_that_is_no_number_counts_as_zero() -> None:
    rows = gradients(6, 16, 1.0)
    spoilt = rows.copy()
    spoilt[1, 3], spoilt[4, 0] = np.nan, np.inf
    np.testing.assert_array_equal(summed(spoilt, 1.0), summed(np.delete(rows, [1, 4], 0), 1.0))


def test_the_grid_takes_little_from_a_gradient() -> None:
    for size in (1, 10, 1000, 10**6):
        step = 2.0 ** grid_exponent(0.7, size)
        assert 0.7 / 128 < step * size**0.5 <= 0.7 / 64


# -- a run of which everything is seen ----------------------------------------------------------------------------------
class Seen:
    """A transport that keeps plans and answers, and may lose a site in training."""

    def __init__(self, inner: Any, lose: str) -> None:
        self.inner, self.lose, self.plans, self.answers = inner, lose, {}, {}  # type: ignore[var-annotated]

    def ask(self, cohort: tuple[str, ...], plan_for: Any) -> Iterator[Any]:
        def kept(site: str) -> Plan:
            plan = plan_for(site)
            self.plans.setdefault((plan.kind, plan.round, site), plan)
            return plan

        for reply in self.inner.ask(cohort, kept):
            if isinstance(reply, Answer):
                self.answers[reply.seq, reply.site] = reply
                if reply.site == self.lose and self.plans.get(("train", reply.seq, reply.site)) is not None:
                    continue
            yield reply

    def holder(self, site: str) -> str:
        return self.inner.holder(site)


def open_run(
    sites: dict[str, AnnData], dp: DP, task: Classifier = TASK, lose: str = "", rounds: int = 2
) -> tuple[Outcome, Seen]:
    agreement = Agreement.new(
        task, task.agree(sites), sites, None, rounds=rounds, lock=None, seal="none", min_sites=3, privacy=dp
    )
    seen: list[Seen] = []

    def wrap(transport: Any) -> Seen:
        seen.append(Seen(transport, lose))
        return seen[0]

    return run_in_process(agreement, task, sites, None, wrap=wrap), seen[0]


def anew(outcome: Outcome, sites: dict[str, AnnData], name: str = "site_1", noise_key: bytes = b"") -> Site:
    """A site that begins again, with the secret that it had."""
    replica = Replica(outcome.replica.agreement, None, outcome.replica.task)
    site = Site(name, sites[name], replica)
    state = site.state()
    site.restore(state | {"noise_key": noise_key or outcome.sites[name].noise_key})
    return site


def low(site: Site, plan: Plan) -> np.ndarray:
    reply = site.handle(plan)
    assert isinstance(reply, Answer)
    return reply.words.low.view(np.int32).copy()


def test_a_round_is_drawn_once_whatever_is_asked(khan_sites: dict[str, AnnData]) -> None:
    """Neither another attempt nor a restart draws new noise, of which the mean of many would be none."""
    dp = DP(delta=1e-4, noise_multiplier=2.0, sample_rate=0.5, accountant="rdp")
    outcome, seen = open_run(khan_sites, dp)
    plan = seen.plans["train", 1, "site_1"]
    sent = seen.answers[plan.seq, "site_1"].words.low.view(np.int32)
    np.testing.assert_array_equal(low(anew(outcome, khan_sites), plan), sent)
    np.testing.assert_array_equal(low(anew(outcome, khan_sites), replace(plan, attempt=3)), sent)
    assert (low(anew(outcome, khan_sites, noise_key=b"k" * 32), plan) != sent).mean() > 0.9
    assert (low(anew(outcome, khan_sites), seen.plans["train", 1, "site_1"]) == sent).all()


def test_another_history_has_noise_of_its_own(khan_sites: dict[str, AnnData]) -> None:
    """Else the difference of two sums under two models would have no noise."""
    dp = DP(delta=1e-4, noise_multiplier=2.0, sample_rate=0.5, accountant="rdp")
    outcome, seen = open_run(khan_sites, dp)
    plan = seen.plans["train", 1, "site_1"]
    (count,) = plan.previous
    of_all = count.words.of_all.copy()
    of_all[0] += 1  # one record more: the model is the same, the history is not
    other = replace(plan, previous=(replace(count, words=replace(count.words, of_all=of_all)),))
    sent = seen.answers[plan.seq, "site_1"].words.low.view(np.int32)
    assert (low(anew(outcome, khan_sites), other) != sent).mean() > 0.9


def test_dropout_is_the_sites_own_randomness(khan_sites: dict[str, AnnData]) -> None:
    """Drawn from the public seed it would tie each record's gradient to who else was in the sample."""
    for dropout, same in ((0.0, True), (0.5, False)):
        outcome, seen = open_run(khan_sites, DP(**QUIET), replace(TASK, dropout=dropout), rounds=1)
        plan = seen.plans["train", 1, "site_1"]
        first, second = (low(anew(outcome, khan_sites, noise_key=key * 32), plan) for key in (b"a", b"b"))
        assert (np.abs(first - second).max() <= 8) == same


def test_nothing_but_noisy_gradients_is_summed(khan_sites: dict[str, AnnData]) -> None:
    outcome, _ = open_run(khan_sites, DP(delta=1e-4, noise_multiplier=2.0, accountant="rdp"))
    exchanges = outcome.replica.programme.exchanges
    assert [e.kind for e in exchanges] == ["count", "train", "train", "close"]
    assert all(e.packing.n64 == 0 for e in exchanges[1:])
    assert not [name for name in outcome.run.history if name.startswith("val_")]
    plain = Agreement.new(TASK, TASK.agree(khan_sites), khan_sites, None, rounds=2, lock=None, seal="none")
    assert Replica(plain, None, TASK).programme.exchanges[1].packing.n64 > 0  # the control


def test_a_lost_site_counts_as_zero(khan_sites: dict[str, AnnData]) -> None:
    """The sum is divided by what all sites agreed on, so that nobody's number of records shows in the model."""
    updates: list[np.ndarray] = []
    with pytest.MonkeyPatch.context() as patch:
        spy = Rule("spy", at_sum=lambda theta, update, state: updates.append(update.numpy().copy()))
        patch.setattr("infl.federation.replica.fedadam", lambda **_: spy)
        outcome, seen = open_run(khan_sites, DP(**QUIET), lose="site_2", rounds=1)
    assert outcome.run.history["n_sites"].tolist() == [4]
    seq = seen.plans["train", 1, "site_1"].seq
    total = sum(seen.answers[seq, s].words.low.view(np.int32).astype(np.int64) for s in khan_sites if s != "site_2")
    n = sum(len(site.units.records) for site in outcome.sites.values())
    assert n == outcome.replica.n_total
    step = 2.0 ** grid_exponent(1.0, outcome.replica.flat_model.shared.total)
    np.testing.assert_allclose(updates[0], -total * step / n, rtol=1e-5)


def test_noise_that_does_not_fit_the_seal_is_refused(khan_sites: dict[str, AnnData]) -> None:
    with pytest.raises(SettingsError, match="leaves no room for gradients"):
        open_run(khan_sites, DP(delta=1e-4, noise_multiplier=9e3, noise="local", accountant="rdp"), rounds=1)


# -- who is in the sample ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stratify", [False, True])
def test_one_record_more_moves_no_other_one(stratify: bool) -> None:
    """By class it does (the control): then a neighbour of the data differs in more than a record."""
    names = pd.Index([f"cell_{i}" for i in range(200)])
    labels = np.arange(200) % 3
    moved = []
    for gone in (0, 57, 199):
        rest = np.delete(np.arange(200), gone)
        every, _ = split_rows(names, labels, 0.3, np.random.default_rng(1), stratify=stratify)
        fewer, _ = split_rows(names[rest], labels[rest], 0.3, np.random.default_rng(1), stratify=stratify)
        moved.append(len(set(names[every]) ^ set(names[rest][fewer]) - {names[gone]}) - (gone in every))
    assert any(moved) == stratify


# -- donors ----------------------------------------------------------------------------------------------------------------
def with_patients(sites: dict[str, AnnData], per_patient: int = 4) -> dict[str, AnnData]:
    for adata in sites.values():
        adata.obs["patient"] = [f"patient {i // per_patient}" for i in range(adata.n_obs)]
    return sites


def test_a_patient_changes_the_sum_by_no_more_than_the_clipping_norm(khan_sites: dict[str, AnnData]) -> None:
    """All of a patient's records together; counted by records they would change it by more (the control)."""
    sites = with_patients(khan_sites)
    task = replace(TASK, dropout=0.0, validation=0.0)
    fewer = sites | {"site_1": sites["site_1"][4:].copy()}  # without patient 0
    clip_norm = 1e-2  # every gradient is clipped
    changes = {}
    for unit, donor_key in (("donor", "patient"), ("record", None)):
        dp = DP(**QUIET | {"clip_norm": clip_norm, "unit": unit, "donor_key": donor_key, "noise_multiplier": 1e-9})
        sums = []
        for data in (sites, fewer):
            outcome, seen = open_run(data, dp, task, rounds=1)
            plan = seen.plans["train", 1, "site_1"]
            sums.append(seen.answers[plan.seq, "site_1"].words.low.view(np.int32).astype(np.int64))
        step = 2.0 ** grid_exponent(clip_norm, outcome.replica.flat_model.shared.total)
        changes[unit] = float(np.linalg.norm(sums[0] - sums[1])) * step / clip_norm
    assert 0.9 < changes["donor"] <= 1.0
    assert changes["record"] > 1.5


def test_patients_are_sampled_and_counted(khan_sites: dict[str, AnnData]) -> None:
    sites = with_patients(khan_sites)
    dp = DP(delta=1e-4, noise_multiplier=2.0, sample_rate=0.5, accountant="rdp", unit="donor", donor_key="patient")
    outcome, _ = open_run(sites, dp, replace(TASK, validation=0.0), rounds=1)
    assert outcome.replica.n_total == sum(a.obs["patient"].nunique() for a in sites.values())
    units = outcome.sites["site_1"].units
    patients = sites["site_1"].obs["patient"].to_numpy()
    assert sorted(np.concatenate(units.records)) == list(range(sites["site_1"].n_obs))
    assert all(len(set(patients[records])) == 1 for records in units.records)
    assert "donor patient 0" in units.names
    assert f"record {sites['site_1'].obs_names[0]}" in units.names
    with pytest.raises(SettingsError, match=r"below 1/n = .* donors"):
        open_run(sites, replace(dp, delta=0.045), replace(TASK, validation=0.0), rounds=1)


def test_a_patients_gradient_is_that_of_the_mean_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many passes its records take."""
    layer = nn.Linear(5, 3)
    x, y = torch.randn(11, 5), torch.arange(11) % 3
    loss = lambda index: nn.functional.cross_entropy(layer(x[index]), y[index])  # noqa: E731
    units = [np.arange(7), np.arange(7, 11)]
    whole = clipped_gradients(layer, loss, units, 100.0, -20)
    gradients = [torch.autograd.grad(loss(unit), list(layer.parameters())) for unit in units]
    expected = sum(torch.cat([g.flatten() for g in parts]) for parts in gradients)
    assert np.abs(whole * 2.0**-20 - expected.numpy()).max() < 4e-6
    monkeypatch.setattr("infl.privacy.dp.gradients.OF_DONOR", 3)
    assert np.abs(whole - clipped_gradients(layer, loss, units, 100.0, -20)).max() <= 2


@pytest.mark.parametrize(
    ("column", "why"),
    [("patients", "donor_key 'patients' is missing in obs of site_1"), ("patient", "has no value for 2 of 16")],
)
def test_without_a_column_of_patients_there_is_one_line(khan_sites: dict[str, AnnData], column: str, why: str) -> None:
    sites = with_patients(khan_sites)
    sites["site_1"].obs.loc[sites["site_1"].obs_names[:2], "patient"] = np.nan
    dp = DP(delta=1e-4, noise_multiplier=2.0, accountant="rdp", unit="donor", donor_key=column)
    with pytest.raises(DataError, match=why) as error:
        open_run(sites, dp, rounds=1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"unit": "donor"}, {"donor_key": "patient"}])
def test_unit_and_column_go_together(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="go together"):
        DP(delta=1e-4, noise_multiplier=2.0, **settings)


def test_patients_of_a_modality_may_stand_in_the_joint_table(khan_sites: dict[str, AnnData]) -> None:
    import mudata

    adata = khan_sites["site_1"]
    both = mudata.MuData({"rna": adata, "other": adata[:, :3].copy()})
    both.obs["patient"] = [f"p{i % 3}" for i in range(both.n_obs)]
    task = replace(TASK, modality="rna")
    data = task.read(both, task.agree({"site_1": both}), site="site_1", rng=np.random.default_rng(0))
    dp = DP(delta=1e-4, noise_multiplier=2.0, unit="donor", donor_key="patient")
    assert len(Units.of(dp, task, both, data, "site_1").records) == 3


def test_a_resumed_run_is_equal_to_the_bit(khan_sites: dict[str, AnnData], tmp_path: Any) -> None:
    """Going on twice from one state gives one model: all that is drawn follows from it."""
    import shutil

    dp = DP(delta=1e-4, noise_multiplier=2.0, sample_rate=0.5, accountant="rdp")
    settings: dict[str, Any] = {"target": "tumour_class", "width": 8, "n_blocks": 0, "progress": False, "rounds": 3}
    key = infl.keys.Keyring.create()

    class Cut(Exception):
        pass

    original = Replica._apply

    def cut(self: Replica, total: Any) -> Any:
        if total.round == 2:
            raise Cut
        return original(self, total)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replica, "_apply", cut)
        with pytest.raises(Cut):
            infl.tl.fit_federated(khan_sites, privacy=dp, key=key, checkpoint=tmp_path / "a", **settings)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    runs = [
        infl.tl.fit_federated(khan_sites, privacy=dp, key=key, checkpoint=tmp_path / n, resume=True, **settings)
        for n in "ab"
    ]
    again = infl.tl.fit_federated(khan_sites, privacy=dp, key=key, **settings)  # the control: another run draws anew
    first, second, other = (run.model.effective(key) for run in (*runs, again))
    assert all(first[name].equal(second[name]) for name in first)
    assert not any(first[name].equal(other[name]) for name in first)
