"""The secret coordinate field: its statistics, what it depends on, and the bits that it must give."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infl.errors import SettingsError
from infl.nn import field as module
from infl.nn.field import TensorField, check_units, public_network, tensor_key

KEY = tensor_key(bytes(range(32)), b"salt", "weight")
LARGE = (400, 500)


def factors(shape, units=None, *, key=KEY, strength=1.0) -> tuple[np.ndarray, np.ndarray]:
    """M and A with the axes in the tensor's order."""
    over = TensorField(key, shape, check_units("weight", shape, units), strength)
    m, a = np.full(shape or (1,), np.nan), np.full(shape or (1,), np.nan)

    def write(rows: slice, m_rows: np.ndarray, a_rows: np.ndarray) -> None:
        m.transpose(over.order)[rows] = m_rows
        a.transpose(over.order)[rows] = a_rows

    over.fill(write)
    assert np.isfinite(m).all()
    return m.reshape(shape), a.reshape(shape)


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1])


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / x.std()


def all_views(m: np.ndarray, a: np.ndarray) -> dict[str, np.ndarray]:
    return {"sign": np.sign(m), "log |M|": np.log(np.abs(m)), "A": a, "|A|": np.abs(a)}


# ---- statistics: each bound is five standard errors of a fair source --------------------------------------------------


def test_signs_are_a_fair_coin():
    m, _ = factors(LARGE)
    heads = m < 0
    assert abs(heads.mean() - 0.5) < 5 * 0.5 / heads.size**0.5
    for axis in (0, 1):  # within each row and column too
        share, n = heads.mean(axis=axis), heads.shape[axis]
        assert np.abs(share - 0.5).max() < 5 * 0.5 / n**0.5


@pytest.mark.parametrize(("strength", "flipped"), [(1.0, 2**15), (0.5, 2**14), (0.1, 2 * round(0.1 * 2**14))])
def test_half_the_strength_of_all_phases_flip_the_sign(monkeypatch, strength, flipped):
    def every_phase(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = u.shape[1]
        return np.arange(n).astype(np.uint16), np.zeros(n), np.zeros(n)

    monkeypatch.setattr(module, "public_network", lambda: every_phase)
    monkeypatch.setattr(module, "BLOCK", 2**16)
    monkeypatch.setattr(module, "PER_WORKER", 2**16)
    m, _ = factors((2**16,), strength=strength)
    assert (m < 0).sum() == flipped


def test_without_the_additive_part_none_is_held():
    seen = []
    TensorField(KEY, (3, 4), {}, 1.0).fill(lambda rows, m, a: seen.append((m.shape, a.size)), additive=False)
    assert seen == [((3, 4), 0)]


def test_the_phase_is_exactly_uniform_whatever_the_other_coordinates():
    rest = np.random.default_rng(0).integers(0, 2**16, 3)
    u = np.empty((4, 2**16), np.uint16)
    u[0], u[1:] = np.arange(2**16), rest[:, None]
    phase, magnitude, additive = public_network()(u)
    assert (np.bincount(phase, minlength=2**16) == 1).all()
    assert len(np.unique(magnitude)) == len(np.unique(additive)) == 1


@given(strength=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_share_of_flips_is_half_the_strength(strength):
    m, _ = factors((200, 200), strength=strength)
    assert abs((m < 0).mean() - strength / 2) < 5 * 0.5 / 200


@given(strengths=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
@settings(max_examples=25, deadline=None)
def test_flips_at_a_lower_strength_are_among_those_at_a_higher_one(strengths):
    low, high = (factors((50, 60), strength=strength)[0] < 0 for strength in strengths)
    assert not (low & ~high).any()


def test_additive_part_is_roughly_gaussian_with_the_documented_scale():
    _, a = factors(LARGE)
    assert a.std() == pytest.approx(module.ALPHA / 500**0.25, rel=0.01)
    z = standardised(a)
    assert abs((z**3).mean()) < 0.05
    assert (z**4).mean() == pytest.approx(3, abs=0.2)


def test_log_magnitudes_stay_within_their_bound():
    m, _ = factors(LARGE)
    assert np.abs(np.log(np.abs(m))).max() < module.KAPPA * (1 + 2 * module.GAIN)


def test_channels_are_uncorrelated():
    views = all_views(*factors((700, 700)))
    names = list(views)
    for i, first in enumerate(names):
        for second in names[:i]:
            assert abs(correlation(views[first], views[second])) < 5 / 700, (first, second)


@pytest.mark.parametrize("units", [None, {1: [f"gene {i}" for i in range(500)]}])
@pytest.mark.parametrize("axis", [0, 1])
def test_neighbours_are_uncorrelated(units, axis):
    m, a = factors(LARGE, units)
    for what in (np.sign(m), a, np.abs(a)):
        before, after = np.delete(what, -1, axis), np.delete(what, 0, axis)
        assert abs(correlation(before, after)) < 5 / before.size**0.5


def test_sums_over_rows_and_columns_are_those_of_independent_weights():
    m, a = factors(LARGE)
    for x in (np.sign(m), a / a.std()):
        for axis in (0, 1):
            sums = x.sum(axis)
            assert (sums**2).mean() / x.shape[axis] == pytest.approx(1, abs=5 * (2 / len(sums)) ** 0.5)


def test_factors_have_full_rank():
    m, a = factors((60, 60))
    assert np.linalg.matrix_rank(m) == np.linalg.matrix_rank(a) == 60
    spectrum = np.linalg.svd(a, compute_uv=False)
    assert spectrum[0] < 1.3 * 2 * 60**0.5 * a.std()  # no direction stands out of the noise


def test_rows_and_columns_have_secret_gains():
    m, _ = factors(LARGE)
    for axis, n in ((1, 500), (0, 400)):
        gains = np.log(np.abs(m)).mean(axis)
        noise = module.KAPPA / n**0.5
        assert gains.std() > 4 * noise
        assert gains.std() == pytest.approx(module.KAPPA * module.GAIN / 3**0.5, rel=0.25)


# ---- what a factor depends on -----------------------------------------------------------------------------------------

PANEL = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True)


@given(panel=PANEL, data=st.data(), axis=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_a_named_unit_depends_on_its_name_only(panel, data, axis):
    order = data.draw(st.permutations(panel))
    kept = [*order[: data.draw(st.integers(1, len(order)))], "a name of one site only"]
    here, there = [5, 3, 2], [5, 3, 2]
    here[axis], there[axis] = len(panel), len(kept)
    m_here, a_here = factors(tuple(here), {axis: panel})
    m_there, a_there = factors(tuple(there), {axis: kept})
    places = [panel.index(name) for name in kept[:-1]]
    np.testing.assert_array_equal(m_here.take(places, axis), np.delete(m_there, -1, axis))
    np.testing.assert_array_equal(a_here.take(places, axis), np.delete(a_there, -1, axis))


def test_two_named_axes():
    genes, cells = ["a", "b", "c"], ["x", "y"]
    m, a = factors((3, 2), {0: genes, 1: cells})
    m_other, a_other = factors((2, 3), {0: ["c", "a"], 1: ["z", "y", "x"]})
    np.testing.assert_array_equal(m[np.ix_([2, 0], [1, 0])], m_other[:, 1:])
    np.testing.assert_array_equal(a[np.ix_([2, 0], [1, 0])], a_other[:, 1:])


@pytest.mark.parametrize(
    "units",
    [{1: ["ab", "c"]}, {1: ["a", "bc"]}, {1: ["0", "1"]}, {0: ["ab", "c"]}, {0: ["ab", "c"], 1: ["ab", "c"]}],
)
def test_different_names_or_axes_share_nothing(units):
    m, _ = factors((2, 2), units)
    plain, _ = factors((2, 2), {1: ["x", "y"]})
    bare, _ = factors((2, 2))
    assert not np.isin(m, plain).any()
    assert not np.isin(m, bare).any()


@given(block=st.integers(1, 700), shape=st.sampled_from([(7, 90), (630,), (2, 5, 9, 7), (90, 7)]), named=st.booleans())
@settings(max_examples=40, deadline=None)
def test_block_size_changes_no_bit(block, shape, named):
    units = {len(shape) - 1: [f"unit {i}" for i in range(shape[-1])]} if named else None
    expected = factors(shape, units)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        got = factors(shape, units)
    np.testing.assert_array_equal(expected, got)


@pytest.mark.parametrize("named", [(), (0,), (1,), (0, 1)])
def test_the_number_of_threads_changes_no_bit(named, monkeypatch):
    shape = (61, 37, 5)
    units = {axis: [f"unit {i}" for i in range(shape[axis])] for axis in named}
    monkeypatch.setattr(module, "PER_WORKER", math.prod(shape))
    expected = factors(shape, units)
    monkeypatch.setattr(module, "PER_WORKER", 1)
    for cores in (2, 7, 61):
        monkeypatch.setattr(module, "cores", lambda cores=cores: cores)
        np.testing.assert_array_equal(expected, factors(shape, units))


def test_a_thread_that_fails_is_not_passed_over(monkeypatch):
    monkeypatch.setattr(module, "PER_WORKER", 1)
    monkeypatch.setattr(module, "cores", lambda: 2)
    over = TensorField(bytes(32), (4, 2), {}, 1.0)

    def write(rows, *_):
        if rows.start >= 2:
            raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        over.fill(write)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3, 2), (1,), (1, 1, 1, 1)])
def test_small_and_empty_shapes(shape):
    m, a = factors(shape)
    assert m.shape == a.shape == shape
    assert m.size == math.prod(shape)


def test_at_most_a_block_of_coordinates_is_held(monkeypatch):
    read, sizes = module._Words.read, []
    monkeypatch.setattr(module._Words, "read", lambda self, n: sizes.append(n) or read(self, n))
    factors((3, 50_000))
    factors((3, 20_000), {1: [str(i) for i in range(20_000)]})
    assert max(sizes) <= module.BLOCK
    assert sum(sizes) == 3 * 70_000


# ---- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({2: ["a"]}, "tensor 'w' has 2 axes, but units name axis 2: count from 0."),
        ({-1: ["a"]}, "tensor 'w' has 2 axes, but units name axis -1: count from 0."),
        ({1: ["a"]}, "axis 1 of tensor 'w' has 3 units, but 1 names: give one each."),
        ({1: ["a", "b", "a"]}, "axis 1 of tensor 'w' names 'a' twice: make the names unique."),
        ({1: ["1", 1, "b"]}, "axis 1 of tensor 'w' names '1' twice: make the names unique."),
    ],
)
def test_names_that_do_not_fit(units, message):
    with pytest.raises(SettingsError) as error:
        check_units("w", (2, 3), units)
    assert str(error.value) == message


def test_repr_shows_no_key():
    over = TensorField(b"secretsecret", (2,), {}, 1.0)
    assert "secret" not in repr(over)
