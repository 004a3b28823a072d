"""The ring in memory: versions, fingerprints, errors, and that no secret is shown."""

import copy
import pickle
import traceback

import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from infl.errors import MAX_LENGTH, InflError, KeyringError
from infl.keys import SUBKEY_LABELS, Keyring

roots = st.dictionaries(st.integers(1, 40), st.binary(min_size=32, max_size=32), min_size=1, max_size=5)


def secrets_of(ring: Keyring) -> list[str]:
    """Everything that must not be seen, in the ways in which bytes are printed."""
    secret = [*ring._roots.values(), *([ring._signer] if ring._signer else [])]
    secret += [
        ring.subkey(label, version=v) for label in SUBKEY_LABELS if label != "fingerprint" for v in ring.versions
    ]
    return [text for s in secret for text in (s.hex(), repr(s)[2:-1], str(list(s))[1:-1])]


def test_a_new_ring_has_one_version_of_256_bits_that_no_other_has() -> None:
    rings = [Keyring.create() for _ in range(20)]
    assert all(ring.versions == [1] and ring.current == 1 for ring in rings)
    assert all(len(ring._roots[1]) == 32 for ring in rings)
    assert len({ring.fingerprint() for ring in rings}) == 20


def test_rotating_adds_a_version_and_keeps_the_old_ones(ring: Keyring) -> None:
    before = ring.fingerprint(), ring.subkey("lock")
    assert [ring.rotate(), ring.rotate()] == [2, 3]
    assert ring.versions == [1, 2, 3] and ring.current == 3
    assert (ring.fingerprint(1), ring.subkey("lock", version=1)) == before
    assert len({ring.fingerprint(v) for v in ring.versions}) == 3
    assert ring.fingerprint() == ring.fingerprint(3) and ring.subkey("seal") == ring.subkey("seal", version=3)


@given(roots)
def test_a_part_of_a_ring_has_the_same_keys_and_no_right_to_grant(secret: dict[int, bytes]) -> None:
    ring = Keyring._from_roots(secret)
    version = ring.current
    part = ring.only(version)
    assert part.versions == [version] and part.subkey("lock") == ring.subkey("lock")
    assert ring.is_holder and not part.is_holder
    assert ring.only(ring.versions) == ring
    assert (part == ring) == (len(secret) == 1)


@given(roots, st.data())
def test_rings_are_equal_if_and_only_if_their_secrets_are(secret: dict[int, bytes], data: st.DataObject) -> None:
    ring = Keyring._from_roots(secret)
    assert ring == Keyring._from_roots(dict(reversed(secret.items())))
    version = data.draw(st.sampled_from(sorted(secret)))
    bit = data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(secret[version], "big") ^ (1 << bit)).to_bytes(32, "big")
    other = Keyring._from_roots(secret | {version: flipped})
    assert ring != other and ring.fingerprint(version) != other.fingerprint(version)
    assert ring != Keyring._from_roots(secret | {41: bytes(32)})
    assert ring != "ring"


def test_check_passes_for_every_version_in_the_ring(ring: Keyring) -> None:
    ring.rotate()
    for version in ring.versions:
        ring.check(version, ring.fingerprint(version))


@pytest.mark.parametrize(
    ("versions", "has"), [([1, 2], "1–2"), ([1], "1"), ([1, 2, 4], "1–2, 4"), ([1, 4, 5, 6, 9], "1, 4–6, 9")]
)
def test_a_missing_version_is_named_with_those_in_the_ring(versions: list[int], has: str) -> None:
    ring = Keyring._from_roots({v: bytes([v]) * 32 for v in versions})
    expected = f"key version 3 needed, ring has {has}: ask the key holder for a grant of it"
    for use in (
        lambda: ring.check(3, "abcd"),
        lambda: ring.subkey("lock", version=3),
        lambda: ring.fingerprint(3),
        lambda: ring.only([1, 3]),
    ):
        with pytest.raises(KeyringError) as error:
            use()
        assert str(error.value) == expected


def test_a_wrong_fingerprint_is_named_with_the_right_one(ring: Keyring) -> None:
    other = Keyring.create()
    with pytest.raises(KeyringError) as error:
        ring.check(1, other.fingerprint())
    assert str(error.value) == (
        f"wrong key: version 1 with fingerprint {other.fingerprint()} needed, "
        f"this ring's version 1 is {ring.fingerprint()}"
    )


@pytest.mark.parametrize("bad", [{}, {0: bytes(32)}, {1: bytes(31)}, {True: bytes(32)}, {"1": bytes(32)}])
def test_a_ring_of_something_else_is_refused(bad: dict) -> None:
    with pytest.raises(KeyringError, match="versions from 1 on, of 32 bytes each"):
        Keyring._from_roots(bad)


def test_a_ring_without_versions_is_refused(ring: Keyring) -> None:
    with pytest.raises(KeyringError, match="opens nothing"):
        ring.only([])


def test_there_is_no_ring_from_a_seed() -> None:
    with pytest.raises(TypeError, match=r"Keyring\.create\(\)"):
        Keyring()
    with pytest.raises(TypeError):
        Keyring(0)  # type: ignore[call-arg]


def test_repr_and_html_show_fingerprints_only(ring: Keyring) -> None:
    ring.rotate()
    for text in (repr(ring), str(ring), f"{ring}", ring._repr_html_(), repr(ring.trail), repr(ring.members)):
        assert not [secret for secret in secrets_of(ring) if secret in text]
    for text in (repr(ring), ring._repr_html_()):
        assert ring.fingerprint(1) in text and ring.fingerprint(2) in text
    assert repr(ring.only(2)) == f"Keyring(version 2: {ring.fingerprint(2)}, granted)"
    assert "key holder's" in ring._repr_html_() and "granted" in ring.only(2)._repr_html_()
    assert not hasattr(ring, "__dict__")


@pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy])
def test_pickling_and_copying_are_refused(ring: Keyring, copying) -> None:
    with pytest.raises(KeyringError, match="not pickled or copied: save it with"):
        copying(ring)


def test_a_ring_does_not_get_into_an_annotated_object(ring: Keyring) -> None:
    with pytest.raises(InflError):
        AnnData(shape=(1, 1), uns={"key": ring}).copy()


def test_a_ring_is_not_hashable(ring: Keyring) -> None:
    with pytest.raises(TypeError):
        hash(ring)


def test_no_error_shows_a_secret_or_more_than_a_line(ring: Keyring) -> None:
    part = ring.only(1)
    for use in (
        lambda: ring.check(1, "x" * 500),
        lambda: ring.check(2, ""),
        lambda: ring.subkey("no such label " * 50),
        lambda: ring.subkey("lock", length=0),
        lambda: part.rotate(),
        lambda: part.grant("a", "age1"),
        lambda: ring.grant("a", "age1"),
        lambda: ring.accept(part),
        lambda: pickle.dumps(ring),
    ):
        with pytest.raises(KeyringError) as error:
            use()
        text = "".join(traceback.format_exception(error.value))
        assert not [secret for secret in secrets_of(ring) if secret in text]
        assert len(str(error.value)) < MAX_LENGTH and "\n" not in str(error.value)
