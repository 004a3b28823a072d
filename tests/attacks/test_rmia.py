"""Membership by a few reference models, and by opened sums, on numbers made by hand and on runs."""

import numpy as np
import pytest
import torch

from infl.attacks import AuditContext, Status
from infl.attacks._kit.shadows import Shadow, _cosines, shadows, stacked
from infl.attacks.membership import Membership, allowed_area
from infl.attacks.rmia import Rmia, relative_likelihood, scores, share_beaten
from infl.attacks.sum_membership import SumMembership
from infl.nn.flat import FlatModule
from infl.nn.mlp import ResidualMLP


def test_likelihood_by_hand() -> None:
    references = np.array([[0.9, 0.2, 0.5], [0.7, 0.4, 0.7], [0.2, 0.6, 0.6]])
    member = np.array([[True, False, True], [True, False, True], [False, False, True]])
    expected = [
        0.6 / ((0.8 + 0.2) / 2),  # means with and without
        0.6 / ((1.3 * 0.4 + 0.7) / 2),  # never a member: the offline correction, a = 0.3
        0.6 / 0.6,  # always one
    ]
    np.testing.assert_allclose(relative_likelihood(np.full(3, 0.6), references, member), expected)


def test_share_by_hand() -> None:
    assert share_beaten(np.array([4.0, 2.0, 1.0, 2.0])).tolist() == [1.0, 2 / 3, 0.0, 2 / 3]
    assert share_beaten(np.array([4.0, 2.0, 1.0, 1.5]), gamma=2.0).tolist() == [1.0, 1 / 3, 0.0, 0.0]


def test_few_references_see_how_hard_a_record_is() -> None:
    rng = np.random.default_rng(0)
    member = rng.random((8, 300)) < 0.5
    hard = 4 * rng.normal(size=300)
    confidence = hard + np.where(member, 4.0, 0.0) + 0.3 * rng.normal(size=(8, 300))
    nothing = np.zeros(300)
    models = [Shadow(m, c, nothing, nothing) for m, c in zip(member, confidence, strict=True)]
    found = scores(models)
    assert found[member].mean() > found[~member].mean() + 0.3
    plain = [Shadow(m, hard, nothing, nothing) for m in member]
    assert abs(scores(plain)[member].mean() - scores(plain)[~member].mean()) < 0.15


def test_update_of_one_record_goes_along_its_gradient_and_not_along_others() -> None:
    torch.manual_seed(0)
    flat_model = FlatModule(ResidualMLP(30, 3, width=16, n_blocks=1, dropout=0.0))
    module, x, y = flat_model.module.eval(), torch.randn(5, 30), torch.tensor([0, 1, 2, 0, 1])
    flat_model.flat.grad.zero_()
    torch.nn.functional.cross_entropy(module(x[:1]), y[:1]).backward()
    cosines = _cosines(flat_model, module, x, y, flat_model.flat.grad.numpy())
    assert cosines[0] > 0.99
    assert np.abs(cosines[1:]).max() < 0.7


def test_shadows_are_made_once_and_know_their_members(default: AuditContext) -> None:
    models = shadows(default, 3)
    assert all(a is b for a, b in zip(models, shadows(default, 2), strict=False))
    total = sum(a.n_obs for a in default.sites.values())
    for model in models:
        assert model.member.shape == model.confidence.shape == model.in_sums.shape == (total,)
        assert 0.2 * total < model.member.sum() < 0.6 * total
        assert np.isfinite(model.in_sums).all()
    assert (stacked(models, "member").std(0) > 0).any()


def test_own_site_is_not_in_the_sum_that_it_looks_at(default: AuditContext) -> None:
    """The first site's records leave no trace in what is left after its own part is taken off; its messages have them."""
    models = shadows(default, 6)
    own = next(iter(default.sites.values())).n_obs
    member = stacked(models, "member")
    gaps = {}
    for what in ("in_sums", "in_messages"):
        values = stacked(models, what)[:, :own]
        gaps[what] = values[member[:, :own]].mean() - values[~member[:, :own]].mean()
    assert gaps["in_messages"] > 3 * abs(gaps["in_sums"])


@pytest.mark.long
def test_runs_without_noise_tell_members_and_nothing_was_promised(default: AuditContext, monkeypatch) -> None:
    monkeypatch.setattr("infl.attacks.sum_membership.N_SHADOWS", 8)
    for attack in (Rmia(), SumMembership()):
        (finding,) = attack.run(default)
        assert finding.status is Status.NOT_PROMISED
        assert finding.value > 0.7


@pytest.mark.long
def test_noise_keeps_members_within_what_epsilon_allows_and_its_lack_shows(
    private: dict[str, AuditContext], monkeypatch
) -> None:
    """The control: the same private run whose noise is switched off."""
    monkeypatch.setattr("infl.attacks.sum_membership.N_SHADOWS", 16)
    context = private["distributed"]
    with_noise = [attack.run(context)[0] for attack in (Rmia(), SumMembership())]
    for finding in with_noise:
        assert finding.promised
        assert finding.bound == pytest.approx(allowed_area(context.run.privacy["epsilon"], 1e-4))
        assert finding.status is Status.HOLDS
    monkeypatch.setattr("infl.federation.training.discrete_gaussian", lambda sigma, size, rng: np.zeros(size))
    noiseless = AuditContext(context.run, context.sites, seed=1)
    for name, control in context._kept.items():
        if name[0] == "overfitted":  # they never had noise
            noiseless.once(name, lambda control=control: control)
    (bare,) = SumMembership().run(noiseless)
    assert bare.value > with_noise[1].value + 0.1


def test_attacks_on_membership_apply_alike(default: AuditContext) -> None:
    assert [attack.applies(default) for attack in (Membership(), Rmia(), SumMembership())] == [True] * 3
