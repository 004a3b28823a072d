"""What the file says of the cohort."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from infl.attacks import AuditContext, Status
from infl.attacks.file_statistics import (
    FileStatistics,
    best_reading,
    linear_reading,
    per_feature,
    per_file,
)


def test_locked_file_has_no_private_numbers(default: AuditContext, unprotected: AuditContext) -> None:
    model = SimpleNamespace(stored={"w": torch.randn(3, 4)}, header=SimpleNamespace(fingerprint="abcd"))
    assert set(per_feature(model, "w")) == {"mean", "mean size", "spread", "largest"}
    assert {"center", "scale"} <= set(per_feature(unprotected.run.model, "embed.weight"))
    assert len(per_file(unprotected.run.model)) > len(per_file(default.run.model))


def test_reading_finds_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    truth = {"mean": rng.normal(size=500), "spread": rng.gamma(2, size=500)}
    noise = {str(i): rng.normal(size=500) for i in range(8)}
    assert abs(np.mean([best_reading(noise, truth, rng) for _ in range(30)])) < 0.1
    assert best_reading(noise | {"hidden": -(truth["spread"] ** 3)}, truth, rng) > 0.99


def test_regression_reads_files_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    numbers, truth = rng.normal(size=(30, 40)), rng.normal(size=30)
    assert linear_reading(numbers, truth) < 0.4
    numbers[:, 3] = 7 - 2 * truth
    assert linear_reading(numbers, truth) > 0.7


@pytest.mark.long
def test_default_says_nothing_and_an_open_file_all(
    default: AuditContext, unprotected: AuditContext, monkeypatch
) -> None:
    monkeypatch.setattr("infl.attacks.file_statistics.N_COHORTS", 12)
    features, cohorts = FileStatistics().run(default)
    assert features.status is Status.HOLDS
    assert features.control > 0.99
    assert cohorts.status is not Status.BROKEN
    features, _ = FileStatistics().run(unprotected)
    assert features.status is Status.NOT_PROMISED


def test_files_of_all_cohorts_are_equally_long(default: AuditContext) -> None:
    some = {s: a[: 8 + number] for number, (s, a) in enumerate(default.sites.items())}
    small, large = (default.repeat(sites, rounds=1).model for sites in (some, default.sites))
    assert len(small.private) == len(large.private)
