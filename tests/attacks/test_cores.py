"""The attacks' numbers on cases that were made by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from infl.attacks import ATTACKS, Attack, Attacker, known_attacks, load_attack
from infl.attacks._kit.statistics import correlation
from infl.attacks.analytic_leak import gradient_of_step, profile
from infl.attacks.gradient_inversion import invert, matched
from infl.attacks.ratio import profile_ratio
from infl.attacks.sealed_traffic import probe
from infl.errors import SettingsError
from infl.nn.mlp import ResidualMLP


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


def test_registry() -> None:
    assert set(ATTACKS) <= set(known_attacks())
    for name in ATTACKS:
        attack = load_attack(name)
        assert isinstance(attack, Attack)
        assert attack.name == name
        assert isinstance(attack.against, Attacker)
        assert attack.question.endswith("?")
    with pytest.raises(SettingsError, match=r"'wrongkey' is not known: did you mean 'wrong_key'\? .*known_attacks\(\)"):
        load_attack("wrongkey")
    with pytest.raises(SettingsError, match=r"'hope' is not known: infl\.attacks\.known_attacks\(\) has"):
        load_attack("hope")


def test_documentation_names_every_attack_and_no_other() -> None:
    pages = Path(__file__).parents[2] / "docs" / "privacy"
    listed = re.findall(r"^\| (`[^|]+`) \|", (pages / "audit.md").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(listed))) == sorted(ATTACKS)
    index = (pages / "index.md").read_text()
    cells = re.findall(r"^\d\. (.+)$", index, re.MULTILINE)  # under the first table; the second names its own
    lies = re.findall(r"^\| .+ \|$", index[index.index("### Against a coordinator that lies") :], re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join([*cells, *lies])))
    assert named == set(ATTACKS)


def test_a_patch_is_found_from_its_gradient_and_not_from_noise():
    from infl.attacks.patch_inversion import invert_patch, ssim
    from infl.nn.histology import HistologyNet, count_loss

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    net = HistologyNet(nn.Flatten(), 0, 20, dropout=0.0, augment=False, image=(8, 8)).double().eval()
    patch = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4, dtype=torch.float64), (8, 8), mode="bilinear")
    counts = torch.poisson(torch.full((1, 20), 2.0)).double()
    loss = count_loss(net(patch, torch.zeros(1, 0).double()), counts, net.dispersion).mean()
    names = [n for n, _ in net.named_parameters()]
    gradient = dict(zip(names, torch.autograd.grad(loss, list(net.parameters())), strict=True))
    assert ssim(invert_patch(net, gradient, counts, (3, 8, 8), rng), patch[0].numpy()) > 0.5
    noise = {n: torch.randn_like(g) for n, g in gradient.items()}
    assert ssim(invert_patch(net, noise, counts, (3, 8, 8), rng), patch[0].numpy()) < 0.3
