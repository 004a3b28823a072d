"""Tuning: who goes on, that the winner's run is a fit like any other, and that all that was opened is counted."""

import pytest
import torch
from tests.tl.conftest import cohort, refused

import infl
from infl.federation.replica import Replica
from infl.tl._trials import options_of, rungs

SMALL = {"target": "label", "width": 8, "n_blocks": 1, "progress": False}
SPACE = {"lr": [1e-2, 1e-4, 1e-6], "local_epochs": [1, 2]}


def tune(sites=None, **options):
    return infl.tl.tune(sites or cohort(), **SMALL | {"space": SPACE, "rounds": 6, "eta": 2} | options)


@pytest.fixture(scope="module")
def tuned():
    return tune(key=infl.keys.Keyring.create())


@pytest.mark.parametrize(
    ("n", "rounds", "eta", "found"),
    [
        (9, 20, 3, [(9, 2), (3, 7), (1, 20)]),
        (8, 20, 2, [(8, 2), (4, 5), (2, 10), (1, 20)]),
        (10, 20, 3, [(10, 2), (3, 7), (1, 20)]),
        (2, 20, 3, [(2, 20)]),
        (27, 2, 3, [(27, 1), (9, 2)]),
        (5, 1, 2, [(5, 1)]),
        (1, 20, 3, [(1, 20)]),
    ],
)
def test_rungs(n, rounds, eta, found) -> None:
    assert rungs(n, rounds, eta) == found


def test_settings_are_drawn_without_repetition() -> None:
    space = {"a": [1, 2, 3], "b": ["x", "y"]}
    every, drawn = options_of(space, None, 0), options_of(space, 4, 0)
    assert len(every) == 6 and len(drawn) == 4 and all(one in every for one in drawn)
    assert drawn == options_of(space, 4, 0) != options_of(space, 4, 1) and options_of(space, 99, 0) == every


def test_the_winners_run_is_the_fit_with_its_options(tuned) -> None:
    sites = cohort()
    key = tuned.run.key
    fit = infl.tl.fit_federated(sites, key=key, rounds=6, **SMALL, **tuned.best)
    for name, weight in fit.model.effective(key).items():
        assert torch.equal(weight, tuned.run.model.effective(key)[name])
    assert tuned.run.history.equals(fit.history) and len(tuned.run.history) == 6
    assert tuned.run.settings["local_epochs"] == tuned.best["local_epochs"] and tuned.best["lr"] == 1e-2
    assert tuned.run.model.header.options["lr"] == tuned.best["lr"]


def test_the_worse_half_is_stopped_and_keeps_its_row(tuned) -> None:
    table = tuned.table.set_index("trial")
    assert sorted(table["judged"]) == [2, 2, 2, 3, 3, 6]
    assert (table["rounds"].iloc[1:] > table["judged"].iloc[1:]).all() and table["rounds"].iloc[0] == 6
    stopped = table[table["judged"] == 2]
    assert stopped["lr"].max() <= 1e-4  # those that hardly learn
    assert set(tuned.history["trial"]) == {1, 2, 3, 4, 5, 6}
    assert tuned.history.groupby("trial").size().to_dict() == table["judged"].to_dict()
    assert tuned.metric == "balanced_accuracy" and "val_balanced_accuracy" in table


def test_all_that_is_opened_is_counted(monkeypatch) -> None:
    opened: list[str] = []
    apply = Replica._apply
    monkeypatch.setattr(Replica, "_apply", lambda self, total: (opened.append(total.kind), apply(self, total))[1])
    sites = cohort()
    tuned = tune(sites, space={"lr": [1e-2, 1e-6]}, rounds=4)
    assert tuned.table["sums"].sum() == len(opened)
    counted = tuned.disclosed.set_index("sum")["opened"]
    assert counted["train"] == tuned.table["rounds"].sum() >= opened.count("train")
    assert counted["count"] == opened.count("count") == 2 and counted["temperature"] == 1
    assert tuned.disclosed["bytes"].sum() == tuned.table["bytes"].sum()
    assert tuned.disclosed["says"].str.len().min() > 10
    assert all("infl" not in adata.uns for adata in sites.values())


def test_a_trial_that_diverges_is_out_and_the_others_go_on() -> None:
    tuned = tune(space={"lr": [1e30, 1e-3]}, optimiser="sgd", rounds=3)
    assert tuned.best == {"lr": 1e-3} and "training diverges" in tuned.table["note"].iloc[1]
    assert "every trial that was left failed" in refused(
        lambda: tune(space={"lr": [1e30, 1e31]}, optimiser="sgd", rounds=3)
    )


def test_trials_can_be_compared_by_another_metric() -> None:
    assert tune(space={"lr": [1e-2, 1e-3]}, rounds=2, metric="val_loss").metric == "loss"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"space": {}}, "give the values to try by option"),
        ({"space": {"lr": 1e-3}}, "give lr as a list of values"),
        ({"space": {"lr": []}}, "give lr as a list of values"),
        ({"space": {"lr": [1e-3, 1e-3]}}, "lr has a value twice"),
        ({"space": {"lr": [1e-3, -1.0]}}, "lr=-1.0"),
        ({"space": {"learn": [1]}}, "model 'classifier' has no option 'learn'"),
        ({"space": {"width": [8]}}, "width= is given, and in space too"),
        ({"space": {"validation": [0.1, 0.3]}}, "validation is no option to choose by a validation metric"),
        ({"space": {"aggregation": ["fedavg", "fed"]}}, "aggregation"),
        ({"privacy": infl.privacy.DP(epsilon=8, delta=1e-3)}, "privacy= goes with no tuning"),
        ({"init": 3}, "init= goes with no tuning"),
        ({"validation": 0.0, "rounds": 2}, "no site has validation records to choose by"),
        ({"metric": "auroc", "rounds": 2}, "metric='auroc': the validation metrics are"),
        ({"eta": 1}, "eta=1"),
        ({"space": 3}, "space=3"),
    ],
    ids=str,
)
def test_what_cannot_be_tuned(options, said) -> None:
    sites = cohort()
    assert said in refused(lambda: tune(sites, **options))
    assert all("infl" not in adata.uns for adata in sites.values())
