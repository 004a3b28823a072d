"""The picture of a tuning shows each trial to where it was stopped, and who won."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tests.pl.conftest import legend
from tests.pl.test_pictures import check_texts

import infl
from infl.errors import DataError


@pytest.fixture
def tuned() -> SimpleNamespace:
    rounds = {3: 6, 1: 2, 2: 2, 4: 1}
    rows = [
        {"trial": t, "round": r, "loss": 1 / r + t, "accuracy": 0.1 * r}
        for t, n in rounds.items()
        for r in range(1, n + 1)
    ]
    table = pd.DataFrame({"trial": list(rounds), "lr": [1e-3, 1e-2, 1e-4, 1.0]})
    return SimpleNamespace(history=pd.DataFrame(rows), table=table, best={"lr": 1e-3, "aggregation": "fedadam"})


def test_all_trials_are_drawn_to_where_they_were_stopped(tuned) -> None:
    ax = infl.pl.tune(tuned)
    curves, ends = ax.lines[::2], ax.lines[1::2]
    assert [len(line.get_xdata()) for line in curves] == [6, 2, 2, 1]
    np.testing.assert_allclose(curves[0].get_ydata(), 1 / np.arange(1, 7) + 3)
    assert [end.get_xdata()[0] for end in ends] == [6, 2, 2, 1]
    assert len({line.get_color() for line in curves}) == 2
    assert legend(ax) == ["lr 0.001, aggregation fedadam", "3 others"]
    check_texts(ax)


def test_another_metric_and_a_long_name(tuned) -> None:
    tuned.best = {f"option_{i}": "a value of some length" for i in range(5)}
    ax = infl.pl.tune(tuned, metric="val_accuracy")
    assert ax.get_ylabel() == "validation accuracy" and legend(ax)[0].endswith("…")
    check_texts(ax)


def test_what_it_does_not_draw(tuned) -> None:
    with pytest.raises(DataError, match="no column 'auroc'"):
        infl.pl.tune(tuned, metric="auroc")
    with pytest.raises(DataError, match=r"pl\.tune draws what infl\.tl\.tune returned, not int"):
        infl.pl.tune(3)
