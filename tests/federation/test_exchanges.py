"""The sums that every run has: what is in them, and what they tell of records."""

import numpy as np
import pytest
from anndata import AnnData
from torch import nn

from infl.federation.agreement import Agreement
from infl.federation.exchanges import (
    RunView,
    close_sum,
    count_sum,
    judge_sum,
    metric_scales,
    summarised,
    training_sum,
)
from infl.federation.fitted import read_for_fit
from infl.federation.initial import build_flat_model
from infl.federation.packings import update_exponent
from infl.keys import Keyring
from infl.models import Classifier
from infl.privacy import DP
from infl.sums import run_sums
from infl.sums.lanes import LEFT_OUT_COUNT, UPPER, WIDER_COUNT, join_sums, split_sums


@pytest.fixture
def views(small_sites: dict[str, AnnData]) -> tuple[Classifier, dict, dict[str, RunView]]:
    """A task, its panel, and what its sums are computed from at each site, under an untrained model."""
    task = Classifier(target="label", width=8, n_blocks=1)
    panel = task.agree(small_sites)
    module: nn.Module = task.build(panel).eval()

    def view(site: str, adata: AnnData) -> RunView:
        data = read_for_fit(task, panel, 0, adata, site)
        return RunView(data, module, len(data.train), lambda: task.evaluate(module, data, data.validation))

    return task, panel, {site: view(site, adata) for site, adata in small_sites.items()}


def test_the_count_adds_records_and_sites_that_have_a_class(small_sites: dict[str, AnnData], views: tuple) -> None:
    task, panel, sites = views
    count, n = count_sum(task, panel), [len(view.data.train) for view in sites.values()]
    parts = [join_sums(count.local(view, {}), count.packing) for view in sites.values()]
    total = split_sums(np.sum(parts, axis=0), count.packing)
    assert count.after(total, {"means": 1}, step=0) == {"means": 1, "n_total": sum(n)} and LEFT_OUT_COUNT not in total
    assert total["held.class"].tolist() == [
        sum(c in set(s.obs["label"]) for s in small_sites.values()) for c in panel["classes"]
    ]
    assert [int(count.behind(view, {})["n"]) for view in sites.values()] == n


def test_under_differential_privacy_only_units_are_counted(views: tuple) -> None:
    task, panel, sites = views
    private = count_sum(task, panel, private=True)
    assert dict(private.shapes) == {"n": ()} and list(private.local(next(iter(sites.values())), {})) == ["n"]


def test_the_judgement_is_that_of_all_validation_records(views: tuple) -> None:
    task, panel, sites = views
    metrics = run_sums([judge_sum(task, panel)], sites, None)["metrics"]
    parts = [view.judge() for view in sites.values()]
    alone = task.summarise({name: sum(part[name] for part in parts) for name in parts[0]})
    assert metrics == pytest.approx(alone, abs=1e-5)
    first = next(iter(sites.values()))
    assert set(judge_sum(task, panel).behind(first, {})["metric.weighted_loss"].ravel()) == {len(first.data.validation)}


def test_metrics_whose_sums_stayed_closed_are_no_numbers(views: tuple) -> None:
    task, panel, _ = views
    found = summarised(task, panel, {"train_loss": np.zeros(())})
    assert "balanced_accuracy" in found and all(np.isnan(value) for value in found.values())


def test_the_last_sum_is_of_nothing_and_changes_nothing() -> None:
    close = close_sum()
    assert not close.packing.fields and close.local(None, {}) == {}
    assert close.after({}, {"means": 1}, step=0) == {"means": 1}


def test_under_differential_privacy_nothing_is_marked(small_sites: dict[str, AnnData]) -> None:
    """A mark would say exactly what the noise is there to hide."""
    task, key = Classifier(target="label", width=8, n_blocks=1), Keyring.create()
    for privacy in (None, DP(noise_multiplier=1.0, delta=1e-3)):
        chosen = task if privacy is None else task.for_dp()
        agreement = Agreement.new(chosen, chosen.agree(small_sites), small_sites, key, rounds=2, privacy=privacy)
        names = {
            f.name for f in training_sum(chosen, agreement, build_flat_model(chosen, agreement).shared).packing.fields
        }
        assert ({LEFT_OUT_COUNT, WIDER_COUNT} <= names) is (privacy is None)
        assert privacy is None or not {LEFT_OUT_COUNT, WIDER_COUNT} & names


def test_the_first_sum_counts_samples_and_who_has_a_name(small_sites: dict[str, AnnData]) -> None:
    task = Classifier(target="label", width=8, n_blocks=1)
    agreement = Agreement.new(task, task.agree(small_sites), small_sites, Keyring.create())
    fields = count_sum(task, agreement.panel).packing.fields
    names = task.held_names(agreement.panel)
    assert [(f.name, f.shape) for f in fields] == [("n", ()), *((f"held.{g}", (len(of),)) for g, of in names.items())]
    assert all(f.of_all and f.bits == 64 and f.step == 1 for f in fields)


@pytest.mark.parametrize(
    ("settings", "updates", "counts"),
    [
        ({}, 1, [LEFT_OUT_COUNT, WIDER_COUNT, "train_loss"]),
        ({"participation": 0.75}, 1, ["n", LEFT_OUT_COUNT, WIDER_COUNT, "train_loss"]),
        ({"aggregation": "scaffold"}, 2, [LEFT_OUT_COUNT, WIDER_COUNT, "train_loss"]),
        ({"aggregation": "qfedavg"}, 1, [LEFT_OUT_COUNT, WIDER_COUNT, "train_loss", "importance"]),
    ],
)
def test_what_a_round_sums(
    small_sites: dict[str, AnnData], settings: dict[str, object], updates: int, counts: list[str]
) -> None:
    task = Classifier(target="label", width=8, n_blocks=1)
    agreement = Agreement.new(task, task.agree(small_sites), small_sites, Keyring.create(), **settings)
    shared = build_flat_model(task, agreement).shared
    packing = training_sum(task, agreement, shared).packing
    assert [f.shape for f in packing.fields if f.bits == 32] == updates * [e.shape for e in shared.entries]
    low = [f.exponent for f in packing.fields if f.bits == 32]
    n = len(shared.entries)
    assert set(low[:n]) == {update_exponent(task.lr, 1)} and set(low[n:]) == ({-24} if updates == 2 else set())
    high = {f.name: f for f in packing.fields if f.bits == 64 and not f.name.startswith("metric.")}
    assert [name for name in high if not name.endswith(UPPER)] == counts
    assert all(f.exponent == 0 for name, f in high.items() if name == "n")  # a count is whole
    assert (
        high[WIDER_COUNT].shape == (updates * n, 8) and high[WIDER_COUNT].exponent == high[LEFT_OUT_COUNT].exponent == 0
    )
    assert not (high[WIDER_COUNT].of_all or high[LEFT_OUT_COUNT].of_all)  # they go with the update
    assert all(f.of_all for name, f in high.items() if name not in (WIDER_COUNT, LEFT_OUT_COUNT))


def test_metrics_to_which_a_record_adds_little_have_one_limb(views: tuple) -> None:
    task, panel, sites = views
    names = [field.name for field in judge_sum(task, panel).packing.fields]
    assert "metric.weighted_loss.higher" in names and "metric.confusion.high" not in names
    parts = [
        join_sums(judge_sum(task, panel).local(view, {}), judge_sum(task, panel).packing) for view in sites.values()
    ]
    total = split_sums(np.sum(parts, axis=0), judge_sum(task, panel).packing)
    assert total["metric.confusion"].sum() == sum(len(view.data.validation) for view in sites.values())


def test_a_kind_of_classifier_with_metrics_of_its_own_needs_no_list_of_its_own() -> None:
    class Other(Classifier):
        def metric_shapes(self, panel: object) -> dict[str, tuple[int, ...]]:
            return {"loss": (), "weight": ()}

    assert list(metric_scales(Other(target="label"), {"classes": ["a", "b"]})) == ["metric.weight"]
