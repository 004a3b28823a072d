import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infl.nn.film import FiLM


def layer_norm(x, weight, bias, eps=1e-5):
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return [(v - mean) / np.sqrt(variance + eps) * g + b for v, g, b in zip(x, weight, bias, strict=True)]


def linear(x, weight, bias):
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def silu(x):
    return [v / (1 + np.exp(-v)) for v in x]


def film_of_one_row(h, z, weights, k):
    """The formula, number by number."""
    a = layer_norm(
        silu(linear(h, weights["activation.weight"], weights["activation.bias"])),
        weights["norm.weight"],
        weights["norm.bias"],
    )
    condition = list(a) + list(z) + [p * q for p, q in zip(a, z, strict=True)]
    both = linear(condition, weights["modulation.weight"], weights["modulation.bias"])
    gamma, beta = both[: len(h)], both[len(h) :]
    return [v * (1 + k * np.tanh(g)) + k * np.tanh(b) for v, g, b in zip(h, gamma, beta, strict=True)]


def randomise(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def numpy_state(module):
    return {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("strength", [0.5, 20.0])
def test_formula(strength):
    film = FiLM(3, strength).double()
    randomise(film)
    h, z = torch.randn(4, 3, dtype=torch.double), torch.randn(16, dtype=torch.double)
    expected = [film_of_one_row(row, z.numpy(), numpy_state(film), strength) for row in h.numpy()]
    np.testing.assert_allclose(film(h, z).detach().numpy(), expected, rtol=1e-12)


@settings(deadline=None)
@given(leading=st.lists(st.integers(1, 4), max_size=3))
def test_any_leading_dimensions(leading):
    film = FiLM(5, 1.0)
    h, z = torch.randn(*leading, 5), torch.randn(16)
    rows = torch.stack([film(row, z) for row in h.reshape(-1, 5)])
    torch.testing.assert_close(film(h, z).reshape(-1, 5), rows)


def test_a_code_of_its_own_for_each_row():
    film = FiLM(5, 1.0)
    randomise(film)
    h, z = torch.randn(2, 3, 5), torch.randn(2, 1, 16)
    together = film(h, z)
    torch.testing.assert_close(together[0], film(h[0], z[0, 0]))
    torch.testing.assert_close(together[1], film(h[1], z[1, 0]))
    assert not torch.allclose(together[0], film(h[0], z[1, 0]))


def test_strength_zero_changes_nothing():
    film = FiLM(5, 0.0)
    randomise(film)
    h = torch.randn(6, 5)
    assert torch.equal(film(h, torch.randn(16)), h)


@settings(deadline=None)
@given(strength=st.floats(0, 20), seed=st.integers(0, 1000))
def test_scale_and_shift_are_bounded_by_the_strength(strength, seed):
    film = FiLM(5, strength)
    randomise(film, seed)
    h = torch.randn(6, 5)
    moved = (film(h, torch.randn(16)) - h).abs()
    assert (moved <= strength * (h.abs() + 1) * (1 + 1e-5) + 1e-6).all()


def test_starts_near_identity_at_strength_one():
    torch.manual_seed(0)
    h = torch.randn(200, 8)
    moved = FiLM(8, 1.0)(h, torch.randn(16)) - h
    assert 0 < moved.std() < 0.5 * h.std()


def test_gradients_reach_activation_and_code():
    film, h, z = FiLM(5, 1.0), torch.randn(6, 5, requires_grad=True), torch.zeros(16, requires_grad=True)
    film(h, z).square().sum().backward()
    assert h.grad.abs().sum() > 0
    assert z.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in film.parameters())


def test_number_of_parameters():
    features = 7
    expected = (features * 16 + 16) + 2 * 16 + (48 * 2 * features + 2 * features)
    assert sum(p.numel() for p in FiLM(features, 1.0).parameters()) == expected


def test_other_code_size():
    film = FiLM(5, 1.0, code_size=4)
    assert film(torch.randn(2, 5), torch.randn(4)).shape == (2, 5)


def test_copies_are_independent():
    film = FiLM(5, 1.0)
    copied = copy.deepcopy(film)
    randomise(copied)
    h, z = torch.randn(2, 5), torch.randn(16)
    assert not torch.allclose(film(h, z), copied(h, z))


def test_repr_has_sizes_and_strength():
    assert "features=5, strength=20" in repr(FiLM(5, 20.0))
