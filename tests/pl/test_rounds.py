"""The picture of rounds shows what it was given."""

import numpy as np
import pytest
from tests.pl.conftest import legend

import infl
from infl.errors import DataError


def test_rounds_shows_metric_losses_and_the_round_that_was_kept(run):
    ax = infl.pl.rounds(run)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), run.history["val_balanced_accuracy"])
    assert legend(ax) == ["balanced accuracy", "training loss", "validation loss", "kept: round 18"]
    losses = ax.figure.axes[1]
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), run.history["loss"])
    assert losses.get_ylabel() == "loss (mean per sample)"


def test_rounds_of_another_metric(run):
    for name in ("macro_f1", "val_macro_f1"):
        np.testing.assert_array_equal(
            infl.pl.rounds(run, metric=name).lines[0].get_ydata(), run.history["val_macro_f1"]
        )
    with pytest.raises(DataError, match="no metric 'auroc'; it has 'val_balanced_accuracy', 'val_macro_f1'"):
        infl.pl.rounds(run, metric="auroc")


def test_rounds_draws_the_metric_that_the_task_reports_first(run):
    run.history.insert(2, "val_auroc", 0.5)
    assert infl.pl.rounds(run).get_ylabel() == "validation auroc"  # no task: the first
    run.settings["task"] = "classifier"
    assert infl.pl.rounds(run).get_ylabel() == "validation balanced accuracy"
    run.settings["task"] = "of another package"
    assert infl.pl.rounds(run).get_ylabel() == "validation auroc"


def test_rounds_without_validation(run):
    run.history = run.history[["loss"]]
    ax = infl.pl.rounds(run)
    assert legend(ax) == ["training loss"] and len(ax.figure.axes) == 1


def test_rounds_of_something_else(run):
    with pytest.raises(DataError, match=r"pl\.rounds draws a run that infl\.tl\.fit_federated returned, not int"):
        infl.pl.rounds(3)
    run.history = run.history[:0]
    with pytest.raises(DataError, match="the table is empty"):
        infl.pl.rounds(run)
