"""One latent for all modalities: any goes to any other through it, and each has weights of its own."""

import pytest
import torch
from torch import nn

from infl.nn.mosaic import MosaicNet


@pytest.mark.parametrize("width", [0, 7])
def test_any_modality_goes_to_any_other_through_the_latent(width):
    net, sizes = MosaicNet([5, 3, 4], n_latent=2, width=width), [5, 3, 4]
    for source, n in enumerate(sizes):
        x = torch.randn(6, n)
        assert net.encode(x, source).shape == (6, 2)
        for to, m in enumerate(sizes):
            torch.testing.assert_close(net(x, source, to), net.decode(net.encode(x, source), to))
            assert net(x, source, to).shape == (6, m)


def test_without_hidden_units_an_encoder_is_linear():
    net = MosaicNet([5, 3], n_latent=2, width=0)
    a, b = torch.randn(2, 6, 5)
    zero = net.encode(torch.zeros(6, 5), 0)
    torch.testing.assert_close(net.encode(a + b, 0) - zero, net.encode(a, 0) + net.encode(b, 0) - 2 * zero)
    assert not any(isinstance(module, nn.SiLU) for module in net.modules())


def test_a_modality_that_is_not_used_gets_no_gradient():
    net = MosaicNet([5, 3, 4], n_latent=2)
    net(torch.randn(6, 5), 0, 1).square().sum().backward()
    used = {name.split(".")[0] + name.split(".")[1] for name, p in net.named_parameters() if p.grad is not None}
    assert used == {"encoders0", "decoders1"}
