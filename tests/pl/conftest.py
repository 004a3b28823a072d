"""Shared by the tests of this folder."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def run():
    rounds = np.arange(1, 21)
    history = pd.DataFrame(
        {
            "loss": 1.4 * np.exp(-rounds / 5) + 0.05,
            "val_loss": 1.5 * np.exp(-rounds / 5) + 0.2,
            "val_balanced_accuracy": 1 - 0.8 * np.exp(-rounds / 3),
            "val_macro_f1": 1 - 0.9 * np.exp(-rounds / 3),
            "n_sites": 5,
            "best": rounds == 18,
        },
        index=pd.Index(rounds, name="round"),
    )
    return SimpleNamespace(history=history, settings={"rounds": 20}, lock_curve=None)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.fixture
def curve():
    strength = np.linspace(0, 1, 6)
    fall = 0.25 + 0.7 * np.exp(-((3 * strength) ** 2))
    parts = {"no key": fall, "right key": np.full(6, 0.95), "wrong key": fall**1.1}
    table = pd.concat(
        [
            pd.DataFrame({"strength": strength, "who": who, "balanced_accuracy": y, "sd": 0.03})
            for who, y in parts.items()
        ]
    )
    table.attrs["chance"] = 0.25
    return table


METHODS = {
    "pooled": 0.97,
    "alone": 0.78,
    "fedavg": 0.965,
    "infl": 0.965,
    "infl_wrong_key": 0.26,
    "infl_no_key": 0.25,
    "published": 0.91,
    "published_wrong_key": 0.52,
    "baseline": 0.95,
}


@pytest.fixture
def comparison():
    table = pd.concat(
        [
            pd.DataFrame(
                {"method": METHODS.keys(), "metric": metric, "mean": values, "sd": 0.03, "n_seeds": 5, "seconds": 2.0}
            )
            for metric, values in (
                ("macro_f1", 0.5),
                ("balanced_accuracy", METHODS.values()),
                ("calibration_error", 0.1),
            )
        ],
        ignore_index=True,
    )
    table.attrs["chance"] = 0.25
    return table


ATTACKS = [
    ("analytic_leak", "coordinator", "none", "rows_recovered", 0.93, 0.0, 0.93),
    ("analytic_leak", "coordinator", "published", "rows_recovered", 0.40, 0.0, 0.93),
    ("analytic_leak", "coordinator", "field + group", "rows_recovered", 0.0, 0.0, 0.93),
    ("no_key", "model thief", "field", "balanced_accuracy", 0.27, 0.25, 0.96),
    ("thief_fine_tuning", "model thief", "field", "balanced_accuracy", 0.61, 0.60, 0.88),
    ("membership", "model user", "field", "auroc", 0.57, 0.5, 0.58),
]


@pytest.fixture
def attacks():
    return pd.DataFrame(ATTACKS, columns=["attack", "against", "protection", "metric", "value", "chance", "control"])
