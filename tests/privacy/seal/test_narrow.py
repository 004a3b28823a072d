"""Words of fewer than 32 bits: the same sums, rounded at random, in fewer bytes."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.privacy.seal.conftest import KEY, met

from infl.errors import FederationError, SealError, SettingsError
from infl.privacy.seal import Context, Field, GroupSeal, NoSeal, Packing, add, dequantise, uncover
from infl.privacy.seal.narrow import FULL, pack, packed_size, reduce, signed, uniform, unpack, width_of
from infl.privacy.seal.packing import Quantiser, limit


def packing(n: int, width: int) -> Packing:
    return Packing((Field("w", (n,), -8), Field("n", (), 0, bits=64)), width)


def context(p: Packing, n_sites: int) -> Context:
    return Context("run", 1, 0, tuple(f"s{i}" for i in range(n_sites)), "train", p.digest())


def key_of(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


@given(st.integers(4, 32), st.integers(0, 200), st.integers(0, 1000))
@settings(max_examples=80, deadline=None)
def test_packed_words_come_back_in_no_more_bits_than_they_have(width, n, seed):
    words = np.random.default_rng(seed).integers(0, 1 << width, n).astype(np.uint32)
    packed = pack(words, width)
    assert len(packed) == packed_size(n, width) <= n * width / 8 + 1
    np.testing.assert_array_equal(unpack(packed, n, width), words)


def test_words_over_several_blocks(monkeypatch):
    monkeypatch.setattr("infl.privacy.seal.narrow._AT_ONCE", 16)
    words = np.arange(50, dtype=np.uint32) * 77 % 512
    np.testing.assert_array_equal(unpack(pack(words, 9), 50, 9), words)


def test_what_is_not_so_many_words_is_refused():
    packed = pack(np.arange(3, dtype=np.uint32), 9)
    with pytest.raises(SealError, match="4 bytes are not 4 words of 9 bits"):
        unpack(packed, 4, 9)
    packed[-1] |= 0x80
    with pytest.raises(SealError, match="bits that belong to no word"):
        unpack(packed, 3, 9)


@given(st.integers(4, 31), st.integers(0, 1000))
@settings(deadline=None)
def test_low_bits_are_the_integer(width, seed):
    most = (1 << width - 1) - 1
    integers = np.random.default_rng(seed).integers(-most - 1, most + 1, 50).astype(np.int32)
    words = integers.view(np.uint32).copy()
    reduce(words, width)
    assert words.max() < 1 << width
    signed(words, width)
    np.testing.assert_array_equal(words.view(np.int32), integers)


def test_rounding_is_right_in_the_mean_and_never_a_whole_step_off():
    values = np.tile(np.array([0.3, -0.7, 2.5, -3.0, 0.01, 5.999]), 20_000)
    rounded = np.empty(len(values))
    p = Packing((Field("w", (len(values),), 0),), 16)
    reader = Quantiser(values, p, 32, weight=1.0, largest=100, clip=True, rounding=key_of("a"))
    for start in range(0, len(values), 1001):  # whatever the blocks are
        reader.read(start, stop := min(start + 1001, len(values)), rounded[start:stop])
    np.testing.assert_array_equal(rounded, np.rint(rounded))
    assert np.abs(rounded - values).max() < 1
    means = rounded.reshape(-1, 6).mean(axis=0)
    np.testing.assert_allclose(means, values[:6], atol=5 * 0.5 / np.sqrt(20_000))  # five standard errors
    assert (rounded.reshape(-1, 6)[:, 3] == -3).all()  # a whole number stays what it is
    whole = np.empty(len(values))
    Quantiser(values, p, 32, weight=1.0, largest=100, clip=True, rounding=key_of("a")).read(0, len(values), whole)
    np.testing.assert_array_equal(whole, rounded)


def test_numbers_of_a_stream_are_the_same_wherever_it_is_entered():
    all_of_it = uniform(key_of("x"), 0, 100)
    np.testing.assert_array_equal(uniform(key_of("x"), 37, 83), all_of_it[37:83])
    assert (all_of_it != uniform(key_of("y"), 0, 100)).all() and all_of_it.min() >= 0 and all_of_it.max() < 1


@pytest.mark.parametrize(("bits", "n_sites"), [(8, 10), (5, 10), (4, 3), (16, 40)])
@pytest.mark.parametrize("seal", [GroupSeal(KEY), NoSeal()], ids=["group", "none"])
def test_the_sum_is_that_of_the_rounded_integers(bits, n_sites, seal):
    p = packing(3000, width_of(bits, n_sites))
    c, rng, total, plain = context(p, n_sites), np.random.default_rng(bits), None, np.zeros(3000)
    room = limit(p.width, n_sites) * 2.0**-8
    for site in c.cohort:
        values = rng.uniform(-1.5, 1.5, 3000) * room  # some of them are clipped
        words = seal.seal(c, site, values, np.array([2.0]), p, clip=True, rounding=key_of(site))
        assert words.low.max() < 1 << p.width
        own = np.empty(3000)
        most = limit(p.width, n_sites)
        Quantiser(values, p, 32, weight=1.0, largest=most, clip=True, rounding=key_of(site)).read(0, 3000, own)
        assert np.abs(own).max() == most and np.abs(own - np.clip(values * 256, -most, most)).max() <= 1
        plain += own
        total = add(total, words)
    vector, sums = dequantise(seal.unseal(c, c.cohort, total, p), p)
    np.testing.assert_array_equal(vector, plain / 256)
    assert sums.tolist() == [2.0 * n_sites]


def test_sites_that_are_away_and_sums_that_were_altered():
    p = packing(100, 9)
    c, seal, total = context(p, 5), GroupSeal(KEY), None
    answered = ["s0", "s1", "s4"]
    for site in answered:
        total = add(total, seal.seal(c, site, np.full(100, 0.125), np.zeros(1), p, rounding=key_of(site)))
    assert dequantise(seal.unseal(c, answered, total, p), p)[0].tolist() == [0.375] * 100
    total.low[3] ^= 1
    with pytest.raises(SealError, match="not what the sites sealed"):
        seal.unseal(c, answered, total, p)


def test_pairwise_masks_come_off_words_that_travelled():
    p = packing(64, 11)
    c, sites, seal, total, shares = context(p, 4), met(4), GroupSeal(KEY), None, {}
    for name, site in sites.items():
        words = seal.seal(c, name, np.full(64, -0.5), np.zeros(1), p, rounding=key_of(name))
        shares[name] = site.cover(c, words)
        assert words.low.max() < 1 << 11
        total = add(total, words)
    revealed = [sites[s].reveal(c, c.cohort, {q: shares[q][s] for q in c.cohort}) for s in c.cohort]
    opened = seal.unseal(c, c.cohort, uncover(c, total, revealed, c.cohort), p)
    assert dequantise(opened, p)[0].tolist() == [-2.0] * 64


def test_a_message_looks_like_noise():
    """Each bit of masked words is as often 1 as 0, whatever was sealed."""
    p = packing(20_000, 9)
    words = GroupSeal(KEY).seal(context(p, 3), "s0", np.zeros(20_000), np.zeros(1), p, rounding=key_of("s0"))
    share = np.unpackbits(pack(words.low, 9)).mean()
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(9 * 20_000)


@pytest.mark.parametrize(("bits", "least"), [(8, 2.6), (5, 3.5)])
def test_ten_sites_send_fewer_bytes(bits, least):
    sizes = []
    for width in (FULL, width_of(bits, 10)):
        p = packing(100_000, width)
        sizes.append(GroupSeal(KEY).seal(context(p, 10), "s1", np.zeros(100_000), np.zeros(1), p).nbytes)
    assert sizes[0] / sizes[1] >= least


def test_widths_are_part_of_what_is_agreed():
    p, other = packing(10, 11), packing(10, 12)
    assert len({p.digest(), other.digest(), packing(10, FULL).digest()}) == 3
    assert p.coarser({"w": 3}).width == 11
    seal, c = GroupSeal(KEY), context(p, 3)
    total = add(None, seal.seal(c, "s0", np.zeros(10), np.zeros(1), p))
    with pytest.raises(FederationError, match="refused"):
        add(total, seal.seal(context(other, 3), "s0", np.zeros(10), np.zeros(1), other))
    with pytest.raises(SettingsError, match="words have 4 to 32 bits, not 3"):
        packing(10, 3)
    with pytest.raises(SettingsError, match="bits=3: give a whole number from 4 to 16"):
        width_of(3, 10)
