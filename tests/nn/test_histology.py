"""The network from patches to counts, and the backbones that it takes."""

import numpy as np
import pytest
import torch

import infl
from infl.errors import SettingsError
from infl.nn.histology import HistologyNet, SmallCNN, count_loss, load_backbone


def test_count_loss_is_the_likelihood():
    from scipy.stats import nbinom

    counts, log_mean, dispersion = (
        torch.tensor([[0.0, 3.0, 50.0]]),
        torch.tensor([[0.5, 1.0, 3.0]]),
        torch.tensor([0.0, 1.0, 2.0]),
    )
    theta = np.exp(dispersion.numpy())
    expected = -nbinom.logpmf(counts.numpy(), theta, theta / (theta + np.exp(log_mean.numpy())))
    np.testing.assert_allclose(count_loss(log_mean, counts, dispersion).numpy(), expected, rtol=1e-4)


def test_options_of_a_backbone_have_types(monkeypatch):
    def made(width: int, name: str = "a") -> torch.nn.Module:
        return torch.nn.Conv2d(3, width, 3)

    monkeypatch.setattr(infl.settings, "backbones", {"made": made, "bare": lambda **options: torch.nn.Flatten()})
    assert load_backbone("made", {"width": 5}).out_channels == 5
    monkeypatch.setitem(infl.settings.backbones, "dict", dict)
    with pytest.raises(SettingsError, match="gave dict: it has to return a torch module"):
        load_backbone("dict", {})
    for name, options in (
        ("made", {"width": "5"}),
        ("made", {"width": 5, "path": "x"}),
        ("made", {}),
        ("bare", {"path": "/x"}),
    ):
        with pytest.raises(SettingsError, match="backbone_options"):
            load_backbone(name, options)


def test_a_class_is_a_backbone_with_options_too():
    assert load_backbone("small_cnn", {"width": 32, "grid": 2})(torch.zeros(1, 3, 16, 16)).shape == (1, 128)
    with pytest.raises(SettingsError, match="backbone_options"):
        load_backbone("small_cnn", {"grid": "2"})


def test_batch_norm_of_a_backbone_becomes_group_norm_and_maps_are_averaged(monkeypatch):
    made = lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3), torch.nn.BatchNorm2d(12))  # noqa: E731
    monkeypatch.setitem(infl.settings.backbones, "theirs", made)
    backbone = load_backbone("theirs", {})
    assert isinstance(backbone[1], torch.nn.GroupNorm)
    net = HistologyNet(backbone, 0, 5, image=(8, 8))
    assert net.image.in_features == 12 and net(torch.zeros(2, 3, 8, 8), torch.zeros(2, 0)).shape == (2, 5)
    assert HistologyNet(SmallCNN(), 4, 5)(torch.zeros(2, 3, 32, 32), torch.zeros(2, 4)).shape == (2, 5)
