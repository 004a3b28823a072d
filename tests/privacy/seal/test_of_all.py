"""Sums that are opened of all sites or not at all: of the update in the same message, any sites' sum opens."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infl.errors import FederationError, SealError, SettingsError
from infl.privacy.seal import Context, Field, GroupSeal, MaskedArrays, NoSeal, Packing, PairwiseSite, add, uncover
from infl.privacy.seal.lanes import open_
from infl.privacy.seal.masks import Streams
from infl.privacy.seal.reveal import mask, threshold

KEY = bytes(range(32))
METRIC = (Field("loss", (), -20, bits=64, of_all=True), Field("right", (3,), 0, bits=64, of_all=True))
PACKING = Packing((Field("w", (40,), -24), METRIC[0], Field("left_out", (), 0, bits=64), METRIC[1]))
"""The mark comes first in the lane of 64 bits, though it is named after a metric."""


def context(n: int, **changes: object) -> Context:
    return replace(Context("run", 1, 0, tuple(f"s{i}" for i in range(n)), "train", PACKING.digest()), **changes)


def values(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, 40)).astype(np.float32), np.rint(rng.normal(size=(n, 5)) * 1000)


def sealed(n: int, seal: NoSeal | None = None) -> list[MaskedArrays]:
    updates, sums = values(n)
    seal, c = seal or GroupSeal(KEY), context(n)
    return [seal.seal(c, s, updates[i], sums[i], PACKING, weight=1 / n) for i, s in enumerate(c.cohort)]


def total_of(messages: Sequence[MaskedArrays]) -> MaskedArrays:
    total = None
    for words in messages:
        total = add(total, words)
    assert total is not None
    return total


def test_the_lane_is_cut_after_what_may_be_of_some() -> None:
    assert [f.name for f, _ in PACKING.lane(64)] == ["left_out", "loss", "right"]
    assert (PACKING.n_some, PACKING.n64, PACKING.lanes) == (1, 5, (40, 3, 6))
    assert PACKING.lanes_of(all_sites=True) == (40, 3, 6) and PACKING.lanes_of(all_sites=False) == (40, 3, 0)
    assert Packing(PACKING.fields[:1]).lanes == (40, 2, 0)
    opened = Packing(tuple(replace(f, of_all=False) for f in PACKING.fields))
    assert opened.digest() != PACKING.digest()  # who opens it otherwise has another context
    with pytest.raises(SettingsError, match="'w'"):
        Packing((Field("w", (2,), 0, of_all=True),))


def test_without_a_seal_the_words_of_tags_are_zero() -> None:
    for words in sealed(3, NoSeal(min_sites=1)):
        assert not words.high[-2:].any() and not words.of_all[-2:].any()


@given(data=st.data(), n=st.integers(3, 12), kind=st.sampled_from([GroupSeal, NoSeal]))
@settings(max_examples=60, deadline=None)
def test_of_some_sites_the_update_opens_and_of_all_the_rest_too(data: st.DataObject, n: int, kind: type) -> None:
    seal = GroupSeal(KEY) if kind is GroupSeal else NoSeal(min_sites=3)
    c, messages, sums = context(n), sealed(n, seal), values(n)[1]
    there = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=3)))
    names = [c.cohort[i] for i in there]
    total = total_of([messages[i] for i in there])
    low, high = seal.unseal(c, names, total if len(there) == n else total.of_some(), PACKING)
    quantised = [np.rint(values(n)[0][i].astype(float) / n * 2**24) for i in there]
    np.testing.assert_array_equal(low, np.sum(quantised, 0))
    steps = np.array([1, 2**20, 1, 1, 1]) if len(there) == n else np.array([1])
    np.testing.assert_array_equal(high, sums[there].sum(0)[: len(steps)] * steps)
    if len(there) < n:
        with pytest.raises(SealError, match="sizes"):
            seal.unseal(c, names, total, PACKING)
    else:
        with pytest.raises(SealError, match="sizes"):
            seal.unseal(c, names, total.of_some(), PACKING)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_one_flipped_bit_is_rejected(data: st.DataObject) -> None:
    total, c = total_of(sealed(4)), context(4)
    place, bit = data.draw(st.integers(0, len(total.of_all) - 1)), data.draw(st.integers(0, 63))
    total.of_all[place] ^= np.uint64(1 << bit)
    with pytest.raises(SealError, match="rejected"):
        GroupSeal(KEY).unseal(c, c.cohort, total, PACKING)


def test_what_is_of_all_has_a_tag_of_its_own() -> None:
    """Words of another exchange beside an honest update are found, and so are those of an honest one beside another."""
    c, good, other = context(4), total_of(sealed(4)), context(4, attempt=1)
    updates, sums = values(4)
    seal = GroupSeal(KEY)
    again = total_of([seal.seal(other, s, updates[i], sums[i], PACKING, weight=0.25) for i, s in enumerate(c.cohort)])
    for mixed in (replace(good, of_all=again.of_all), replace(again, of_all=good.of_all)):
        with pytest.raises(SealError, match="rejected"):
            GroupSeal(KEY).unseal(c, c.cohort, mixed, PACKING)


def test_sums_of_other_sizes_do_not_add() -> None:
    one, other = sealed(3)[:2]
    with pytest.raises(FederationError, match="refused"):
        add(one.copy(), other.of_some())
    total = add(None, one)
    total.of_all[0] += 1
    assert total.of_all[0] != one.of_all[0]  # the first message is copied


# -- pairwise ------------------------------------------------------------------------------------------------------------
def met(n: int, away: Sequence[str] = ()) -> dict[str, PairwiseSite]:
    sites = {s: PairwiseSite(s, KEY, "run") for s in context(n).cohort}
    keys = {s: site.advertise() for s, site in sites.items() if s not in away}
    for site in sites.values():
        site.meet(keys)
    return sites


def covered(
    sites: dict[str, PairwiseSite], away: Sequence[str] = ()
) -> tuple[dict[str, MaskedArrays], dict[str, dict]]:
    """What sites send, and the shares beside it."""
    c, words, shares = context(len(sites)), {}, {}
    for name, message in zip(c.cohort, sealed(len(sites)), strict=True):
        if name not in away:
            words[name], shares[name] = message, sites[name].cover(c, message)
    return words, shares


def opened(sites: dict[str, PairwiseSite], answered: Sequence[str], away: Sequence[str] = ()) -> MaskedArrays:
    """What is left of a sum, with words of all sites, when all who answered have given their parts."""
    c = context(len(sites))
    words, shares = covered(sites, away)
    given = [sites[s].reveal(c, answered, {p: shares[p][s] for p in answered}) for s in answered]
    return uncover(c, total_of([words[s] for s in answered]), given, answered, [s for s in sites if s not in away])


def with_the_ring(words: MaskedArrays, places: Sequence[int], n: int) -> np.ndarray:
    """Take the group masks off what is of all, of sites in a row: what a coordinator and one site can do."""
    streams, found = Streams(KEY, context(n).digest()), words.of_all[:-2].copy()
    open_(found, None, [(streams.key("all", places[-1] + 1), streams.key("all", places[0]))])
    return found.view(np.int64)


def test_of_all_sites_everything_opens() -> None:
    c, sites = context(5), met(5)
    low, high = GroupSeal(KEY).unseal(c, c.cohort, opened(sites, c.cohort), PACKING)
    plain = GroupSeal(KEY).unseal(c, c.cohort, total_of(sealed(5)), PACKING)
    np.testing.assert_array_equal(low, plain[0])
    np.testing.assert_array_equal(high, plain[1])


@pytest.mark.parametrize("case", ["lost", "never there", "control"])
def test_of_some_sites_nothing_but_the_update_opens(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that keeps what it should let go of, and a site with the ring: noise. With seeds that were given: all."""
    n, away = 5, ["s4"] if case == "never there" else []
    if case == "control":
        monkeypatch.setattr(PairwiseSite, "_seed_of_all", PairwiseSite._seed)
    sites, c = met(n, away), context(n)
    answered = c.cohort[: threshold(n)]
    words = opened(sites, answered, away)
    if case == "control":  # the seeds with the lost site were revealed for the update's masks
        for site in answered:
            mask(words, [], [sites[site]._seed("s4", c)], lanes=("of_all",))
    low, _ = GroupSeal(KEY).unseal(c, answered, words.of_some(), PACKING)
    expected = total_of(sealed(n)[: len(answered)])
    np.testing.assert_array_equal(low, GroupSeal(KEY).unseal(c, answered, expected.of_some(), PACKING)[0])
    found, true = with_the_ring(words, range(len(answered)), n), values(n)[1][: len(answered), 1:].sum(0)
    right = np.array_equal(found * np.array([2.0**-20, 1, 1, 1]), true)
    assert right is (case == "control")
    assert right or np.abs(found).min() > 1e12  # words of 64 random bits, not small numbers


def test_what_a_lost_site_knows_does_not_open_the_others_sum() -> None:
    """The lost site is the conspirator: its own masks come off, those between two others stay, where one of them is lost too."""
    n = 7
    sites, c = met(n), context(n)
    answered, lost = c.cohort[:5], c.cohort[5:]
    words = opened(sites, answered)
    for site in answered:
        mask(words, [], [sites[lost[0]]._seed_of_all(site, c)], lanes=("of_all",))
    assert np.abs(with_the_ring(words, range(5), n)).min() > 1e12
    for site in answered:  # the control: both conspire, and all that is left is theirs and the sum of the other five
        mask(words, [], [sites[lost[1]]._seed_of_all(site, c)], lanes=("of_all",))
    np.testing.assert_array_equal(
        with_the_ring(words, range(5), n) * np.array([2.0**-20, 1, 1, 1]), values(n)[1][:5, 1:].sum(0)
    )


def test_asked_again_a_site_sends_the_same() -> None:
    for away in ([], ["s4"]):
        sites = met(5, away)
        first, again = (covered(sites, away)[0]["s1"] for _ in range(2))
        np.testing.assert_array_equal(first.of_all, again.of_all)
