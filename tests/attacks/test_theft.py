"""Thieves who have more than the file: a public model, the model's predictions, a tenth of the data to forge a key."""

import numpy as np
import pytest
import torch

from infl.attacks import AuditContext, Finding, Status
from infl.attacks._kit.theft import Thief, thefts
from infl.attacks.file_plus_oracle import FilePlusOracle, mixtures
from infl.attacks.forged_key import ForgedKey
from infl.attacks.public_model_thief import CASES, PublicModelThief, by_direction, expected_weights
from infl.nn.lock import Field

CLOSED = (Status.HOLDS, Status.INCONCLUSIVE)
"""No leak: so few trials as a test has often do not show that there is none."""


def test_directions_are_taken_from_the_file_where_they_are_those_of_the_public_model() -> None:
    torch.manual_seed(0)
    public = torch.randn(40, 60)
    near = public + 0.3 * torch.randn(40, 60)
    gains = torch.randn(40, 1).exp() * torch.randn(40, 1).sign()
    guess = by_direction({"w": near * gains}, {"w": public}, 0)["w"]
    assert (guess - near).norm() < 0.5 * (public - near).norm()
    noise = by_direction({"w": torch.randn(40, 60)}, {"w": public}, 0)["w"]
    assert (noise == public).all(1).float().mean() > 0.95
    assert torch.equal(by_direction({"b": near[0]}, {"b": public[0]}, 0)["b"], public[0])


@pytest.mark.parametrize(("strength", "left"), [(0.0, 0.01), (0.05, 0.5), (0.1, 0.75), (1.0, 1.001)])
def test_expected_weights_come_nearer_the_weaker_the_lock_and_never_farther(strength: float, left: float) -> None:
    """The mean of what can be, by an enemy who knows the construction: at full strength it is the public tensor again."""
    torch.manual_seed(0)
    public = 0.03 * torch.randn(200, 200)
    distance = 0.02
    effective = public + distance * torch.randn(200, 200)
    stored = Field(bytes(range(32)), b"salt", strength).lock("w", effective)
    guess = expected_weights(stored, public, distance, strength)
    assert (guess - effective).norm() <= left * (public - effective).norm()


def test_mixtures_are_of_own_samples() -> None:
    weights = mixtures(np.array([1, 3]), 5, 10, np.random.default_rng(0))
    assert weights.shape == (10, 5)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(10))
    assert not weights[:, [0, 2, 4]].any()


def test_thefts_are_shared_and_their_samples_are_others_than_the_runs(default: AuditContext) -> None:
    first, again = list(thefts(default, 2)), list(thefts(default, 2))
    assert all(a is b for a, b in zip(first, again, strict=True))
    one, two = first
    total = sum(a.n_obs for a in default.sites.values())
    assert len(one.samples[1]) + len(one.cohort[1]) == total
    x, _ = one.samples
    assert len(torch.unique(torch.cat([x, one.cohort[0]]), dim=0)) == total
    salts = [set(theft.file.model.header.salts.values()) for theft in first]
    assert salts[0].isdisjoint(salts[1])
    assert one.file.model.header.seed != two.file.model.header.seed


def judged(attack: Thief, context: AuditContext, monkeypatch: pytest.MonkeyPatch, n_trials: int = 4) -> list[Finding]:
    monkeypatch.setattr(type(attack), "n_trials", n_trials)
    assert attack.applies(context)
    return attack.run(context)


@pytest.mark.long
def test_file_adds_nothing_to_a_public_model_and_an_open_one_does(
    default: AuditContext, unprotected: AuditContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    # four thefts do not always show what an open file is worth: it hangs on the keys that are drawn
    locked, opened = (judged(PublicModelThief(), context, monkeypatch, 8) for context in (default, unprotected))
    for finding, open_finding, case in zip(locked, opened, CASES, strict=True):
        assert case in finding.metric
        assert finding.status in (*CLOSED, Status.NOT_JUDGED)
        assert open_finding.value > finding.value + 0.05
    assert all(f.status in CLOSED for f in locked[:2])
    assert [f.status for f in opened[:2]] == [Status.NOT_PROMISED] * 2


@pytest.mark.long
def test_file_adds_nothing_to_predictions_and_an_open_one_does(
    default: AuditContext, unprotected: AuditContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    (locked,), (opened,) = (judged(FilePlusOracle(), context, monkeypatch, 8) for context in (default, unprotected))
    assert locked.status in CLOSED
    assert opened.status is Status.NOT_PROMISED
    assert locked.chance > 0.5  # predictions alone are worth something


@pytest.mark.long
def test_no_key_is_forged_and_an_open_file_needs_none(
    default: AuditContext, unprotected: AuditContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    (locked,), (opened,) = (judged(ForgedKey(), context, monkeypatch) for context in (default, unprotected))
    assert locked.status in CLOSED
    assert opened.status is Status.NOT_PROMISED
    assert f"{round(0.1 * sum(a.n_obs for a in default.sites.values()))} samples" in locked.metric
