"""Laws of the round: protection changes nothing, one seed fixes everything, lost sites cost themselves only."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.federation.conftest import TappedTransport, fit, relative, run_over, weights

from infl.errors import FederationError, KeyringError, SealError
from infl.federation.coordinator import Reply
from infl.federation.messages import Answer, Plan
from infl.federation.packings import update_exponent
from infl.federation.site import Site
from infl.sums.lanes import fitted, split_sums, sums_packing

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")


# -- protection changes nothing ----------------------------------------------------------------------------------------
def test_locked_is_unlocked_is_sealed(small_sites: dict[str, AnnData]) -> None:
    plain = fit(small_sites, lock=None, seal="none")
    for protection in ({"lock": "field", "seal": "none"}, {"lock": None}, {}, {"strength": 0.3}):
        run = fit(small_sites, **protection)
        assert relative(weights(run), weights(plain)) < 1e-5, protection
        np.testing.assert_allclose(run.history["val_loss"], plain.history["val_loss"], rtol=1e-4)


def test_sealing_changes_no_bit(small_sites: dict[str, AnnData]) -> None:
    assert torch.equal(weights(fit(small_sites, lock=None)), weights(fit(small_sites, lock=None, seal="none")))


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


def test_rounds_that_are_not_told_count_as_rounds_without_a_better_one(small_sites: dict[str, AnnData]) -> None:
    def lose(plan: Plan, reply: Answer) -> Answer | None:
        return None if plan.kind == "train" and plan.round in (3, 4, 5) and reply.site == "site_2" else reply

    run = run_over(small_sites, lambda t: TappedTransport(t, lose), rounds=9, patience=3)
    best = int(run.history.index[run.history["best"]][0])
    assert run.history["val_loss"].isna().tolist()[1:4] == [True] * 3
    assert len(run.history) == 9 or len(run.history) - 1 - best == 3


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


def test_an_update_out_of_range_counts_as_zero_and_later_scales_are_wider(
    small_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first round on a scale that is 2¹⁸ times too fine is lost for all; the other three are as they would be."""
    expected = fit(small_sites, lock=None, rounds=3)
    tight = update_exponent(1e-3, 1) - 18
    monkeypatch.setattr("infl.federation.exchanges.update_exponent", lambda *_: tight)
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


@pytest.mark.parametrize("change", [{"run": "0" * 32}, {"agreement": "0" * 64}, {"fingerprint": "ffff"}])
def test_site_refuses_a_plan_that_was_not_agreed_on(small_sites: dict[str, AnnData], change: dict[str, str]) -> None:
    from dataclasses import replace

    with pytest.raises((FederationError, KeyringError), match="site_1"):
        run_over(small_sites, lambda t: TappedTransport(t, on_plan=lambda site, plan: replace(plan, **change)))


# -- going on ----------------------------------------------------------------------------------------------------------


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
