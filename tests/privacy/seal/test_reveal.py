"""What a site gives so that masks come off a sum: useless when altered, for one list only, never for too few."""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from tests.privacy.seal.conftest import context, messages, met, total

from infl.errors import FederationError, SealError
from infl.privacy.seal import MaskedArrays, lanes, uncover
from infl.privacy.seal.masks import Stream
from infl.privacy.seal.reveal import mask


def test_a_lying_coordinator_is_served_one_list_only() -> None:
    c, sites = context(5), met(5)
    sent = messages(sites, c)
    everyone, without = list(c.cohort), list(c.cohort[1:])
    sites["s2"].reveal(c, everyone, {p: sent[p][2]["s2"] for p in everyone})
    sites["s2"].reveal(c, everyone, {p: sent[p][2]["s2"] for p in everyone})  # asked again: the same
    with pytest.raises(SealError, match="another list"):
        sites["s2"].reveal(c, without, {p: sent[p][2]["s2"] for p in without})
    with pytest.raises(SealError, match="at least 4 of this round's 5 sites"):
        sites["s3"].reveal(c, everyone[1:4], {p: sent[p][2]["s3"] for p in everyone[1:4]})
    with pytest.raises(SealError, match="at least 4"):
        sites["s3"].reveal(c, ["s3"] * 5, {p: sent[p][2]["s3"] for p in everyone})
    with pytest.raises(SealError, match="its own message is not in the sum"):
        sites["s0"].reveal(c, without, {p: sent[p][2]["s0"] for p in without})


def test_what_is_given_for_different_lists_does_not_open() -> None:
    """The lie that would work on plain shares: some sites are told that s0 answered, the others that it did not."""
    c, sites = context(5), met(5)
    sent = messages(sites, c)
    with_s0, without = c.cohort[:4], c.cohort[1:]
    views = {"s0": c.cohort, "s1": c.cohort, "s2": with_s0, "s3": with_s0, "s4": without}
    revealed = [sites[s].reveal(c, v, {p: sent[p][2][s] for p in v}) for s, v in views.items()]
    for view in set(views.values()):
        claimed = [replace(r) for r in revealed if r.site in view]
        with pytest.raises(FederationError, match="does not fit what others gave"):
            uncover(c, total([sent[s][1] for s in view]), claimed, view)


def test_what_a_site_gives_is_useless_when_altered() -> None:
    c, sites = context(4), met(4)
    sent = messages(sites, c)
    everyone = c.cohort
    good = [sites[s].reveal(c, everyone, {p: sent[p][2][s] for p in everyone}) for s in everyone]
    for change in (
        {"box": good[0].box[:-1] + bytes([good[0].box[-1] ^ 1])},
        {"box": b""},
        {"keys": {}},
        {"keys": {**good[0].keys, "s1": bytes(3)}},
        {"tokens": {}},
        {"tokens": {**good[0].tokens, "s1": bytes(16)}},
    ):
        with pytest.raises(FederationError, match="does not fit"):
            uncover(c, total([sent[s][1] for s in everyone]), [replace(good[0], **change), *good[1:]], everyone)
    with pytest.raises(FederationError, match="1 of 4 sites gave shares"):
        uncover(c, total([sent[s][1] for s in everyone]), [good[0]] * 4, everyone)


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


def test_too_few_shares() -> None:
    c, sites = context(5), met(5)
    sent = messages(sites, c)
    everyone = list(c.cohort)
    revealed = [sites[s].reveal(c, everyone, {p: sent[p][2][s] for p in everyone}) for s in everyone[:2]]
    with pytest.raises(FederationError, match="2 of 5 sites gave shares, 4 are needed"):
        uncover(c, total([sent[s][1] for s in everyone]), revealed, everyone)


@pytest.mark.parametrize("n_cores", [1, 2, 3])
def test_masks_are_the_same_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch, n_cores: int) -> None:
    n, parts = 3 * lanes.LANE_BLOCK + 17, []
    plus, minus = [bytes([number] * 32) for number in range(4)], [bytes([9] * 32), bytes([8] * 32)]
    expected = np.zeros(n, np.uint32)
    for sign, seeds in ((1, plus), (-1, minus)):
        for seed in seeds:
            words = Stream(HKDFExpand(SHA256(), 32, b"low").derive(seed), "<u4").read(n)
            expected += words if sign > 0 else -words

    def stream(key: bytes, dtype: str, start: int) -> Stream:
        parts.append(start)
        return Stream(key, dtype, start)

    monkeypatch.setattr(lanes, "cores", lambda: n_cores)
    monkeypatch.setattr("infl.privacy.seal.reveal.Stream", stream)
    covered = MaskedArrays(np.zeros(n, np.uint32), np.zeros(0, np.uint64))
    mask(covered, plus, minus, lanes=("low",))
    np.testing.assert_array_equal(covered.low, expected)
    assert len({*parts}) == min(n_cores, 2)  # 6 streams of 400,000 words are worth two cores
