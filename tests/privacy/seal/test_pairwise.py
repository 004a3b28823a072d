"""The pairwise seal: same sums, lost sites, and nothing for a coordinator that conspires or lies."""

import hashlib
import hmac
from itertools import combinations, product

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.privacy.seal.conftest import KEY, PACKING, context, messages, met, total

from infl.errors import FederationError, SealError
from infl.privacy.seal import GroupSeal, MaskedArrays, PairwiseSite, uncover
from infl.privacy.seal.reveal import SEED_BYTES, spread, threshold, xor


@given(data=st.data(), n=st.integers(3, 9))
@settings(max_examples=60, deadline=None)
def test_sites_lost_before_the_sum_leave_the_group_sealed_sum_of_the_others(data: st.DataObject, n: int) -> None:
    c, sites = context(n), met(n)
    sent = messages(sites, c)
    answered = sorted(data.draw(st.sets(st.sampled_from(c.cohort), min_size=threshold(n))), key=c.cohort.index)
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
    revealed = [sites[s].reveal(c, everyone, {p: sent[p][2][s] for p in everyone}) for s in everyone[:4]]
    opened = uncover(c, total([sent[s][1] for s in everyone]), revealed, everyone)
    np.testing.assert_array_equal(opened.low, total([sent[s][0] for s in everyone]).low)


def test_a_site_lost_while_masks_come_off_after_another_was_lost_before_is_an_error_that_says_so() -> None:
    c, sites = context(7), met(7)
    sent = messages(sites, c)
    six = list(c.cohort[:6])
    revealed = [sites[s].reveal(c, six, {p: sent[p][2][s] for p in six}) for s in six[:5]]
    before = total([sent[s][1] for s in six])
    after = before.copy()
    with pytest.raises(FederationError, match="'s5' was lost after 's6'.*ask again"):
        uncover(c, after, revealed, six)
    np.testing.assert_array_equal(after.low, before.low)


def test_coordinator_with_one_sites_help_opens_nobody_elses_message() -> None:
    """With the group key (a conspiring site) a group-sealed message is open; a covered one is noise."""
    c, sites = context(4), met(4)
    rng, seal = np.random.default_rng(1), GroupSeal(KEY)
    update = rng.normal(size=40)
    words = seal.seal(c, "s1", update, np.array([3.0]), PACKING)
    covered = words.copy()
    sites["s1"].cover(c, covered)

    def with_the_group_key(words: MaskedArrays) -> np.ndarray:
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


def some_lie_opens(n: int, t: int, *, tokens: bool) -> bool:
    """Whether telling each honest site its own list of who answered opens s0's message to a coordinator and one site.

    That takes t shares of s0's own mask and its seeds with all other honest sites. With tokens, what a site gives opens
    when, with the conspirator, t sites were told the same list.
    """
    *honest, friend = (f"s{i}" for i in range(n))
    lists = [v for k in range(t, n + 1) for v in combinations((*honest, friend), k)]
    for views in product(*([v for v in lists if s in v] for s in honest)):
        given = {s: v for s, v in zip(honest, views, strict=True) if not tokens or views.count(v) + 1 >= t}
        shares = 1 + sum("s0" in v for v in given.values())
        seeds = {s for s, v in given.items() if "s0" not in v} | (set(honest) - set(given.get("s0", honest)))
        if shares >= t and set(honest[1:]) <= seeds:
            return True
    return False


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_no_choice_of_lies_opens_a_message_to_a_coordinator_and_one_site(n: int) -> None:
    assert not some_lie_opens(n, threshold(n), tokens=True)
    assert some_lie_opens(n, n // 2 + 1, tokens=False)  # the control: a majority, and shares that open by themselves


def test_masks_between_two_sites_are_those_of_the_specification() -> None:
    """X25519, HKDF with both names as salt, and HKDF-Expand under the exchange: written out with the standard library."""

    def expand(key: bytes, info: bytes) -> bytes:
        return hmac.digest(key, info + b"\x01", "sha256")

    sites, c = met(3), context(3)
    public = {s: site._private.public_key() for s, site in sites.items()}
    for one, other in combinations(sites, 2):
        shared = sites[one]._private.exchange(public[other])
        salt = hashlib.sha256(f"{one}\x1f{other}".encode()).digest()
        secret = expand(hmac.digest(salt, shared, "sha256"), b"infl pair run")
        for a, b in ((one, other), (other, one)):
            assert sites[a]._peers[b] == secret
            assert sites[a]._seed(b, c) == expand(secret, b"mask" + c.digest())[:SEED_BYTES]


def test_asked_again_a_site_adds_the_same_masks() -> None:
    sites = met(3)
    first, again = (MaskedArrays(np.zeros(40, np.uint32), np.zeros(3, np.uint64)) for _ in range(2))
    assert sites["s1"].cover(context(3), first) == sites["s1"].cover(context(3), again)
    np.testing.assert_array_equal(first.low, again.low)
    np.testing.assert_array_equal(first.high, again.high)


def test_a_sites_own_mask_is_that_of_the_specification() -> None:
    """HKDF with the exchange's digest as salt, of 256 bits."""
    secret, c = bytes(range(16)), context(3)
    key = hmac.digest(c.digest(), secret, "sha256")
    assert spread(secret, c) == hmac.digest(key, b"infl own mask" + b"\x01", "sha256")


def test_each_exchange_has_a_mask_of_its_own() -> None:
    sites = met(3)
    for round in range(8):
        c = context(3, round=round)
        everyone, sent = list(c.cohort), messages(sites, c, seed=round)
        revealed = [sites[s].reveal(c, everyone, {p: sent[p][2][s] for p in everyone}) for s in everyone]
        words = uncover(c, total([sent[s][1] for s in everyone]), revealed, everyone)
        assert words.digest() == total([sent[s][0] for s in everyone]).digest()


def test_masks_of_rounds_differ_and_look_random() -> None:
    sites = met(3)
    rounds = [MaskedArrays(np.zeros(4000, np.uint32), np.zeros(3, np.uint64)) for _ in range(20)]
    for r, words in enumerate(rounds):
        sites["s1"].cover(context(3, round=r), words)
    counts = np.bincount(np.concatenate([w.low.view(np.uint8) for w in rounds]), minlength=256)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 255 + 5 * np.sqrt(2 * 255)


def test_enrolled_identities_keep_a_conspirators_keys_out() -> None:
    """Who has the group key can make the MAC of any public key, but not another site's signature."""
    identities = {f"s{i}": Ed25519PrivateKey.generate() for i in range(3)}
    members = {s: key.public_key().public_bytes_raw() for s, key in identities.items()}
    sites = {s: PairwiseSite(s, KEY, "run", identity=identities[s], members=members) for s in identities}
    keys = {s: site.advertise() for s, site in sites.items()}
    for site in sites.values():
        site.meet(keys)
    forged = PairwiseSite("s1", KEY, "run", identity=identities["s2"]).advertise()
    for fake in (forged, forged[:64], forged[:64] + keys["s1"][64:]):
        with pytest.raises(SealError, match="'s1' is not signed with its member's identity"):
            sites["s0"].meet({**keys, "s1": fake})
    with pytest.raises(SealError, match="'s9' is not a member"):
        sites["s0"].meet({**keys, "s9": PairwiseSite("s9", KEY, "run").advertise()})
    PairwiseSite("s0", KEY, "run").meet({**keys, "s1": forged})  # without members, the MAC has to do


def test_hidden_bytes_are_as_long_as_what_hides_them() -> None:
    assert xor(b"\x0f\xff", b"\xff\xff") == b"\xf0\x00"
    with pytest.raises(ValueError, match="shorter"):
        xor(b"ab", b"a")


def test_a_members_key_that_is_none_verifies_nothing() -> None:
    identity = Ed25519PrivateKey.generate()
    site = PairwiseSite(
        "s0", KEY, "run", identity=identity, members={"s0": identity.public_key().public_bytes_raw()[:31]}
    )
    with pytest.raises(SealError, match="'s0' is not signed with its member's identity"):
        site.meet({"s0": site.advertise()})


def test_site_that_did_not_join_is_named_and_no_secret_is_shown() -> None:
    site = PairwiseSite("s0", KEY, "run")
    with pytest.raises(FederationError, match="no public key of 's1'"):
        site.cover(context(3), MaskedArrays(np.zeros(40, np.uint32), np.zeros(3, np.uint64)))
    c, sites = context(3), met(3)
    sent = messages(sites, c)
    everyone = list(c.cohort)
    revealed = sites["s0"].reveal(c, everyone, {p: sent[p][2]["s0"] for p in everyone})
    assert repr(revealed) == "Revealed(site='s0')"
    assert repr(sites["s0"]) == "PairwiseSite('s0')"
