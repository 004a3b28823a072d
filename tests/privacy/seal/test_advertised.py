"""Starts that sites advertise: signed with the key of the run, their digest of names and public keys."""

import hashlib
import hmac
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.privacy.seal.conftest import KEY

from infl.errors import FederationError, SealError
from infl.privacy.seal import PairwiseSite, epochs_of


def test_the_digest_of_epochs_is_of_names_and_public_keys() -> None:
    keys = {name: bytes([number]) * 128 for number, name in enumerate("ba")}
    expected = hashlib.sha256(json.dumps([["a", "01" * 32], ["b", "00" * 32]]).encode()).hexdigest()
    assert epochs_of(keys) == expected == epochs_of({name: key[:32] + bytes(96) for name, key in keys.items()})
    assert epochs_of({**keys, "c": bytes(64)}) == epochs_of({}) == ""  # one of them is not signed
    assert epochs_of({"c": bytes(65)}) != ""  # all that comes after key and MAC is the signature


def test_a_start_is_taken_up_by_its_private_key() -> None:
    site = PairwiseSite("s0", KEY, "run")
    assert len(site.private) == 32
    assert PairwiseSite("s0", KEY, "run", private=site.private).advertise() == site.advertise()
    assert PairwiseSite("s0", KEY, "run").advertise() != site.advertise()


def test_a_sites_own_key_is_that_of_its_last_start() -> None:
    """Whatever it is replaced by: masks of an earlier start must not come back."""
    identity = Ed25519PrivateKey.generate()
    members = {"s0": identity.public_key().public_bytes_raw()}
    site, *earlier = (PairwiseSite("s0", KEY, "run", identity=identity, members=members) for _ in range(9))
    for other in earlier:
        with pytest.raises(FederationError, match="not those of its last start"):
            site.meet({"s0": other.advertise()})
    with pytest.raises(FederationError, match="not those of its last start"):
        site.meet({"s1": earlier[0].advertise()})
    site.meet({"s0": site.advertise()})


def test_public_key_of_small_order_is_refused() -> None:
    site = PairwiseSite("s0", KEY, "run")
    zero = bytes(32)
    with pytest.raises(SealError, match="'s1' is none"):
        site.meet({"s1": zero + hmac.digest(KEY, site._statement("s1", zero, b""), "sha256")})


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
