"""The attacks' numbers on cases that were made by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from infl.errors import SettingsError
from infl.nn.mlp import ResidualMLP
from infl.privacy.attacks import ATTACKS, Attack, Attacker, Finding, Status, known_attacks, load_attack
from infl.privacy.attacks.analytic_leak import gradient_of_step, profile
from infl.privacy.attacks.file_statistics import per_feature
from infl.privacy.attacks.gradient_inversion import invert, matched
from infl.privacy.attacks.importance_thief import column_norms
from infl.privacy.attacks.known_model import opened_like
from infl.privacy.attacks.membership import confidence, likelihood_ratios, true_positive_rate
from infl.privacy.attacks.ratio import profile_ratio
from infl.privacy.attacks.sealed_traffic import probe
from infl.privacy.attacks.statistics import correlation, interval, rank_correlation
from infl.privacy.attacks.thief_fine_tuning import compare_starts, draw, fine_tune, starts, summarise


def finding(**changes: object) -> Finding:
    base = {"metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.25, "control": 0.9}
    return Finding(**{**base, "promised": True, "margin": 0.2, "note": ""} | changes)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.BROKEN),
        ({"promised": False}, Status.NOT_PROMISED),
        ({"low": 0.24}, Status.HOLDS),
        ({"control": 0.3}, Status.CONTROL_FAILED),
        (
            {"control": 0.3, "low": 0.24},
            Status.CONTROL_FAILED,
        ),  # an attack that fails on the control never counts as a pass
        ({"control": float("nan")}, Status.CONTROL_FAILED),
    ],
)
def test_status(changes: dict[str, object], status: Status) -> None:
    assert finding(**changes).status is status


def test_one_record_gradient_gives_its_input_away() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(7, 5), torch.randn(1, 7)
    (layer(x).tanh() ** 2).sum().backward()
    read = profile(layer.weight.grad.numpy(), layer.bias.grad.numpy())
    np.testing.assert_allclose(read, x[0].numpy(), rtol=1e-4)


def test_first_step_of_adam_gives_its_gradient_away() -> None:
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(50))
    before, gradient = p.detach().clone().numpy(), torch.randn(50) * 10.0 ** torch.randint(-5, 0, (50,))
    p.grad = gradient
    torch.optim.AdamW([p], lr=1e-3, eps=1e-5, weight_decay=1e-4).step()
    read = gradient_of_step(p.detach().numpy() - before, before, lr=1e-3, weight_decay=1e-4)
    assert correlation(np.log(np.abs(read)), np.log(np.abs(gradient.numpy()))) > 0.99
    assert (np.sign(read) == np.sign(gradient.numpy())).mean() > 0.98


def test_the_lock_cancels_in_a_ratio() -> None:
    rng = np.random.default_rng(0)
    a, b, m = rng.normal(size=(1, 9)), rng.normal(size=(1, 9)), np.exp(rng.normal(size=(6, 10)))
    delta_a, delta_b = rng.normal(size=(6, 1)), rng.normal(size=(6, 1))
    first = (delta_a @ a / m[:, :9], delta_a[:, 0] / m[:, 9])
    second = (delta_b @ b / m[:, :9], delta_b[:, 0] / m[:, 9])
    np.testing.assert_allclose(profile_ratio(first, second), (a / b)[0])


def test_inversion_finds_the_patients() -> None:
    torch.manual_seed(0)
    module = ResidualMLP(12, 3, width=16, n_blocks=1, dropout=0.0).eval()
    x, y = torch.randn(2, 12), torch.tensor([0, 2])
    loss = nn.functional.cross_entropy(module(x), y)
    gradient = torch.cat([g.ravel() for g in torch.autograd.grad(loss, list(module.parameters()))])
    assert matched(invert(module, gradient, y, 12, np.random.default_rng(0)), x.numpy()) > 0.9
    noise = torch.randn(len(gradient))
    assert abs(matched(invert(module, noise, y, 12, np.random.default_rng(0)), x.numpy())) < 0.6


def test_probe_tells_apart_what_differs_and_not_what_does_not() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    assert probe(rng.normal(size=(80, 30)) + labels[:, None], labels, rng).mean() > 0.9
    assert abs(probe(rng.normal(size=(80, 30)), labels, rng).mean() - 0.5) < 0.2


def test_likelihood_ratios_find_members_that_are_fitted_and_nobody_else() -> None:
    rng = np.random.default_rng(0)
    member = rng.random((16, 200)) < 0.5
    fitted = rng.normal(size=200) + np.where(member, 6.0, 0.0) + rng.normal(size=(16, 200))
    assert true_positive_rate(*likelihood_ratios(fitted, member), 0.01) > 0.5
    plain = rng.normal(size=200) + rng.normal(size=(16, 200))
    assert true_positive_rate(*likelihood_ratios(plain, member), 0.01) < 0.05


def test_confidence_is_the_logit_of_the_true_class() -> None:
    np.testing.assert_allclose(confidence(np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([0, 1])), [np.log(3), 0])


def test_opened_model_opens_another_under_the_same_factors_only() -> None:
    torch.manual_seed(0)
    m, old, new = torch.randn(20).exp(), torch.randn(20), torch.randn(20)
    read = opened_like({"w": new / m}, {"w": old / m}, {"w": old})["w"]
    torch.testing.assert_close(read, new)


def test_ways_to_begin() -> None:
    stored = {"w": torch.tensor([3.0, -0.5, 10.0]), "b": torch.zeros(2)}
    scratch = {"w": torch.tensor([1.0, -1.0, 0.5]), "b": torch.zeros(2)}
    begin = starts(stored, scratch)
    assert begin["clipped"]["w"].tolist() == [1.0, -0.5, 1.0]
    assert float(begin["rescaled"]["w"].std(correction=0)) == pytest.approx(float(scratch["w"].std(correction=0)))
    assert begin["as stored"]["w"].tolist() == stored["w"].tolist()


def test_fine_tuning_learns_and_ways_differ() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 6), torch.arange(30) % 3
    x[torch.arange(30), y] += 4
    module = ResidualMLP(6, 3, width=8, n_blocks=1)
    begin = {n: p.detach().clone() for n, p in module.named_parameters()}
    tuned = fine_tune(module, begin, x, y, lr=1e-2)
    assert (tuned(x).argmax(1) == y).float().mean() > 0.9
    frozen = dict(fine_tune(module, begin, x, y, lr=1e-2, how="head only").named_parameters())
    assert torch.equal(frozen["embed.weight"], begin["embed.weight"])
    assert not torch.equal(frozen["head.weight"], begin["head.weight"])


def test_draw_has_every_class_and_leaves_the_others() -> None:
    y = np.arange(40) % 4
    train, judge = draw(y, 8, np.random.default_rng(0))
    assert len(train) == 8
    assert set(y[train]) == {0, 1, 2, 3}
    assert sorted([*train, *judge]) == list(range(40))


def test_oracle_takes_the_best_rate_of_each_method() -> None:
    trials = [{("a", 1.0): 0.1, ("a", 2.0): 0.9, ("b", 1.0): 0.5, ("b", 2.0): 0.3}] * 2
    best = summarise(trials)
    assert best["a"].tolist() == [0.9, 0.9]
    assert best["b"].tolist() == [0.5, 0.5]


def test_paired_comparison() -> None:
    row = compare_starts(
        {
            "as stored": np.array([0.5, 0.7]),
            "clipped": np.array([0.6, 0.8]),
            "scratch": np.array([0.4, 0.5]),
            "unlocked": np.array([1.0, 1.0]),
        }
    )
    assert row["how"] == "clipped"  # the better one on either half
    np.testing.assert_allclose(row["difference"], [0.2, 0.3])


def test_statistics() -> None:
    assert interval([1.0, 3.0])["value"] == 2
    assert correlation(np.ones(5), np.arange(5)) == 0
    assert rank_correlation(np.array([1.0, 10.0, 100.0, np.nan]), np.array([1.0, 2.0, 3.0, 0.0])) == pytest.approx(1)
    assert column_norms(np.array([[3.0, 0.0], [4.0, 1.0]])).tolist() == [5, 1]


def test_registry() -> None:
    assert set(ATTACKS) <= set(known_attacks())
    for name in ATTACKS:
        attack = load_attack(name)
        assert isinstance(attack, Attack)
        assert attack.name == name
        assert isinstance(attack.against, Attacker)
        assert attack.question.endswith("?")
    with pytest.raises(SettingsError, match="'wrong_key'|wrong_key"):
        load_attack("wrongkey")


def test_per_feature_numbers_of_a_locked_file_have_no_private_ones() -> None:
    from types import SimpleNamespace

    model = SimpleNamespace(stored={"w": torch.randn(3, 4)}, header=SimpleNamespace(fingerprint="abcd"))
    assert set(per_feature(model, "w")) == {"mean", "mean size", "spread", "largest"}
