"""Laws of the lock, and of modules that carry one."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from infl.errors import KeyringError, SettingsError
from infl.nn.flat import FlatModule
from infl.nn.lock import Field, lock_module, unlock_module

SUBKEY = bytes(range(32))
FIELD = Field(SUBKEY, b"salt of a test")

shapes = st.lists(st.integers(0, 6), max_size=4).map(tuple)
strengths = st.sampled_from([0.0, 0.01, 0.3, 0.5, 1.0])
dtypes = st.sampled_from([torch.float32, torch.float64])
seeds = st.integers(0, 2**31)


def random(shape, seed=0, dtype=torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(left: Tensor, right: Tensor, tolerance: float = 1e-6) -> None:
    """Equal to `tolerance` of the scale of a weight (1 here; A is at most a few times as much)."""
    assert left.dtype == right.dtype
    torch.testing.assert_close(left, right, rtol=0, atol=tolerance)


# ---- algebra ----------------------------------------------------------------------------------------------------------


@given(shape=shapes, strength=strengths, dtype=dtypes, seed=seeds, data=st.data())
@settings(max_examples=150, deadline=None)
def test_unlock_undoes_lock(shape, strength, dtype, seed, data):
    axes = data.draw(st.sets(st.sampled_from(range(len(shape))))) if shape else set()
    units = {axis: [f"unit {i}" for i in range(shape[axis])] for axis in axes}
    field, weights = replace(FIELD, strength=strength), random(shape, seed, dtype)
    stored = field.lock("w", weights, units)
    assert stored.dtype == dtype
    assert stored.shape == weights.shape
    close(field.unlock("w", stored, units), weights, 2e-6 if dtype == torch.float32 else 1e-14)
    update = field.lock_update("w", weights, units)
    close(field.unlock_update("w", update, units), weights, 1e-6 if dtype == torch.float32 else 1e-14)


@given(shape=shapes, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_strength_zero_is_the_identity_bit_for_bit(shape, seed):
    field, weights = replace(FIELD, strength=0.0), random(shape, seed)
    weights = torch.where(weights < -1, -0.0, weights)
    for operation in (field.lock, field.unlock, field.lock_update, field.unlock_update):
        assert operation("w", weights).numpy().tobytes() == weights.numpy().tobytes()
    m, a = field.factors("w", shape)
    assert (m == 1).all()
    assert (a == 0).all()


@given(shape=shapes, strength=strengths, seed=seeds, shares=st.lists(st.integers(1, 50), min_size=2, max_size=5))
@settings(max_examples=60, deadline=None)
def test_average_of_locked_weights_is_the_locked_average(shape, strength, seed, shares):
    field = replace(FIELD, strength=strength)
    sites = [random(shape, seed + i, torch.float64) for i in range(len(shares))]
    weights = [share / sum(shares) for share in shares]
    average = sum(w * x for w, x in zip(weights, sites, strict=True))
    of_locked = sum(w * field.lock("w", x) for w, x in zip(weights, sites, strict=True))
    close(field.lock("w", average), of_locked, 1e-12)


@given(shape=shapes, strength=strengths, seed=seeds)
@settings(max_examples=60, deadline=None)
def test_an_update_meets_the_multiplier_alone(shape, strength, seed):
    field = replace(FIELD, strength=strength)
    before, delta = random(shape, seed, torch.float64), random(shape, seed + 1, torch.float64)
    after = field.lock("w", before) + field.lock_update("w", delta)
    close(field.unlock("w", after), before + delta, 1e-12)
    m, a = field.factors("w", shape)
    close(field.lock("w", before), (before - a) / m, 1e-12)
    close(field.lock_update("w", delta), delta / m, 1e-12)


def test_relocking_changes_all_and_loses_nothing():
    new, weights = replace(FIELD, salt=b"another"), random((40, 50))
    old_stored = FIELD.lock("w", weights)
    new_stored = new.lock("w", FIELD.unlock("w", old_stored))
    assert correlation(old_stored, new_stored) < 0.1
    close(new.unlock("w", new_stored), weights, 2e-6)


def test_multipliers_are_those_of_the_factors_and_written_in_place():
    flat = torch.full((2 + 12 + 3,), torch.nan)
    view = flat[2:14].view(3, 4)
    units = {1: ["a", "b", "c", "d"]}
    assert FIELD.multipliers("w", (3, 4), units, out=view) is view
    m, _ = FIELD.factors("w", (3, 4), units)
    torch.testing.assert_close(view, m.float(), rtol=0, atol=0)
    torch.testing.assert_close(FIELD.multipliers("w", (3, 4), units), view, rtol=0, atol=0)
    assert flat[:2].isnan().all()
    assert flat[14:].isnan().all()


def test_out_may_be_the_tensor_itself_or_any_view():
    weights = random((5, 6))
    expected = FIELD.lock("w", weights)
    target = torch.empty(6, 5).T
    assert FIELD.lock("w", weights, out=target) is not weights
    torch.testing.assert_close(target, expected, rtol=0, atol=0)
    FIELD.lock("w", weights, out=weights)
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)
    torch.testing.assert_close(FIELD.lock("w", random((6, 5)).T.contiguous()), FIELD.lock("w", random((6, 5)).T))


def test_number_of_threads_changes_no_bit():
    before, weights = torch.get_num_threads(), random((300, 400))
    try:
        torch.set_num_threads(1)
        one = FIELD.lock("w", weights)
        torch.set_num_threads(2)
        two = FIELD.lock("w", weights)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)


# ---- secrecy ----------------------------------------------------------------------------------------------------------


def correlation(left: Tensor, right: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1].abs())


def within(x: Tensor) -> Tensor:
    """Without the means of rows and columns, of which there are fewer, and which are compared by themselves."""
    return x - x.mean(0, keepdim=True) - x.mean(1, keepdim=True)


@given(bit=st.integers(0, 255))
@settings(max_examples=20, deadline=None)
def test_one_bit_of_the_key_decorrelates_everything(bit):
    flipped = bytearray(SUBKEY)
    flipped[bit // 8] ^= 1 << bit % 8
    assert_unrelated(replace(FIELD, subkey=bytes(flipped)), "w")


@pytest.mark.parametrize(
    ("field", "name"), [(replace(FIELD, salt=b"salt of a tesu"), "w"), (replace(FIELD, salt=b""), "w"), (FIELD, "v")]
)
def test_another_salt_or_name_decorrelates_everything(field, name):
    assert_unrelated(field, name)


def assert_unrelated(other: Field, name: str) -> None:
    shape = (200, 200)
    weights = random(shape)
    for mine, theirs in zip(FIELD.factors("w", shape), other.factors(name, shape), strict=True):
        assert correlation(mine.sign(), theirs.sign()) < 5 / 200
        assert correlation(within(mine.abs()), within(theirs.abs())) < 5 / 200
        for axis in (0, 1):
            assert correlation(mine.abs().mean(axis), theirs.abs().mean(axis)) < 5 / 200**0.5
    opened = other.unlock(name, FIELD.lock("w", weights))
    assert correlation(ranks(opened), ranks(weights)) < 5 / 200  # of ranks: a few opened weights are very large


def ranks(values: torch.Tensor) -> torch.Tensor:
    return values.ravel().argsort().argsort().float()


def test_stored_weights_say_nothing_of_effective_ones():
    # weights as after training from a known start: uniform initial values, some columns moved far
    start = (torch.rand(100, 400, generator=torch.Generator().manual_seed(0)) - 0.5) / 10
    trained = start.clone()
    trained[:, :40] += 0.05
    stored = FIELD.lock("w", trained)
    assert correlation(stored, trained) < 5 / 200
    assert correlation(stored.abs(), trained.abs()) < 5 / 200
    assert correlation(stored * start.sign(), start.abs()) < 5 / 200  # no sign can be read off a known start
    assert correlation(stored.norm(dim=0), trained.norm(dim=0)) < 5 / 20
    zeros = FIELD.lock("w", torch.zeros(100, 100))
    assert (zeros != 0).all()


def test_repr_and_copies_show_no_key():
    assert repr(FIELD) == "Field(salt=b'salt of a test', strength=1.0)"
    assert copy.copy(FIELD) is FIELD
    assert copy.deepcopy(FIELD) is FIELD
    with pytest.raises(KeyringError, match="^a lock's field holds a key and is not pickled: save state_dict"):
        pickle.dumps(FIELD)


# ---- modules ----------------------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """Parameters of zero to four dimensions, a shared one, an integer and a complex one, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.gate = nn.Parameter(torch.tensor(0.5))
        self.stack = nn.Parameter(torch.randn(2, 3, 6, 6))
        self.norm = nn.BatchNorm1d(6)
        self.decode = nn.Linear(6, 7, bias=False)
        self.decode.weight = self.embed.weight
        self.counts = nn.Parameter(torch.arange(3), requires_grad=False)
        self.phases = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        self.empty = nn.Parameter(torch.empty(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.gate * self.norm(self.embed(x) @ self.stack.sum((0, 1))))


def cases() -> list:
    return [
        pytest.param(lambda: nn.Linear(4, 3), (2, 4), id="Linear"),
        pytest.param(lambda: nn.Bilinear(4, 4, 3), (2, 4), id="Bilinear"),
        pytest.param(lambda: nn.Conv1d(2, 3, 3), (1, 2, 8), id="Conv1d"),
        pytest.param(lambda: nn.Conv2d(2, 4, 3, groups=2), (1, 2, 8, 8), id="Conv2d"),
        pytest.param(lambda: nn.Conv3d(2, 3, 3), (1, 2, 5, 5, 5), id="Conv3d"),
        pytest.param(lambda: nn.ConvTranspose2d(2, 3, 3), (1, 2, 4, 4), id="ConvTranspose2d"),
        pytest.param(lambda: nn.LayerNorm(4), (2, 4), id="LayerNorm"),
        pytest.param(lambda: nn.GroupNorm(2, 4), (2, 4, 3), id="GroupNorm"),
        pytest.param(lambda: nn.BatchNorm1d(4).eval(), (5, 4), id="BatchNorm1d"),
        pytest.param(lambda: nn.PReLU(4), (2, 4), id="PReLU"),
        pytest.param(lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True), (3, 2, 4), id="LSTM"),
        pytest.param(lambda: nn.GRU(4, 5), (3, 2, 4), id="GRU"),
        pytest.param(lambda: nn.MultiheadAttention(8, 2), (3, 2, 8), id="MultiheadAttention"),
        pytest.param(
            lambda: nn.MultiheadAttention(8, 2, kdim=8, vdim=8, add_bias_kv=True), (3, 2, 8), id="attention with bias"
        ),
        pytest.param(lambda: nn.TransformerEncoderLayer(8, 2, 16).eval(), (3, 2, 8), id="TransformerEncoderLayer"),
    ]


def answer(module: nn.Module, x: Tensor) -> Tensor:
    out = (
        module(x, x, x)
        if isinstance(module, nn.MultiheadAttention)
        else module(*[x] * (1 + isinstance(module, nn.Bilinear)))
    )
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize(("make", "shape"), cases())
@pytest.mark.parametrize("gradients", [False, True])
def test_a_locked_module_computes_as_before(make, shape, gradients):
    torch.manual_seed(0)
    module, x = make(), random(shape)
    plain, before = copy.deepcopy(module), dict(module.named_parameters())
    with torch.set_grad_enabled(gradients):
        expected = answer(plain, x)
        assert lock_module(module, FIELD) is module
        close(answer(module, x), expected, 1e-5)
        for name, parameter in module.named_parameters():
            assert ".original" in name
            effective = plain.get_parameter(name.replace("parametrizations.", "").removesuffix(".original"))
            assert not torch.allclose(parameter, effective)
        assert unlock_module(module) is module
        close(answer(module, x), expected, 1e-5)
    assert type(module) is type(plain)
    for name, parameter in module.named_parameters():
        assert parameter is before[name]  # an optimiser keeps its hold of them
        close(parameter.data, plain.get_parameter(name).data, 2e-6)


def test_zero_to_four_dimensions_shared_and_other_parameters():
    torch.manual_seed(0)
    module, x = Everything(), torch.tensor([1, 5, 2, 6])
    plain = copy.deepcopy(module)
    expected = plain(x)
    lock_module(module, FIELD)
    assert module.embed.parametrizations.weight.original is module.decode.parametrizations.weight.original
    close(module(x), expected, 1e-4)
    assert torch.equal(module.counts, plain.counts)
    assert torch.equal(module.phases, plain.phases)
    unlock_module(module)
    assert module.embed.weight is module.decode.weight
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, plain.get_parameter(name), rtol=0, atol=2e-6)


class Twice(nn.Module):
    """One parameter under two names of the same module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.second @ (self.first.T @ x)


def test_a_parameter_with_two_names_in_one_module_is_locked_under_both():
    torch.manual_seed(0)
    module, x = Twice(), torch.randn(3)
    expected = module(x)
    lock_module(module, FIELD)
    assert module.parametrizations.first.original is module.parametrizations.second.original
    close(module(x), expected, 1e-4)
    unlock_module(module)
    assert module.first is module.second
    close(module(x), expected, 1e-4)


def test_stored_weights_are_those_of_the_field():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    units = {"0.weight": {1: ["a", "b", "c"]}}
    lock_module(module, FIELD, units)
    for name, weight in weights.items():
        owner, attribute = name.split(".")
        stored = module.get_submodule(owner).parametrizations[attribute].original
        assert torch.equal(stored, FIELD.lock(name, weight, units.get(name)))


def test_gradients_are_those_of_the_weights_times_the_multiplier():
    torch.manual_seed(0)
    module, x = nn.Linear(4, 3), random((5, 4))
    plain = copy.deepcopy(module)
    lock_module(module, FIELD)
    module(x).pow(2).sum().backward()
    plain(x).pow(2).sum().backward()
    for name in ("weight", "bias"):
        m, _ = FIELD.factors(name, plain.get_parameter(name).shape)
        gradient = module.parametrizations[name].original.grad
        torch.testing.assert_close(gradient, plain.get_parameter(name).grad * m.float(), rtol=1e-4, atol=1e-5)


def test_training_through_the_lock_is_plain_training_with_scaled_steps():
    # An effective step is M² times the step of the stored weights; undone, both walk the same way.
    torch.manual_seed(0)
    module, x, y = nn.Linear(4, 3), random((20, 4)), random((20, 3), 1)
    plain = copy.deepcopy(module)
    lock_module(module, FIELD)
    stored = {name: module.parametrizations[name].original for name in ("weight", "bias")}
    ours, theirs = torch.optim.SGD(stored.values(), lr=0.1), torch.optim.SGD(plain.parameters(), lr=0.1)
    first = last = None
    for _ in range(20):
        ours.zero_grad()
        theirs.zero_grad()
        last = nn.functional.mse_loss(module(x), y)
        first = first if first is not None else last.item()
        last.backward()
        nn.functional.mse_loss(plain(x), y).backward()
        for name, parameter in stored.items():
            parameter.grad /= FIELD.factors(name, parameter.shape)[0].square().float()
        ours.step()
        theirs.step()
    assert last < first
    close(unlock_module(module).weight.data, plain.weight.data, 1e-5)
    close(module.bias.data, plain.bias.data, 1e-5)


def test_adam_learns_through_the_lock():
    torch.manual_seed(0)
    module, x = lock_module(nn.Linear(4, 1), FIELD), random((50, 4))
    y = x.sum(1, keepdim=True)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
    losses = []
    for _ in range(200):
        optimiser.zero_grad()
        losses.append(nn.functional.mse_loss(module(x), y))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0] / 100


def test_assigning_an_effective_weight_stores_the_locked_one():
    module, weight = lock_module(nn.Linear(4, 3), FIELD), random((3, 4))
    module.weight = weight
    close(module.weight.detach(), weight, 2e-6)
    assert torch.equal(module.parametrizations.weight.original, FIELD.lock("weight", weight))


def test_views_of_a_flat_buffer_remain_views():
    flat = FlatModule(nn.Linear(4, 3))
    plain = flat.copy_shared()
    lock_module(flat.module, FIELD)
    assert not torch.allclose(flat.copy_shared(), plain)
    unlock_module(flat.module)
    close(flat.copy_shared(), plain, 2e-6)


def test_state_dict_holds_stored_weights_and_no_secret():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    plain = copy.deepcopy(module)
    lock_module(module, FIELD)
    state = module.state_dict()
    assert [name for name in state if name.endswith(".original")] == [n for n in state if "parametrizations" in n]
    assert len(state) == len(plain.state_dict())
    buffer = io.BytesIO()
    torch.save(state, buffer)
    m, a = FIELD.factors("0.weight", (3, 4))
    for secret in (SUBKEY, m.numpy().tobytes(), a.numpy().tobytes(), m.float().numpy().tobytes()):
        assert secret not in buffer.getvalue()
    assert str(SUBKEY)[2:-1] not in repr(module)
    assert "Field(salt=b'salt of a test', strength=1.0)" in repr(module)
    other = lock_module(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), FIELD)
    other.load_state_dict(state)
    close(other[0].weight.detach(), plain[0].weight.detach(), 2e-6)


def test_a_locked_module_is_not_pickled():
    module = lock_module(nn.Linear(4, 3), FIELD)
    with pytest.raises(RuntimeError, match="only supported through state_dict"):  # torch's own
        torch.save(module, io.BytesIO())
    with pytest.raises(
        KeyringError, match="^a locked module is not pickled, since its key would go along: save state_"
    ):
        pickle.dumps(module.parametrizations.weight[0])


def test_deep_copies_are_independent():
    module = lock_module(nn.Linear(4, 3), FIELD)
    copied = copy.deepcopy(module)
    weight = module.weight.detach().clone()
    with torch.no_grad():
        copied.parametrizations.weight.original.zero_()
    assert torch.equal(module.weight, weight)
    close(unlock_module(copied).weight.detach(), FIELD.unlock("weight", torch.zeros(3, 4)), 1e-6)
    assert torch.equal(module.weight, weight)


def test_moving_a_module_moves_its_factors():
    module = lock_module(nn.Linear(4, 3), FIELD).to("meta")
    assert {factor.device.type for factor in module.parametrizations.weight[0]._factors} == {"meta"}
    assert {factor.dtype for factor in module.parametrizations.weight[0]._factors} == {torch.float64}
    assert module(torch.empty(2, 4, device="meta")).shape == (2, 3)


def test_unlocking_leaves_other_parametrisations():
    module = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    module = nn.Sequential(module, nn.Linear(3, 2))
    unlock_module(module)
    assert nn.utils.parametrize.is_parametrized(module[0], "weight")


# ---- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [-0.1, 1.01, float("nan"), float("inf")])
def test_strength_out_of_range(strength):
    with pytest.raises(SettingsError) as error:
        Field(SUBKEY, b"", strength)
    assert str(error.value) == f"the lock's strength is from 0 (none) to 1 (full), got {strength}."


def test_subkey_of_another_length():
    with pytest.raises(SettingsError) as error:
        Field(b"short", b"")
    assert str(error.value) == "a lock's subkey has 32 bytes, got 5: take keyring.subkey('lock')."


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_precisions_that_would_lose_something(dtype):
    with pytest.raises(SettingsError) as error:
        FIELD.lock("w", torch.zeros(2, dtype=dtype))
    assert str(error.value).startswith(
        f"tensor 'w' is {str(dtype)[6:]}, which cannot be locked and unlocked without loss"
    )


@pytest.mark.parametrize(
    ("make", "units", "message"),
    [
        (
            lambda: nn.Linear(4, 3).bfloat16(),
            None,
            "tensor 'weight' is bfloat16, which cannot be locked and unlocked without loss: convert it with .float() first.",
        ),
        (
            lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
            None,
            "parameter 'parametrizations.weight.original0' is parametrised or locked already: remove that first.",
        ),
        (
            lambda: lock_module(nn.Linear(4, 3), FIELD),
            None,
            "parameter 'parametrizations.weight.original' is parametrised or locked already: remove that first.",
        ),
        (
            lambda: nn.Linear(4, 3),
            {"wait": {1: list("abcd")}},
            "units name a tensor 'wait' that the module does not have: it has bias, weight.",
        ),
        (
            lambda: nn.Linear(4, 3),
            {"weight": {1: list("abc")}},
            "axis 1 of tensor 'weight' has 4 units, but 3 names: give one each.",
        ),
    ],
)
def test_modules_that_cannot_be_locked_are_left_as_they_are(make, units, message):
    module = make()
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    with pytest.raises(SettingsError) as error:
        lock_module(module, FIELD, units)
    assert str(error.value) == message
    after = dict(module.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
