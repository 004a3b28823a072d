import copy
import io
import itertools
import pickle
import struct

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from infl.errors import InflWarning, KeyringError, SettingsError
from infl.nn.film import FiLM
from infl.nn.published import STRENGTH, KeyedLinear, KeyEncoder, apply_published, coordinates, set_coordinates

KEY_A, KEY_B = bytes(range(32)), bytes(range(1, 33))


def plain_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.SiLU(), nn.LayerNorm(5), nn.Linear(5, 3, bias=False))


def keyed_net(strength=20.0, key=KEY_A):
    net = apply_published(plain_net(), strength)
    if key is not None:
        set_coordinates(net, coordinates(key))
    return net


def layer_norm(x, weight, bias):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def silu(x):
    return x / (1 + np.exp(-x))


# -- coordinates -------------------------------------------------------------------------------------------------------
def test_coordinates_are_the_words_of_the_stream():
    stream = Cipher(ChaCha20(KEY_A, bytes(16)), mode=None).encryptor().update(bytes(1024))
    points = coordinates(KEY_A)
    assert points.shape == (128, 2)
    assert points.dtype == torch.float32
    for i, row in enumerate(points.tolist()):
        for j, value in enumerate(row):
            (word,) = struct.unpack_from("<I", stream, 4 * (2 * i + j))
            assert value == pytest.approx(2 * word / (2**32 - 1) - 1, abs=1e-7)


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_coordinates_lie_in_the_square_and_follow_from_the_key(subkey):
    points = coordinates(subkey)
    assert points.abs().max() <= 1
    assert torch.equal(points, coordinates(subkey))
    flipped = bytes([subkey[0] ^ 1]) + subkey[1:]
    assert not torch.equal(points, coordinates(flipped))


def test_coordinates_fill_the_square():
    values = torch.cat([coordinates(bytes([i]) * 32) for i in range(20)]).flatten()  # 5120 numbers, sd of mean 0.008
    assert abs(values.mean()) < 0.04
    assert values.std() == pytest.approx(1 / 3**0.5, abs=0.03)


def test_subkey_of_another_length():
    with pytest.raises(KeyringError, match="32 bytes and got 16"):
        coordinates(bytes(16))


# -- formulas ----------------------------------------------------------------------------------------------------------
def test_encoder_formula():
    encoder = KeyEncoder().double()
    points = coordinates(KEY_A).double()
    w = {name: tensor.numpy() for name, tensor in encoder.state_dict().items()}
    codes = []
    for point in points.numpy():
        h = silu(w["0.weight"] @ point + w["0.bias"])
        h = silu(w["2.weight"] @ h + w["2.bias"])
        codes.append(layer_norm(h, w["4.weight"], w["4.bias"]))
    np.testing.assert_allclose(encoder(points).detach().numpy(), np.mean(codes, axis=0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_keyed_linear_formula(bias):
    torch.manual_seed(0)
    k = 5.0
    layer = apply_published(nn.Linear(4, 3, bias=bias), k).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    set_coordinates(layer, coordinates(KEY_A))
    code = layer.encoder(coordinates(KEY_A).double()).detach()
    w = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}

    z = code.numpy()
    r = layer_norm(silu(w["rows.0.weight"] @ z + w["rows.0.bias"]), w["rows.2.weight"], w["rows.2.bias"])
    numbers = w["rows.3.weight"] @ r + w["rows.3.bias"]  # 2 out
    weight, shift = np.empty((3, 4)), np.empty(3)
    for row in range(3):
        for column in range(4):
            weight[row, column] = w["weight"][row, column] * (1 + k * np.tanh(numbers[row]))
        shift[row] = (w["bias"][row] if bias else 0) + k * np.tanh(numbers[3 + row])

    x = torch.randn(7, 4, dtype=torch.double)
    h = np.stack([weight @ row + shift for row in x.numpy()])
    film = layer.film(torch.from_numpy(h), code)
    np.testing.assert_allclose(layer(x).detach().numpy(), film.detach().numpy(), rtol=1e-9, atol=1e-9)


def test_every_layer_gets_the_same_code_and_its_own_film():
    net = keyed_net()
    code = net[0].encoder(coordinates(KEY_A))
    seen = []
    for part in net.modules():
        if isinstance(part, FiLM):
            part.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    net(torch.randn(2, 6))
    assert len(seen) == 2
    assert seen[0] is seen[1]  # computed once
    assert torch.equal(seen[0], code)


def test_published_strengths():
    assert dict(STRENGTH) == {"classification": 20, "perturbation": 5, "spatial": 1, "multi-omics": 1}


# -- keys --------------------------------------------------------------------------------------------------------------
def test_without_coordinates_the_network_is_the_plain_one():
    x = torch.randn(9, 6)
    assert torch.equal(keyed_net(key=None)(x), plain_net()(x))


def test_taking_the_coordinates_away():
    x, net = torch.randn(9, 6), keyed_net()
    assert not torch.allclose(net(x), plain_net()(x))
    set_coordinates(net, None)
    assert torch.equal(net(x), plain_net()(x))


def test_strength_zero_is_the_plain_network():
    x = torch.randn(9, 6)
    torch.testing.assert_close(keyed_net(strength=0.0)(x), plain_net()(x), rtol=0, atol=1e-6)


def test_two_keys_give_two_outputs():
    x, net = torch.randn(9, 6), keyed_net()
    first = net(x)
    set_coordinates(net, coordinates(KEY_B))
    assert not torch.equal(net(x), first)
    set_coordinates(net, coordinates(KEY_A))
    assert torch.equal(net(x), first)


def test_layers_called_on_their_own_use_the_key():
    x, net = torch.randn(9, 6), keyed_net()
    torch.testing.assert_close(net[3](net[2](net[1](net[0](x)))), net(x))


def test_the_code_is_not_kept_after_a_pass_even_a_failed_one():
    net = keyed_net()
    with pytest.raises(RuntimeError):
        net(torch.randn(2, 99))
    assert net._published_key._code is None
    net(torch.randn(2, 6))
    assert net._published_key._code is None


def test_the_callers_points_may_change_afterwards():
    x, net, points = torch.randn(9, 6), keyed_net(key=None), coordinates(KEY_A)
    set_coordinates(net, points)
    first = net(x)
    points.zero_()
    assert torch.equal(net(x), first)


# -- where the coordinates must not be ---------------------------------------------------------------------------------
def tensors_within(obj, seen):
    """All tensors that are reachable from an unpickled object."""
    if id(obj) in seen:
        return
    seen.add(id(obj))
    if isinstance(obj, torch.Tensor):
        yield obj
    elif isinstance(obj, dict):
        for value in obj.values():
            yield from tensors_within(value, seen)
    elif isinstance(obj, list | tuple | set):
        for value in obj:
            yield from tensors_within(value, seen)
    elif hasattr(obj, "__dict__"):
        yield from tensors_within(vars(obj), seen)


def test_coordinates_are_in_nothing_that_saves_or_prints():
    net, points = keyed_net(), coordinates(KEY_A)
    assert any(
        torch.equal(t, points) for t in tensors_within(net, set()) if t.shape == points.shape
    )  # the search works
    named = dict(net.state_dict()) | dict(net.named_parameters()) | dict(net.named_buffers())
    assert all(tensor.shape != points.shape for tensor in named.values())
    first = f"{points[0, 0].item():.4f}"[:6]
    assert first not in repr(net) + repr(net._published_key)

    stored = pickle.dumps(net)
    assert points.numpy().tobytes() not in stored
    assert all(tensor.shape != points.shape for tensor in tensors_within(pickle.loads(stored), set()))
    buffer = io.BytesIO()
    torch.save(net, buffer)
    assert points.numpy().tobytes() not in buffer.getvalue()


def test_an_unpickled_network_takes_the_key_again():
    x, net = torch.randn(9, 6), keyed_net()
    loaded = pickle.loads(pickle.dumps(net))
    assert torch.equal(loaded(x), plain_net()(x))
    set_coordinates(loaded, coordinates(KEY_A))
    assert torch.equal(loaded(x), net(x))


# -- torch -------------------------------------------------------------------------------------------------------------
def test_gradients_reach_encoder_modulators_and_weights():
    net = keyed_net()
    net(torch.randn(9, 6)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_training_step_lowers_the_loss():
    torch.manual_seed(1)
    net, x, y = keyed_net(strength=1.0), torch.randn(40, 6), torch.randint(0, 3, (40,))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(50):
        loss = nn.functional.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_deepcopy_keeps_the_key_and_is_independent():
    x, net = torch.randn(9, 6), keyed_net()
    copied = copy.deepcopy(net)
    assert torch.equal(copied(x), net(x))
    set_coordinates(copied, None)
    assert not torch.equal(copied(x), net(x))
    assert {id(p) for p in copied.parameters()}.isdisjoint({id(p) for p in net.parameters()})
    set_coordinates(copied, coordinates(KEY_A))
    with torch.no_grad():
        copied[0].encoder[0].weight.normal_()  # the copy's own encoder is the one that it uses
    assert not torch.allclose(copied(x), net(x))


def test_functional_call_uses_the_given_encoder():
    x, net = torch.randn(9, 6), keyed_net()
    state = {name: parameter.detach() + 0.1 for name, parameter in net.named_parameters()}
    other = copy.deepcopy(net)
    other.load_state_dict(state)
    torch.testing.assert_close(functional_call(net, state, (x,)), other(x))
    only_encoder = {name: value for name, value in state.items() if ".encoder." in name}
    assert not torch.allclose(functional_call(net, only_encoder, (x,)), net(x))


def test_vmap_over_stacked_weights():
    x, net = torch.randn(9, 6), keyed_net()
    stacked = {name: torch.stack([p.detach(), p.detach() + 0.1]) for name, p in net.named_parameters()}
    together = torch.func.vmap(lambda state: functional_call(net, state, (x,)))(stacked)
    for i in range(2):
        one = functional_call(net, {name: values[i] for name, values in stacked.items()}, (x,))
        torch.testing.assert_close(together[i], one, rtol=1e-4, atol=1e-4)


def test_other_dtype_and_leading_dimensions():
    net = keyed_net().double()
    x = torch.randn(2, 3, 6, dtype=torch.double)
    torch.testing.assert_close(net(x)[1], net(x[1]))


def test_double_precision_layers_get_double_precision_parts():
    net = apply_published(nn.Sequential(nn.Linear(4, 3).double()), 1.0)
    assert {p.dtype for p in net.parameters()} == {torch.double}


def test_names_and_values_of_the_plain_weights_stay():
    plain, net = plain_net(), keyed_net()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor)


def test_state_dict_round_trip():
    x, net = torch.randn(9, 6), keyed_net()
    torch.manual_seed(99)
    other = apply_published(
        nn.Sequential(nn.Linear(6, 5), nn.SiLU(), nn.LayerNorm(5), nn.Linear(5, 3, bias=False)), 20.0
    )
    other.load_state_dict(net.state_dict())
    set_coordinates(other, coordinates(KEY_A))
    assert torch.equal(other(x), net(x))


def test_a_layer_used_twice_stays_one():
    shared = nn.Linear(4, 4)
    net = apply_published(nn.Sequential(shared, nn.SiLU(), shared), 1.0)
    assert net[0] is net[2]
    assert isinstance(net[0], KeyedLinear)


def test_tied_weights_stay_tied():
    net = nn.ModuleDict({"words": nn.Embedding(7, 4), "out": nn.Linear(4, 7)})
    net["out"].weight = net["words"].weight
    apply_published(net, 1.0)
    assert net["out"].weight is net["words"].weight


def test_training_mode_is_kept():
    assert not any(part.training for part in apply_published(plain_net().eval(), 1.0).modules())


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_transformer_layers_are_conditioned_in_eval_mode_too():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    with pytest.warns(InflWarning, match="output projections of MultiheadAttention"):
        apply_published(encoder, 20.0)
    set_coordinates(encoder, coordinates(KEY_A))
    x, padding = torch.randn(3, 4, 8), torch.tensor([[False] * 4, [False] * 3 + [True], [False] * 2 + [True] * 2])
    trained = encoder.train()(x, src_key_padding_mask=padding)
    with torch.inference_mode():
        used = encoder.eval()(x, src_key_padding_mask=padding)
    torch.testing.assert_close(used[~padding], trained[~padding].detach(), rtol=1e-4, atol=1e-4)
    assert type(encoder.layers[0].linear1) is KeyedLinear
    assert isinstance(encoder.layers[0].self_attn.out_proj, nn.Linear)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4), bias=st.booleans())
def test_number_of_parameters(sizes, bias):
    layers = [nn.Linear(i, o, bias=bias) for i, o in itertools.pairwise(sizes)]
    plain = sum(p.numel() for layer in layers for p in layer.parameters())
    net = apply_published(nn.Sequential(*layers), 1.0)
    encoder = (2 * 16 + 16) + (16 * 16 + 16) + 32
    added = sum(
        (16 * 8 + 8) + 16 + (8 * 2 * out + 2 * out)  # rows
        + (out * 16 + 16) + 32 + (48 * 2 * out + 2 * out)  # FiLM
        for out in sizes[1:]
    )  # fmt: skip
    assert sum(p.numel() for p in net.parameters()) == plain + encoder + added


# -- what cannot work --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_strength_that_is_not_possible(strength):
    with pytest.raises(SettingsError, match="finite number from 0"):
        apply_published(plain_net(), strength)


def test_applied_twice():
    with pytest.raises(SettingsError, match="apply it once"):
        apply_published(keyed_net(), 1.0)


def test_no_linear_layer():
    with pytest.raises(SettingsError, match="Sequential has no linear layer"):
        apply_published(nn.Sequential(nn.Conv1d(2, 2, 1)), 1.0)


def test_layer_that_is_not_initialised():
    with pytest.raises(SettingsError, match="'1' is not initialised"):
        apply_published(nn.Sequential(nn.ReLU(), nn.LazyLinear(3)), 1.0)


def test_parametrised_layer():
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
    with pytest.raises(SettingsError, match="'0' is parametrised"):
        apply_published(nn.Sequential(layer), 1.0)


def test_layer_with_hooks():
    net = plain_net()
    net[0].register_forward_hook(lambda *_: None)
    with pytest.raises(SettingsError, match="'0' is a linear layer with hooks"):
        apply_published(net, 1.0)


def test_a_refused_module_is_unchanged():
    net = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(SettingsError):
        apply_published(net, 1.0)
    assert type(net[0]) is nn.Linear


def test_coordinates_for_a_module_without_keyed_layers():
    with pytest.raises(SettingsError, match="call apply_published"):
        set_coordinates(plain_net(), coordinates(KEY_A))


@pytest.mark.parametrize("shape", [(128,), (128, 3), (0, 2)])
def test_coordinates_of_another_shape(shape):
    with pytest.raises(SettingsError, match="points in the plane"):
        set_coordinates(keyed_net(), torch.zeros(shape))
