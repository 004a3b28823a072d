"""The pairwise seal: same sums, lost sites, and nothing for a coordinator that conspires or lies."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infl.errors import FederationError, SealError
from infl.privacy.seal import Context, Field, GroupSeal, Packing, PairwiseSite, Words, add, uncover
from infl.privacy.seal.pairwise import threshold

KEY = bytes(range(32))
PACKING = Packing((Field("w", (40,), -24), Field("n", (), 0, bits=64)))


def context(n: int, **changes: object) -> Context:
    return replace(Context("run", 1, 0, tuple(f"s{i}" for i in range(n)), "train", PACKING.digest()), **changes)


def met(n: int, key: bytes = KEY) -> dict[str, PairwiseSite]:
    sites = {s: PairwiseSite(s, key, "run") for s in context(n).cohort}
    keys = {s: site.advertise() for s, site in sites.items()}
    for site in sites.values():
        site.meet(keys)
    return sites


def messages(
    sites: dict[str, PairwiseSite], c: Context, seed: int = 0
) -> dict[str, tuple[Words, Words, dict[str, bytes]]]:
    """Group-sealed words, the same covered, and shares, by site."""
    rng, seal, out = np.random.default_rng(seed), GroupSeal(KEY), {}
    for site in c.cohort:
        words = seal.seal(c, site, rng.normal(size=40), np.array([3.0]), PACKING, weight=1 / len(c.cohort))
        covered = Words(words.low.copy(), words.high.copy())
        out[site] = (words, covered, sites[site].cover(c, covered))
    return out


def total(parts: list[Words]) -> Words:
    result = None
    for words in parts:
        result = add(result, words)
    assert result is not None
    return result


@given(data=st.data(), n=st.integers(3, 9))
@settings(max_examples=60, deadline=None)
def test_sites_lost_before_the_sum_leave_the_group_sealed_sum_of_the_others(data: st.DataObject, n: int) -> None:
    c, sites = context(n), met(n)
    sent = messages(sites, c)
    answered = sorted(data.draw(st.sets(st.sampled_from(c.cohort), min_size=max(3, threshold(n)))), key=c.cohort.index)
    revealed = [sites[s].reveal(c, answered, {p: sent[p][2][s] for p in answered}) for s in answered]
    opened = uncover(c, total([sent[s][1] for s in answered]), revealed, answered)
    expected = total([sent[s][0] for s in answered])
    np.testing.assert_array_equal(opened.low, expected.low)
    np.testing.assert_array_equal(opened.high, expected.high)
    GroupSeal(KEY).unseal(c, answered, opened, PACKING)  # and the tag still fits


def test_sites_lost_while_masks_come_off_cost_nothing_unless_others_were_lost_before() -> None:
    c, sites = context(5), met(5)
    sent = messages(sites, c)
    everyone = list(c.cohort)
    revealed = [sites[s].reveal(c, everyone, {p: sent[p][2][s] for p in everyone}) for s in everyone[:3]]
    opened = uncover(c, total([sent[s][1] for s in everyone]), revealed, everyone)
    np.testing.assert_array_equal(opened.low, total([sent[s][0] for s in everyone]).low)
    c2 = context(5, round=2)
    sent = messages(sites, c2)
    four = everyone[:4]
    revealed = [sites[s].reveal(c2, four, {p: sent[p][2][s] for p in four}) for s in four[:3]]
    with pytest.raises(FederationError, match="ask again"):
        uncover(c2, total([sent[s][1] for s in four]), revealed, four)


def test_coordinator_with_one_sites_help_opens_nobody_elses_message() -> None:
    """With the group key (a conspiring site) a group-sealed message is open; a covered one is noise."""
    c, sites = context(4), met(4)
    rng, seal = np.random.default_rng(1), GroupSeal(KEY)
    update = rng.normal(size=40)
    words = seal.seal(c, "s1", update, np.array([3.0]), PACKING)
    covered = Words(words.low.copy(), words.high.copy())
    sites["s1"].cover(c, covered)

    def with_the_group_key(words: Words) -> np.ndarray:
        """Take the group masks of one message off: the conspirator knows P₁ and P₂."""
        try:
            return GroupSeal(KEY, min_sites=1).unseal(c, ["s1"], words, PACKING)[0] * 2.0**-24
        except SealError:
            from infl.privacy.seal.lanes import open_
            from infl.privacy.seal.masks import Streams

            low = words.low.copy()
            streams = Streams(KEY, c.digest())
            open_(low, None, [(streams.key("low", 2), streams.key("low", 1))])
            return low.view(np.int32) * 2.0**-24

    assert np.corrcoef(with_the_group_key(words), update)[0, 1] > 0.999  # the control: group seal alone
    assert abs(np.corrcoef(with_the_group_key(covered), update)[0, 1]) < 0.5


def test_a_lying_coordinator_is_served_one_list_only() -> None:
    c, sites = context(5), met(5)
    sent = messages(sites, c)
    everyone, without = list(c.cohort), list(c.cohort[1:])
    sites["s2"].reveal(c, everyone, {p: sent[p][2]["s2"] for p in everyone})
    sites["s2"].reveal(c, everyone, {p: sent[p][2]["s2"] for p in everyone})  # asked again: the same
    with pytest.raises(SealError, match="another list"):
        sites["s2"].reveal(c, without, {p: sent[p][2]["s2"] for p in without})
    with pytest.raises(SealError, match="majority"):
        sites["s3"].reveal(c, everyone[:2], {p: sent[p][2]["s3"] for p in everyone[:2]})


def test_altered_or_exchanged_shares_are_refused() -> None:
    c, sites = context(4), met(4)
    sent = messages(sites, c)
    everyone = list(c.cohort)
    for change in ("flip", "swap", "drop"):
        shares = {p: sent[p][2]["s2"] for p in everyone}
        if change == "flip":
            shares["s0"] = shares["s0"][:-1] + bytes([shares["s0"][-1] ^ 1])
        elif change == "swap":
            shares["s0"], shares["s1"] = shares["s1"], shares["s0"]
        else:
            del shares["s0"]
        with pytest.raises(SealError, match="altered or is missing"):
            sites["s2"].reveal(c, everyone, shares)


def test_public_key_that_is_not_signed_with_the_runs_key_is_refused() -> None:
    site, stranger = PairwiseSite("s0", KEY, "run"), PairwiseSite("s1", bytes(32), "run")
    with pytest.raises(SealError, match="'s1' is not signed"):
        site.meet({"s1": stranger.advertise()})
    other_run = PairwiseSite("s1", KEY, "another run")
    with pytest.raises(SealError, match="not signed"):
        site.meet({"s1": other_run.advertise()})
    renamed = PairwiseSite("s1", KEY, "run").advertise()
    with pytest.raises(SealError, match="not signed"):
        site.meet({"s2": renamed})


def test_site_that_did_not_join_is_named_and_no_secret_is_shown() -> None:
    site = PairwiseSite("s0", KEY, "run")
    with pytest.raises(FederationError, match="no public key of 's1'"):
        site.cover(context(3), Words(np.zeros(40, np.uint32), np.zeros(3, np.uint64)))
    c, sites = context(3), met(3)
    sent = messages(sites, c)
    everyone = list(c.cohort)
    revealed = sites["s0"].reveal(c, everyone, {p: sent[p][2]["s0"] for p in everyone})
    assert repr(revealed) == "Revealed(site='s0')"
    assert repr(sites["s0"]) == "PairwiseSite('s0')"


def test_too_few_shares() -> None:
    c, sites = context(5), met(5)
    sent = messages(sites, c)
    everyone = list(c.cohort)
    revealed = [sites[s].reveal(c, everyone, {p: sent[p][2][s] for p in everyone}) for s in everyone[:2]]
    with pytest.raises(FederationError, match="2 of 5 sites gave shares, 3 are needed"):
        uncover(c, total([sent[s][1] for s in everyone]), revealed, everyone)
