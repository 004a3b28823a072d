"""Sites of one process that are trained in a stack: the results are those of one after the other, to rounding."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.federation.conftest import make_sites

import infl.federation.stacked
from infl.errors import SettingsError
from infl.federation.agreement import Agreement
from infl.federation.coordinator import Transport
from infl.federation.local import Outcome, run_in_process
from infl.federation.messages import Answer, Plan, Reply
from infl.federation.stacked import StackedTrainer
from infl.models import Classifier
from infl.models.task import Task


def outcome(
    sites: dict[str, AnnData],
    task: Classifier,
    *,
    stacked: bool = True,
    wrap: Callable[[Transport], Transport] = lambda line: line,
    **settings: Any,
) -> Outcome:
    agreement = Agreement.new(
        task, task.agree(sites), sites, None, **{"rounds": 3, "lock": None, "seal": "none", "min_sites": 3, **settings}
    )
    return run_in_process(agreement, task, sites, None, stacked=stacked, wrap=wrap)


@dataclass
class Passes:
    """Counts how many sites each stack trains."""

    sizes: list[int]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    seen, train = Passes([]), StackedTrainer._train

    def counted(self: StackedTrainer, sites: Any, plan: Any) -> Any:
        seen.sizes.append(len(sites))
        return train(self, sites, plan)

    monkeypatch.setattr(StackedTrainer, "_train", counted)
    return seen


def uneven() -> dict[str, AnnData]:
    """Sites with 1 to 6 batches of unequal size; one of them lacks features."""
    sites = make_sites(5)
    sites["site_2"] = sites["site_2"][:5].copy()
    sites["site_3"] = sites["site_3"][:, 2:].copy()
    large = make_sites(1, n_obs=30)["site_1"]
    large.obs_names = [f"large {name}" for name in large.obs_names]
    sites["site_4"] = large
    return sites


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"aggregation": "fedprox", "aggregation_options": {"mu": 0.5}, "local_epochs": 2},
        {"aggregation": "fedbn"},
        {"aggregation": "afl"},
        {"participation": 0.8},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "options",
    [{}, {"grad_clip": 0.1, "weight_decay": 0.1}, {"coordinate": 4}, {"optimiser": "sgd", "lr": 0.1}],
    ids=str,
)
def test_a_stack_trains_as_one_site_after_the_other(
    options: dict[str, Any], settings: dict[str, Any], passes: Passes
) -> None:
    sites = uneven()
    common = {"target": "label", "width": 8, "n_blocks": 1, "batch_size": 4, "features": "union", "dropout": 0.3}
    task = Classifier(**{**common, **options})
    together = outcome(sites, task, **settings)
    assert min(passes.sizes) > 2
    passes.sizes.clear()
    apart = outcome(sites, task, stacked=False, **settings)
    assert not passes.sizes
    torch.testing.assert_close(together.replica.theta, apart.replica.theta, atol=2e-5, rtol=0)
    for name, site in together.sites.items():
        mine, alone = site.trainer.own.now, apart.sites[name].trainer.own.now
        torch.testing.assert_close(mine.weights, alone.weights, atol=2e-5, rtol=0)
    for ours, theirs in zip(together.run.history["val_loss"], apart.run.history["val_loss"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert np.allclose(together.run.history["loss"], apart.run.history["loss"], atol=1e-5)


def test_a_stack_has_no_more_sites_than_its_memory_holds(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    sites, task = make_sites(5), Classifier(target="label", width=8, n_blocks=1)
    at_once = outcome(sites, task)
    size = at_once.replica.flat_model.shared.total
    passes.sizes.clear()
    monkeypatch.setattr(infl.federation.stacked, "STACK", 2 * size)
    by_two = outcome(sites, task)
    assert passes.sizes == [2, 2, 1] * 3
    torch.testing.assert_close(by_two.replica.theta, at_once.replica.theta, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stacked", [True, False])
def test_updates_that_are_let_go_of_are_computed_again_where_they_are_asked_for_again(
    stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that is lost after the next group of sites was trained."""

    class Lossy:
        def __init__(self, inner: Transport) -> None:
            self.inner, self.holder = inner, inner.holder

        def ask(self, cohort: tuple[str, ...], plan_for: Callable[[str], Plan]) -> Iterator[Reply]:
            first = [reply for reply in self.inner.ask(cohort, plan_for) if isinstance(reply, Answer)]
            again = list(self.inner.ask(cohort, plan_for))
            answers = [reply for reply in again if isinstance(reply, Answer)]
            assert [a.words.digest() for a in first] == [a.words.digest() for a in answers]
            yield from again

    sites, task = make_sites(5), Classifier(target="label", width=8, n_blocks=1)
    expected = outcome(sites, task, stacked=stacked)
    monkeypatch.setattr("infl.federation.local.UPDATES", 0)
    monkeypatch.setattr(infl.federation.stacked, "STACK", 3 * expected.replica.flat_model.shared.total)
    twice = outcome(sites, task, stacked=stacked, wrap=Lossy)
    assert all(site._pending is None for site in twice.sites.values())
    torch.testing.assert_close(twice.replica.theta, expected.replica.theta, atol=1e-5, rtol=0)


def test_large_models_few_sites_and_tasks_without_losses_are_not_stacked(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites, task = make_sites(4), Classifier(target="label", width=8, n_blocks=1)
    monkeypatch.setattr(infl.federation.stacked, "STACK", 100)
    outcome(sites, task)

    @dataclass(frozen=True)
    class Whole(Classifier):
        has_losses = False

    monkeypatch.setattr(infl.federation.stacked, "STACK", 1 << 22)
    outcome(sites, Whole(target="label", width=8, n_blocks=1))
    outcome(make_sites(3), task)
    assert not passes.sizes
    outcome(sites, task)  # the control: what is asked for is not what fails
    assert passes.sizes


def test_a_task_without_any_loss_is_told_of() -> None:
    @dataclass(frozen=True)
    class Lossless(Classifier):
        losses = Task.losses

    with pytest.raises(SettingsError, match="must define loss, or losses"):
        outcome(make_sites(4), Lossless(target="label", width=8, n_blocks=1))


@dataclass(frozen=True)
class NoDropout(Classifier):
    """A task whose sites all draw the same masks would pass unnoticed without this control."""

    def build(self, panel: Any) -> Any:
        module = super().build(panel)
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        return module


def test_dropout_acts_in_a_stack() -> None:
    sites = make_sites(4)
    options = {"target": "label", "width": 8, "n_blocks": 1, "dropout": 0.5}
    with_masks, without = outcome(sites, Classifier(**options)), outcome(sites, NoDropout(**options))
    assert (with_masks.replica.theta - without.replica.theta).abs().max() > 1e-4
