"""Classifiers on a panel: what was not measured has no part, a site's coordinate moves only its own output."""

import pytest
import torch

from infl.nn.mlp import LinearClassifier, ResidualMLP

MAKES = {
    "mlp": lambda: ResidualMLP(6, 3, width=8, n_blocks=1),
    "coordinate": lambda: ResidualMLP(6, 3, width=8, n_blocks=1, coordinate=2),
    "linear": lambda: LinearClassifier(6, 3),
}


@pytest.fixture(params=MAKES)
def module(request):
    torch.manual_seed(0)
    return MAKES[request.param]().eval()


def test_logits_are_the_head_of_the_latent(module):
    x = torch.randn(4, 6)
    torch.testing.assert_close(module(x), module.head(module.latent(x)))


def test_what_was_not_measured_is_as_the_mean_and_has_no_gradient(module):
    module.center.copy_(torch.arange(6.0))
    x = torch.randn(4, 6)
    lacking, at_mean = x.clone(), x.clone()
    lacking[:, 2], at_mean[:, 2] = torch.nan, 2.0
    torch.testing.assert_close(module(lacking), module(at_mean))
    module(lacking).square().sum().backward()
    first = next(p for name, p in module.named_parameters() if name in ("embed.weight", "head.weight"))
    assert torch.isfinite(first.grad).all() and (first.grad[:, 2] == 0).all() and first.grad.abs().sum() > 0


def test_a_value_far_out_counts_as_ten_deviations(module):
    x, far = torch.zeros(1, 6), torch.zeros(1, 6)
    x[0, 0], far[0, 0] = 10.0, 1e30
    torch.testing.assert_close(module(far), module(x))


def test_unit_length_divides_by_the_root_of_the_number_of_features():
    x = torch.randn(2, 9)
    plain, unit = LinearClassifier(9, 2), LinearClassifier(9, 2, unit_length=True)
    torch.testing.assert_close(unit.latent(x), plain.latent(x) / 3)


def test_a_site_without_a_coordinate_of_its_own_has_no_film():
    names = {name for name, _ in ResidualMLP(6, 3).named_parameters()}
    with_own = {name for name, _ in ResidualMLP(6, 3, coordinate=2).named_parameters()}
    assert "site" not in names and "site" in with_own and any(name.startswith("film.") for name in with_own)
