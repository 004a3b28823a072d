"""Laws of the seal: sums are sums, noise is noise, and nothing that was touched gets through."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infl.errors import FederationError, KeyringError, SealError
from infl.privacy.seal import (
    Context,
    Field,
    GroupSeal,
    MaskedArrays,
    NoSeal,
    Packing,
    RangeError,
    add,
    dequantise,
    lanes,
)
from infl.privacy.seal.masks import Stream, Streams
from infl.privacy.seal.packing import LANE_RANGE, limit
from infl.privacy.seal.tag import Tag

KEY = bytes(range(32))
PACKING = Packing(
    (Field("w", (5, 3), -24), Field("n", (), 0, bits=64), Field("b", (4,), -20), Field("sums", (6,), -20, bits=64))
)


def context(n: int, **changes: object) -> Context:
    base = Context("run", 3, 0, tuple(f"site_{i}" for i in range(n)), "train", PACKING.digest())
    return replace(base, **changes)


def plain(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values of n sites: updates (n, 19) and sums (n, 7)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 19)).astype(np.float32), np.rint(rng.normal(size=(n, 7)) * 1000)


def sealed(n: int, seed: int = 0, seal: NoSeal | None = None) -> list[MaskedArrays]:
    return deepcopy(_sealed(n, seed)) if seal is None else _sealed_by(seal, n, seed)


@cache
def _sealed(n: int, seed: int) -> list[MaskedArrays]:
    return _sealed_by(GroupSeal(KEY), n, seed)  # the same each time


def _sealed_by(seal: NoSeal, n: int, seed: int) -> list[MaskedArrays]:
    updates, sums = plain(n, seed)
    c = context(n)
    return [seal.seal(c, s, updates[i], sums[i], PACKING, weight=1 / n) for i, s in enumerate(c.cohort)]


def total_of(messages: list[MaskedArrays]) -> MaskedArrays:
    total = None
    for words in messages:
        total = add(total, words)
    assert total is not None
    return total


# -- sums are sums -----------------------------------------------------------------------------------------------------
@given(data=st.data(), n=st.integers(3, 64))
@settings(max_examples=150, deadline=None)
def test_any_responders_give_the_exact_sum_with_two_streams_a_run(data: st.DataObject, n: int) -> None:
    present = data.draw(st.sets(st.integers(0, n - 1), min_size=3))
    places = sorted(present)
    c, seal = context(n), GroupSeal(KEY)
    updates, sums = plain(n)
    messages = [seal.seal(c, c.cohort[i], updates[i], sums[i], PACKING, weight=1 / n) for i in places]
    assert seal.streams_opened == 2
    low, high = seal.unseal(c, [c.cohort[i] for i in places], total_of(messages), PACKING)
    runs = 1 + sum(b - a > 1 for a, b in pairwise(places))
    assert seal.streams_opened == 2 * runs
    steps32 = np.concatenate([np.full(15, 2.0**-24), np.full(4, 2.0**-20)])
    steps64 = np.concatenate([[1.0], np.full(6, 2.0**-20)])
    np.testing.assert_array_equal(
        low, sum(np.rint(updates[i].astype(float) * (1 / n) / steps32).astype(int) for i in places)
    )
    np.testing.assert_array_equal(high, sum(np.rint(sums[i] / steps64).astype(int) for i in places))


def test_a_cohort_of_hundreds_is_one_run() -> None:
    packing = Packing((Field("w", (1,), -20),))
    c = Context("run", 1, 0, tuple(f"s{i}" for i in range(400)), "train", packing.digest())
    seal, total = GroupSeal(KEY), None
    for site in c.cohort:
        total = add(total, seal.seal(c, site, np.ones(1), np.empty(0), packing))
    assert total is not None
    low, _ = seal.unseal(c, c.cohort, total, packing)
    assert low.tolist() == [400 << 20] and seal.streams_opened == 2


def test_the_largest_sums_are_opened_exactly() -> None:
    """Beyond 2⁵³ not every integer is a float64; the tag is of the integers."""
    packing = Packing((Field("s", (3,), 0, bits=64),))
    c = Context("run", 1, 0, ("a", "b", "c"), "train", packing.digest())
    seal, total = GroupSeal(KEY), None
    for site in c.cohort:
        total = add(total, seal.seal(c, site, np.empty(0), np.array([2.0**57, -(2.0**57), 2.0**52 + 1]), packing))
    assert total is not None
    assert seal.unseal(c, c.cohort, total, packing)[1].tolist() == [3 * 2**57, -3 * 2**57, 3 * (2**52 + 1)]


def test_tags_of_an_exchange_are_made_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr("infl.privacy.seal.group.Tag", lambda key, n: made.append(n) or Tag(key, n))
    seal, packing = GroupSeal(KEY), Packing((Field("w", (7,), -20), Field("s", (3,), 0, bits=64)))
    for attempt in (0, 1):
        c = Context("run", 1, attempt, ("a", "b", "c"), "train", packing.digest())
        words = [seal.seal(c, site, np.ones(7), np.ones(3), packing) for site in c.cohort]
        seal.unseal(c, c.cohort, total_of(words), packing)
        assert sorted(made) == [3, 7]
        made.clear()


def test_a_seal_keeps_nothing_of_the_exchange_before() -> None:
    used, n = GroupSeal(KEY), 3
    updates, sums = plain(n)
    for attempt in (0, 1, 0):  # back to one that it has sealed for already, too
        c = context(n, attempt=attempt)
        words = [used.seal(c, s, updates[i], sums[i], PACKING, weight=1 / n) for i, s in enumerate(c.cohort)]
        fresh = GroupSeal(KEY)
        low, _ = fresh.unseal(c, c.cohort, total_of(words), PACKING)
        np.testing.assert_array_equal(low, used.unseal(c, c.cohort, total_of(words), PACKING)[0])


def test_average_is_the_unquantised_one_to_1e_6_of_its_scale() -> None:
    n = 7
    packing = Packing((Field("w", (1000,), -28),))
    c = replace(context(n), packing=packing.digest())
    updates = np.random.default_rng(0).normal(size=(n, 1000)).astype(np.float32)
    shares = np.random.default_rng(1).dirichlet(np.ones(n))
    seal = GroupSeal(KEY)
    messages = [
        seal.seal(c, s, updates[i], np.empty(0), packing, weight=w, share=w)
        for i, (s, w) in enumerate(zip(c.cohort, shares, strict=True))
    ]
    vector, _ = dequantise(seal.unseal(c, c.cohort, total_of(messages), packing), packing)
    expected = shares @ updates.astype(float)
    assert np.abs(vector - expected).max() <= 1e-6 * np.abs(expected).max()


@given(shares=st.lists(st.floats(1e-6, 1), min_size=1, max_size=64), bits=st.sampled_from([32, 64]))
def test_no_sum_within_the_limits_leaves_the_range(shares: list[float], bits: int) -> None:
    whole = sum(shares)
    n = len(shares)
    assert sum(limit(bits, n, s / whole) for s in shares) <= LANE_RANGE[bits]
    assert n * limit(bits, n) <= LANE_RANGE[bits]


def test_no_seal_sends_the_same_integers() -> None:
    seal = NoSeal()
    open_, closed = seal.unseal(context(5), context(5).cohort, total_of(sealed(5, seal=seal)), PACKING), GroupSeal(KEY)
    hidden = closed.unseal(context(5), context(5).cohort, total_of(sealed(5)), PACKING)
    for a, b in zip(open_, hidden, strict=True):
        np.testing.assert_array_equal(a, b)


def test_big_lanes_in_parts_are_the_small_ones() -> None:
    """Lanes that are worked on by several threads give the same words."""
    n = (1 << 21) + 4097
    packing = Packing((Field("w", (n,), -24),))
    c = replace(context(3), packing=packing.digest())
    values = np.random.default_rng(0).normal(size=n).astype(np.float32)
    seal, found, pools = GroupSeal(KEY), [], []
    with pytest.MonkeyPatch.context() as patch:
        pool = lanes.ThreadPoolExecutor
        patch.setattr(lanes, "ThreadPoolExecutor", lambda n: pools.append(n) or pool(n))
        for cores in (1, 2):
            patch.setattr(lanes, "cores", lambda cores=cores: cores)
            found.append(seal.seal(c, "site_1", values, np.empty(0), packing))
    assert pools == [2]
    np.testing.assert_array_equal(found[0].low, found[1].low)
    np.testing.assert_array_equal(found[0].high, found[1].high)


# -- nothing that was touched gets through ------------------------------------------------------------------------------
@given(data=st.data(), n=st.integers(3, 12))
@settings(max_examples=1500, deadline=None)
def test_one_flipped_bit_is_always_rejected(data: st.DataObject, n: int) -> None:
    total = total_of(sealed(n))
    lane = data.draw(st.sampled_from(["low", "high"]))
    words = getattr(total, lane)
    place = data.draw(st.integers(0, len(words) - 1))
    bit = data.draw(st.integers(0, words.dtype.itemsize * 8 - 1))
    words[place] ^= words.dtype.type(1 << bit)
    with pytest.raises(SealError, match="rejected"):
        GroupSeal(KEY).unseal(context(n), context(n).cohort, total, PACKING)


@given(
    change=st.sampled_from(
        [
            {"run": "another"},
            {"round": 4},
            {"attempt": 1},
            {"kind": "judge"},
            {"cohort": ("site_1", "site_0", "site_2", "site_3", "site_4")},
            {"cohort": tuple(f"site_{i}" for i in range(6))},
        ]
    ),
    seed=st.integers(0, 1000),
)
@settings(max_examples=300, deadline=None)
def test_a_sum_of_another_exchange_is_rejected(change: dict[str, object], seed: int) -> None:
    total = total_of(sealed(5, seed))
    other = context(5, **change)
    responders = [s for s in other.cohort if s in context(5).cohort]
    with pytest.raises(SealError):
        GroupSeal(KEY).unseal(other, responders, total, PACKING)


@given(data=st.data(), n=st.integers(4, 20))
@settings(max_examples=300, deadline=None)
def test_a_wrong_list_of_responders_is_rejected(data: st.DataObject, n: int) -> None:
    c, messages = context(n), sealed(n)
    really = data.draw(st.sets(st.integers(0, n - 1), min_size=3))
    claimed = data.draw(st.sets(st.integers(0, n - 1), min_size=3).filter(lambda s: s != really))
    total = total_of([messages[i] for i in really])
    with pytest.raises(SealError):
        GroupSeal(KEY).unseal(c, [c.cohort[i] for i in sorted(claimed)], total, PACKING)


def test_swapped_or_doubled_sites_are_rejected() -> None:
    c, messages = context(4), sealed(4)
    with pytest.raises(SealError):
        GroupSeal(KEY).unseal(c, c.cohort, total_of([messages[0], messages[0], messages[2], messages[3]]), PACKING)
    with pytest.raises(SealError, match="order"):
        GroupSeal(KEY).unseal(c, c.cohort[::-1], total_of(messages), PACKING)
    with pytest.raises(FederationError, match="not in the cohort"):
        GroupSeal(KEY).unseal(c, [*c.cohort[:3], "stranger"], total_of(messages), PACKING)


def test_adding_a_multiple_of_the_tag_prime_is_rejected() -> None:
    """The one change that a tag modulo p cannot see by itself is out of the range that sums may have."""
    total = total_of(sealed(5))
    total.high[0] += np.uint64((1 << 61) - 1)
    with pytest.raises(SealError):
        GroupSeal(KEY).unseal(context(5), context(5).cohort, total, PACKING)


def test_another_key_or_packing_is_rejected() -> None:
    total = total_of(sealed(5))
    with pytest.raises(SealError):
        GroupSeal(bytes(32)).unseal(context(5), context(5).cohort, total, PACKING)
    other = Packing((replace(PACKING.fields[0], name="v"), *PACKING.fields[1:]))
    with pytest.raises(SealError):
        GroupSeal(KEY).unseal(context(5, packing=other.digest()), context(5).cohort, total, other)
    for agreed, used in ((PACKING, other), (other, PACKING)):  # whichever digest is the smaller one
        with pytest.raises(SealError, match="does not have the sizes of the round's packing"):
            GroupSeal(KEY).unseal(context(5, packing=agreed.digest()), context(5).cohort, total, used)


# -- range -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("field", "lane"), [("b", 0), ("sums", 1)])
def test_one_unit_too_many_is_an_error_that_names_tensor_and_factor(field: str, lane: int) -> None:
    seal, c = GroupSeal(KEY), context(4)
    updates, sums = np.zeros(19), np.zeros(7)
    largest = limit((32, 64)[lane], 4)
    values = (updates, sums)[lane]
    values[-1] = largest * 2.0**-20
    seal.seal(c, "site_1", updates, sums, PACKING)
    unit = 1 if lane == 0 else 2**8  # above 2⁵³ float64 has no neighbouring integers
    values[-1] = (largest + unit) * 2.0**-20
    with pytest.raises(RangeError, match=field) as error:
        seal.seal(c, "site_1", updates, sums, PACKING)
    assert list(error.value.fields) == [field]
    assert error.value.fields[field] == pytest.approx(1, abs=1e-6)
    values[-1] *= -8
    with pytest.raises(RangeError) as error:
        seal.seal(c, "site_1", updates, sums, PACKING)
    assert error.value.fields[field] == pytest.approx(8, rel=1e-3)


def test_clipping_is_asked_for() -> None:
    c, seal = context(3), GroupSeal(KEY)
    updates = np.full(19, 1e6)
    messages = [seal.seal(c, s, updates, np.zeros(7), PACKING, clip=True) for s in c.cohort]
    low, _ = seal.unseal(c, c.cohort, total_of(messages), PACKING)
    assert (low == 3 * limit(32, 3)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_named(value: float) -> None:
    updates = np.zeros(19, dtype=np.float32)
    updates[16] = value
    with pytest.raises(SealError, match=r"^b has NaN or infinite"):
        GroupSeal(KEY).seal(context(3), "site_0", updates, np.zeros(7), PACKING)


# -- few sites, wrong sizes ---------------------------------------------------------------------------------------------
def test_few_sites_are_refused_at_the_site() -> None:
    with pytest.raises(FederationError, match="min_sites=3"):
        GroupSeal(KEY).seal(context(2), "site_0", np.zeros(19), np.zeros(7), PACKING)
    c, messages = context(5), sealed(5)
    with pytest.raises(FederationError, match=r"2 sites answered.*min_sites=3"):
        GroupSeal(KEY).unseal(c, c.cohort[:2], total_of(messages[:2]), PACKING)


def test_without_a_seal_one_site_is_enough_and_with_one_three() -> None:
    """Nobody hides in a sum of one or two; without a seal nothing is hidden."""
    assert (NoSeal().min_sites, GroupSeal(KEY).min_sites) == (1, 3)


@pytest.mark.parametrize("size", [31, 33])
def test_a_secret_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(KeyringError, match=rf"32 bytes, not of {size}: use keyring\.subkey"):
        GroupSeal(bytes(size))


def test_two_sites_with_one_name_and_strangers() -> None:
    for cohort in (("a", "b", "a"), ("c", "a", "b", "a")):
        with pytest.raises(FederationError, match="two sites are called 'a'"):
            Context("run", 1, 0, cohort, "train", "")
    with pytest.raises(FederationError, match="'x' is not in the cohort"):
        GroupSeal(KEY).seal(context(3), "x", np.zeros(19), np.zeros(7), PACKING)


def test_sizes_must_be_the_packings() -> None:
    for vector, sums, packing in ((18, 7, PACKING.digest()), (19, 6, PACKING.digest()), (19, 7, "another")):
        with pytest.raises(SealError, match="packing"):
            GroupSeal(KEY).seal(context(3, packing=packing), "site_0", np.zeros(vector), np.zeros(sums), PACKING)
    messages = sealed(3)
    with pytest.raises(FederationError, match="refused"):
        add(messages[0], replace(messages[1], low=messages[1].low[:-1]))
    short = replace(total_of(messages), high=total_of(messages).high[:-1])
    with pytest.raises(SealError, match="sizes"):
        GroupSeal(KEY).unseal(context(3), context(3).cohort, short, PACKING)


# -- noise is noise -----------------------------------------------------------------------------------------------------
def test_sealed_words_look_random_and_reused_masks_do_not() -> None:
    """Byte chi² over many exchanges of the very same update; the control reuses one exchange's masks."""
    updates, sums = plain(3)
    rounds = [context(3, round=r) for r in range(400)]
    seal = GroupSeal(KEY)
    fresh = np.stack([seal.seal(c, "site_0", updates[0], sums[0], PACKING).low for c in rounds])
    fixed = np.stack([seal.seal(rounds[0], "site_0", updates[0], sums[0], PACKING).low for _ in rounds])

    def chi2(words: np.ndarray) -> float:
        counts = np.bincount(words.view(np.uint8).ravel(), minlength=256)
        expected = words.nbytes / 256
        return float((((counts - expected) ** 2) / expected).sum())

    assert chi2(fresh) < 255 + 5 * np.sqrt(2 * 255)
    assert chi2(fixed) > 10 * 255
    assert len(np.unique(fresh, axis=0)) == 400
    assert abs(np.corrcoef(fresh.astype(float).mean(0), updates[0])[0, 1]) < 0.8  # 19 values


def test_no_secret_in_repr() -> None:
    assert KEY.hex() not in repr(GroupSeal(KEY))
    assert repr(KEY) not in repr(GroupSeal(KEY))


def test_secrets_are_not_pickled() -> None:
    import copy
    import pickle

    from infl.privacy.seal import Ledger, PairwiseSite

    for holder in (GroupSeal(KEY), PairwiseSite("a", KEY, "run"), Ledger(None, KEY)):
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(KeyringError, match="not pickled"):
                way(holder)


@pytest.mark.parametrize(("n", "drawn"), [(100, 5), (lanes.SHORT + 1, 8)])
def test_masks_of_a_short_lane_are_drawn_once_for_both_neighbours(
    monkeypatch: pytest.MonkeyPatch, n: int, drawn: int
) -> None:
    """Four sites have five streams. Those of a long lane are drawn again at the neighbour, so that no memory is held."""
    made: list[bytes] = []

    def stream(key: bytes, *arguments: Any) -> Stream:
        made.append(key)
        return Stream(key, *arguments)

    monkeypatch.setattr(lanes, "Stream", stream)
    packing = Packing((Field("w", (n,), -20),))
    context, seal, total = Context("run", 1, 0, tuple("abcd"), "train", packing.digest()), GroupSeal(KEY), None
    for site in context.cohort:
        total = add(total, seal.seal(context, site, np.ones(n), np.empty(0), packing))
    low = {Streams(KEY, context.digest()).key("low", place) for place in range(5)}
    assert {*made} >= low and sum(key in low for key in made) == drawn
    assert total is not None
    assert dequantise(seal.unseal(context, context.cohort, total, packing), packing)[0].tolist() == [4.0] * n
