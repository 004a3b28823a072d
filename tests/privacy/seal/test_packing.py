"""Ranges and names of a packing, and lanes of more than a few words."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from infl.errors import SettingsError
from infl.privacy.seal import Context, Field, GroupSeal, MaskedArrays, NoSeal, Packing, RangeError, Revealed, add
from infl.privacy.seal.packing import LANE_RANGE, limit, misfits


def test_ranges_are_those_of_the_specification() -> None:
    assert LANE_RANGE == {32: 2**31 - 1, 64: 2**59}
    # all sites must compute the same limits: what is left for rounding is a part of 2⁴⁸, and one step a site
    assert [limit(64, n) * n for n in (1, 2, 8)] == [2**59 - n - 2**11 - (-n - 2**11) % n for n in (1, 2, 8)]
    assert limit(32, 2) == (2**31 - 1 - 2) // 2


def test_the_name_that_is_there_twice_is_said() -> None:
    fields = [Field(name, (2,), -10) for name in ("a", "b", "c", "b")]
    with pytest.raises(SettingsError, match="'b' is named twice"):
        Packing(tuple(fields))


def test_long_lanes_of_sums_are_sealed_as_short_ones() -> None:
    n, cohort = 1000, ("a", "b", "c")
    packing = Packing((Field("w", (n,), -20), Field("s", (n,), 0, bits=64)))
    context = Context("run", 1, 0, cohort, "train", packing.digest())
    seal, total = GroupSeal(bytes(range(32))), None
    assert seal.streams_opened == 0
    sums = np.arange(n, dtype=float)
    for site in cohort:
        total = add(total, seal.seal(context, site, np.full(n, 0.5, np.float32), sums, packing))
    assert total is not None
    low, high = seal.unseal(context, cohort, total, packing)
    np.testing.assert_array_equal(high, 3 * sums)
    np.testing.assert_array_equal(low * 2.0**-20, np.full(n, 1.5))


def test_the_arrays_of_a_lane_lie_one_after_the_other() -> None:
    sizes = {"a": 3, "b": 5, "c": 2, "d": 7}
    packing = Packing(
        tuple(Field(f"{name}{bits}", (n,), -10, bits=bits) for name, n in sizes.items() for bits in (32, 64))
    )
    for bits in (32, 64):
        places = {field.name[0]: (part.start, part.stop) for field, part in packing.lane(bits)}
        assert places == {"a": (0, 3), "b": (3, 8), "c": (8, 10), "d": (10, 17)}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["a", "b"])
def test_of_arrays_on_other_scales_the_one_that_leaves_its_range_is_named(name: str, sign: int) -> None:
    packing = Packing((Field("a", (2,), -20), Field("b", (2,), -10)))
    context = Context("run", 1, 0, ("x", "y", "z"), "train", packing.digest())
    vector = np.zeros(4, np.float32)
    vector[{"a": 1, "b": 2}[name]] = sign * 2.0**40
    with pytest.raises(RangeError) as caught:
        GroupSeal(bytes(32)).seal(context, "x", vector, np.empty(0), packing)
    step = {"a": 2.0**-20, "b": 2.0**-10}[name]
    assert caught.value.fields == {name: pytest.approx(2.0**40 / step / limit(32, 3))}


@pytest.mark.parametrize(
    "field",
    [
        Field("w", (2,), -20, bits=16),
        Field("w", (2,), -20.0),  # type: ignore[arg-type]
        Field("w", (2,), 1000),
        Field("w", (2,), -1000),
        Field("w", (2,), -20, bits=32, of_all=True),
    ],
)
def test_a_scale_that_is_none_is_refused(field: Field) -> None:
    with pytest.raises(SettingsError, match="'w' has no scale"):
        Packing((field,))


def test_the_widest_scales_are_taken() -> None:
    packing = Packing((Field("w", (2,), 999), Field("v", (2,), -999, bits=64)))
    assert packing.lanes == (2, 4, 0)


def test_what_is_sealed_is_not_altered_under_way() -> None:
    """Digests are computed once."""
    packing = Packing((Field("w", (2,), -20),))
    context = Context("run", 1, 0, ("x", "y", "z"), "train", packing.digest())
    words = MaskedArrays(np.zeros(1, np.uint32), np.zeros(1, np.uint64))
    for thing in (packing, packing.fields[0], context, words, Revealed("x", {}, {}, b"")):
        with pytest.raises(FrozenInstanceError):
            thing.name = thing.run = None  # type: ignore[union-attr]


@pytest.mark.parametrize("bits", [32, 64])
def test_no_share_has_more_room_than_all_of_it(bits: int) -> None:
    assert limit(bits, 3, 1.7) == limit(bits, 3, 1.0) <= LANE_RANGE[bits] - 3
    assert 2 * limit(bits, 3, 0.5) <= limit(bits, 3, 1.0) < 2 * limit(bits, 3, 0.5) + 2
    assert abs(limit(bits, 3) - limit(bits, 3, 1 / 3)) <= LANE_RANGE[bits] >> 50


@pytest.mark.parametrize("weight", [0.25, 1.0, -0.5])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_does_not_fit_is_measured_after_weighting(weight: float, sign: int) -> None:
    packing = Packing((Field("a", (2,), -2), Field("b", (2,), -2)))
    values = np.array([1.0, 0.0, sign * 60.0, 3.0])
    factor = 60 * abs(weight) * 4 / 100
    found = misfits(values, packing, 32, largest=100, weight=weight)
    assert found == ({} if factor < 1 else {"b": pytest.approx(factor)})
    assert misfits(np.array([25.0, -25.0, 25.1, -25.1]), packing, 32, largest=100) == {}
    assert misfits(np.array([25.0, -25.0, 25.2, -25.2]), packing, 32, largest=100) == {"b": pytest.approx(1.008)}


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_clipped_is_at_the_end_of_its_range(sign: int) -> None:
    packing = Packing((Field("w", (3,), 0), Field("s", (2,), 0, bits=64)))
    context = Context("run", 1, 0, ("x", "y", "z"), "train", packing.digest())
    values, sums = np.array([sign * 2.0**40, -3.0, 4.0], np.float32), np.array([sign * 2.0**70, 5.0])
    words = NoSeal().seal(context, "x", values, sums, packing, clip=True)
    assert words.low.view(np.int32).tolist() == [sign * limit(32, 3), -3, 4]
    assert words.high[:2].view(np.int64).tolist() == [sign * int(float(limit(64, 3))), 5]


def test_arrays_that_lie_across_blocks_are_on_their_own_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infl.privacy.seal.lanes.LANE_BLOCK", 4096)
    sizes = {-4: 5000, -8: 3000, -2: 4200, -6: 1000, -3: 9000}
    packing = Packing(tuple(Field(f"{bits} {e}", (n,), e, bits=bits) for e, n in sizes.items() for bits in (32, 64)))
    context = Context("run", 1, 0, ("a", "b", "c"), "train", packing.digest())
    values = np.random.default_rng(0).normal(size=packing.n32).astype(np.float32)
    steps = np.concatenate([np.full(n, 2.0**exponent) for exponent, n in sizes.items()])
    words = NoSeal().seal(context, "a", values, values.astype(float), packing)
    for lane, dtype in ((words.low, np.int32), (words.high[:-2], np.int64)):
        np.testing.assert_array_equal(lane.view(dtype), np.rint(values / steps))


@pytest.mark.parametrize("some", range(4))
@pytest.mark.parametrize("every", range(6))
def test_each_tag_adds_two_words(some: int, every: int) -> None:
    fields = Field("w", (5,), -20), Field("n", (some,), 0, bits=64), Field("m", (every,), 0, bits=64, of_all=True)
    assert Packing(fields).lanes == (5, some + 2, every + 2 if every else 0)


def test_an_error_names_three_arrays_at_most() -> None:
    error = RangeError(dict.fromkeys("abcde", 2.5))
    assert str(error).startswith(
        "out of the agreed range: a by a factor of 2.5, b by a factor of 2.5, c by a factor of 2.5;"
    )
    assert [*error.fields] == [*"abcde"]
