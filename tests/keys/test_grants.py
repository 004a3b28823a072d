"""Granting, rotating and revoking; a trail of it in which nothing can be altered; what a site takes in."""

import dataclasses
import json
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infl.errors import KeyringError, SettingsError
from infl.keys import Identity, Keyring, Member, Trail, encrypt
from infl.keys.payload import pack

SITES = {name: Identity.create() for name in ("hospital_a", "hospital_b", "hospital_c")}


@pytest.fixture
def consortium(ring: Keyring) -> Keyring:
    """A key holder's ring with three sites, granted version 1."""
    for name, identity in SITES.items():
        ring.grant(name, identity)
    return ring


def long_story() -> Keyring:
    """A ring with every action in its trail."""
    ring = Keyring.create()
    for name, identity in SITES.items():
        ring.grant(name, identity)
    ring.rotate()
    ring.revoke("hospital_b")
    ring.record_relock("model.infl.safetensors", 3)
    return ring


STORY = long_story().trail


# -- who may have what -----------------------------------------------------------------------------------------------
def test_a_site_is_granted_the_current_version_only(ring: Keyring) -> None:
    ring.rotate()
    site = SITES["hospital_b"]
    granted = ring.grant("hospital_b", site.public)
    assert granted.versions == [2] and granted == ring.only(2) and not granted.is_holder
    assert ring.members == {"hospital_b": Member("hospital_b", site.public, (2,))}
    with pytest.raises(KeyringError, match="key version 1 needed, ring has 2"):
        granted.subkey("lock", version=1)


def test_older_versions_are_granted_when_they_are_named(ring: Keyring) -> None:
    ring.rotate()
    ring.grant("hospital_b", SITES["hospital_b"])
    assert ring.grant("hospital_b", SITES["hospital_b"], versions=[1, 2]) == ring
    assert ring.members["hospital_b"].versions == (1, 2)
    assert [line.versions for line in ring.trail.lines if line.action == "grant"] == [(2,), (1,)]
    with pytest.raises(KeyringError, match="key version 3 needed, ring has 1–2"):
        ring.grant("hospital_c", SITES["hospital_c"], versions=[3])
    assert "hospital_c" not in ring.members


def test_granted_twice_is_written_once(consortium: Keyring) -> None:
    before = consortium.trail
    assert consortium.grant("hospital_b", SITES["hospital_b"]) == consortium.only(1)
    assert consortium.trail == before


def test_rotating_grants_the_new_version_to_all_members(consortium: Keyring) -> None:
    consortium.rotate()
    assert {m.versions for m in consortium.members.values()} == {(1, 2)}
    assert all(consortium.granted(name) == consortium for name in SITES)


def test_grant_rotate_revoke(consortium: Keyring, tmp_path: Path) -> None:
    """The revoked site's ring opens the old model and not the new one; the others open both."""
    old = consortium.current
    consortium.rotate()
    files = {name: consortium.granted(name).save(tmp_path / f"{name}.1.key") for name in SITES}
    rings = {name: Keyring.load(files[name], SITES[name]) for name in SITES}
    new = consortium.revoke("hospital_b")
    assert new == consortium.current == 3 and list(consortium.members) == ["hospital_a", "hospital_c"]
    for name in consortium.members:
        file = consortium.granted(name).save(tmp_path / f"{name}.2.key")
        assert rings[name].accept(Keyring.load(file, SITES[name])) == [3]
        assert rings[name] == consortium
        with pytest.raises(KeyringError, match="was not made for the identity"):
            Keyring.load(file, SITES["hospital_b"])
    revoked = rings["hospital_b"]
    revoked.check(old, consortium.fingerprint(old))
    assert revoked.subkey("lock", version=old) == consortium.subkey("lock", version=old)
    with pytest.raises(KeyringError, match="key version 3 needed, ring has 1–2: ask the key holder"):
        revoked.check(new, consortium.fingerprint(new))
    with pytest.raises(
        KeyringError, match="'hospital_b' was revoked already: sites with one are hospital_a, hospital_c"
    ):
        consortium.granted("hospital_b")


def test_a_revoked_site_can_be_granted_again_and_gets_no_version_between(consortium: Keyring) -> None:
    consortium.revoke("hospital_b")
    consortium.rotate()
    assert consortium.grant("hospital_b", SITES["hospital_b"]).versions == [3]


def test_a_revoked_sites_name_can_go_to_another_key(consortium: Keyring) -> None:
    consortium.revoke("hospital_b")
    other = Identity.create()
    consortium.grant("hospital_b", other)
    assert consortium.members["hospital_b"].recipient == other.public


def test_an_unknown_site_cannot_be_revoked(consortium: Keyring, ring: Keyring) -> None:
    before = consortium.trail, consortium.versions
    with pytest.raises(KeyringError) as error:
        consortium.revoke("hospital_x")
    assert str(error.value) == "'hospital_x' has no grant: sites with one are hospital_a, hospital_b, hospital_c"
    assert (consortium.trail, consortium.versions) == before
    with pytest.raises(KeyringError, match="sites with one are none"):
        Keyring.create().revoke("hospital_x")


def test_two_sites_with_one_name_or_one_key_are_refused(consortium: Keyring) -> None:
    before = consortium.trail
    with pytest.raises(
        KeyringError, match="a site 'hospital_b' with another public key has a grant: choose another name"
    ):
        consortium.grant("hospital_b", Identity.create())
    with pytest.raises(KeyringError, match="'hospital_d' has the public key of 'hospital_b': each site makes its own"):
        consortium.grant("hospital_d", SITES["hospital_b"])
    with pytest.raises(KeyringError, match="'hospital_d' has 2: give each site its own name"):
        consortium.grant("hospital_d", [Identity.create(), Identity.create()])
    assert consortium.trail == before


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", "-a", ".a", "a" * 65, "a\n", "a\x1b[2J"])
def test_a_name_that_cannot_be_part_of_a_file_name_is_refused(ring: Keyring, name: str) -> None:
    with pytest.raises(SettingsError, match="cannot be a site's name: letters, digits"):
        ring.grant(name, SITES["hospital_a"])


def test_a_granted_ring_can_neither_rotate_grant_nor_revoke(consortium: Keyring) -> None:
    granted = consortium.granted("hospital_b")
    for action, use in {
        "rotate": granted.rotate,
        "grant": lambda: granted.grant("hospital_d", Identity.create()),
        "revoke": lambda: granted.revoke("hospital_a"),
        "record in the trail": lambda: granted.record_relock("model", 1),
    }.items():
        with pytest.raises(KeyringError, match=f"this ring was granted and cannot {action}: only the key holder's can"):
            use()
    assert granted.versions == [1] and granted.trail == consortium.trail


def test_a_granted_ring_is_saved_for_its_site(consortium: Keyring, tmp_path: Path) -> None:
    path = consortium.granted("hospital_c").save(tmp_path / "c.key")
    assert Keyring.load(path, SITES["hospital_c"]) == consortium


# -- identities ------------------------------------------------------------------------------------------------------
def test_a_grant_by_the_public_line_has_the_sites_identity(ring: Keyring, tmp_path: Path) -> None:
    site = SITES["hospital_b"]
    ring.grant("hospital_b", site.save_public(tmp_path / "hospital_b.pub"))
    assert ring.members["hospital_b"].identity == site.verifier == ring.trail.lines[-1].identity
    ring.rotate()
    assert ring.trail.lines[-1].identity == site.verifier
    path = ring.granted("hospital_b").save(tmp_path / "b.key")
    assert Keyring.load(path, site).members["hospital_b"].identity == site.verifier


def test_granted_without_an_identity_a_site_has_none_until_it_is_granted_again(ring: Keyring) -> None:
    """What infl 0.1 wrote stays as it is; the new NAME.pub adds a line."""
    site = SITES["hospital_b"]
    ring.grant("hospital_b", site.public)
    assert ring.members["hospital_b"].identity == ""
    earlier = ring.granted("hospital_b")
    ring.grant("hospital_b", site.public_line)
    assert ring.members["hospital_b"] == Member("hospital_b", site.public, (1,), site.verifier)
    assert [(line.action, line.versions) for line in ring.trail.lines[1:]] == [("grant", (1,))] * 2
    before = ring.trail
    ring.grant("hospital_b", site.public)
    ring.grant("hospital_b", site.public_line)
    assert ring.trail == before
    ring.trail.verify()
    assert earlier.accept(ring.granted("hospital_b")) == [] and earlier.trail == ring.trail


def test_two_names_with_one_identity_are_refused(consortium: Keyring) -> None:
    """One site with two recipients would count as two of min_sites."""
    before, other = consortium.trail, Identity.create()
    twin = f"{other.public} ed25519:{SITES['hospital_b'].verifier}"
    with pytest.raises(KeyringError, match="'hospital_d' has the public key of 'hospital_b'"):
        consortium.grant("hospital_d", twin)
    changed = f"{SITES['hospital_b'].public} ed25519:{other.verifier}"
    with pytest.raises(KeyringError, match="a site 'hospital_b' with another public key has a grant"):
        consortium.grant("hospital_b", changed)
    assert consortium.trail == before


def test_a_trail_of_infl_0_1_verifies_to_the_same_chain() -> None:
    """`trail_0_1.json` was written by infl 0.1: created, two grants, rotated."""
    content = json.loads((Path(__file__).parent / "trail_0_1.json").read_text())
    old = Trail.from_json(content)
    old.verify()
    assert json.loads(json.dumps(old.to_json())) == content and old.members()["hospital_b"].identity == ""


def test_an_identity_cannot_be_written_into_a_line_afterwards() -> None:
    for at in (0, 1, 4):
        noticed([line if i != at else line | {"identity": "00" * 32} for i, line in enumerate(LINES)])
    for at in (1, 5):
        noticed([{k: v for k, v in line.items() if i != at or k != "identity"} for i, line in enumerate(LINES)])


# -- the trail -------------------------------------------------------------------------------------------------------
def test_the_trail_says_who_which_version_and_when() -> None:
    lines = [(line.action, line.who, line.versions) for line in STORY.lines]
    assert lines == [
        ("create", "", (1,)),
        ("grant", "hospital_a", (1,)),
        ("grant", "hospital_b", (1,)),
        ("grant", "hospital_c", (1,)),
        ("rotate", "", (2,)),
        ("grant", "hospital_a", (2,)),
        ("grant", "hospital_b", (2,)),
        ("grant", "hospital_c", (2,)),
        ("revoke", "hospital_b", ()),
        ("rotate", "", (3,)),
        ("grant", "hospital_a", (3,)),
        ("grant", "hospital_c", (3,)),
        ("relock", "model.infl.safetensors", (3,)),
    ]
    times = [datetime.fromisoformat(line.when) for line in STORY.lines]
    assert times == sorted(times) and all(time.utcoffset() is not None for time in times)
    assert [line.recipient for line in STORY.lines if line.action == "revoke"] == [SITES["hospital_b"].public]
    frame = STORY.to_frame()
    assert list(frame["action"]) == [line.action for line in STORY.lines] and frame.index[0] == 1


def test_the_trail_has_no_secret(consortium: Keyring) -> None:
    consortium.rotate()
    text = json.dumps(consortium.trail.to_json()) + repr(consortium.trail)
    assert consortium._signer is not None
    for secret in (*consortium._roots.values(), consortium._signer):
        assert secret.hex() not in text
    assert consortium.fingerprint(1) in text


def test_a_trail_comes_back_from_json() -> None:
    back = Trail.from_json(json.loads(json.dumps(STORY.to_json())))
    back.verify()
    assert back == STORY


def noticed(lines: list, **changes) -> str:
    data = STORY.to_json() | {"lines": lines} | changes
    with pytest.raises((KeyringError, ValueError)) as error:
        Trail.from_json(json.loads(json.dumps(data))).verify()
    return str(error.value)


LINES = STORY.to_json()["lines"]
some_lines = st.lists(st.integers(0, len(LINES) - 1), min_size=0, max_size=len(LINES) + 2)


@settings(max_examples=500, deadline=None)
@given(some_lines)
def test_any_removed_repeated_or_swapped_line_is_noticed(order: list[int]) -> None:
    if order != list(range(len(LINES))):
        noticed([LINES[i] for i in order])


@pytest.mark.parametrize("at", range(len(LINES)))
def test_each_removed_line_is_noticed_the_last_one_too(at: int) -> None:
    noticed(LINES[:at] + LINES[at + 1 :])
    noticed(LINES[:at])


@settings(max_examples=500, deadline=None)
@given(st.integers(0, len(LINES) - 1), st.sampled_from(sorted(LINES[0])), st.data())
def test_any_altered_field_of_a_line_is_noticed(at: int, field: str, data: st.DataObject) -> None:
    texts, numbers = st.text(max_size=80), st.integers(-3, 1000)
    old = LINES[at][field]
    kind = {"number": numbers, "versions": st.lists(numbers, max_size=3), "fingerprints": st.lists(texts, max_size=3)}
    new = data.draw(
        kind.get(field, texts).filter(lambda value: value != list(old) if isinstance(old, tuple) else value != old)
    )
    noticed([line if i != at else line | {field: new} for i, line in enumerate(LINES)])


@given(st.data())
def test_an_altered_chain_that_is_chained_anew_is_noticed_by_the_signature(data: st.DataObject) -> None:
    """An enemy who knows the rules, and not the key holder's signing key."""
    at = data.draw(st.integers(0, len(LINES) - 1))
    lines = list(STORY.lines)
    lines[at] = dataclasses.replace(lines[at], who=lines[at].who + "x")
    before = STORY.holder
    for i, line in enumerate(lines):
        lines[i] = dataclasses.replace(line, chain=line.chained_to(before))
        before = lines[i].chain
    with pytest.raises(KeyringError, match="13 lines are not what the key holder signed: ask the key holder"):
        dataclasses.replace(STORY, lines=tuple(lines)).verify()


@pytest.mark.parametrize("field", ["holder", "signature"])
def test_an_altered_holder_or_signature_is_noticed(field: str) -> None:
    good = getattr(STORY, field)
    for at in range(0, len(good), 7):
        noticed(LINES, **{field: good[:at] + f"{int(good[at], 16) ^ 1:x}" + good[at + 1 :]})
    for bad in ("", "zz", good[:-2], good + "00", getattr(Keyring.create().trail, field)):
        noticed(LINES, **{field: bad})


def test_the_altered_line_is_named() -> None:
    changed = [line if i != 4 else line | {"when": "2020-01-01T00:00:00+00:00"} for i, line in enumerate(LINES)]
    assert "altered at or before line 5" in noticed(changed)


def test_an_altered_trail_in_a_file_is_refused(consortium: Keyring, tmp_path: Path, me: Identity) -> None:
    payload = json.loads(pack(consortium._roots, consortium._signer, (), consortium.trail))
    payload["trail"]["lines"].pop()
    path = tmp_path / "ring.key"
    path.write_bytes(encrypt(json.dumps(payload).encode(), recipients=me))
    path.chmod(0o600)
    with pytest.raises(KeyringError, match="3 lines are not what the key holder signed"):
        Keyring.load(path, me)


# -- what a site takes in --------------------------------------------------------------------------------------------
def test_a_site_takes_in_what_is_new_and_keeps_what_it_has(consortium: Keyring) -> None:
    mine = consortium.granted("hospital_b")
    assert mine.accept(consortium.granted("hospital_b")) == []
    consortium.rotate()
    assert mine.accept(consortium.only(2)) == [2]
    assert mine.versions == [1, 2] and mine == consortium and mine.trail == consortium.trail
    assert mine.accept(consortium.granted("hospital_b")) == []


def test_an_older_grant_is_refused(consortium: Keyring) -> None:
    older = consortium.granted("hospital_b")
    consortium.rotate()
    mine = consortium.granted("hospital_b")
    with pytest.raises(
        KeyringError, match="older than this ring, which has grants of a later day: ask for the newest file"
    ):
        mine.accept(older)
    assert mine.versions == [1, 2]


def test_another_consortiums_grant_is_refused(consortium: Keyring) -> None:
    other = Keyring.create()
    mine, theirs = consortium.granted("hospital_b"), other.grant("hospital_b", SITES["hospital_b"])
    with pytest.raises(KeyringError) as error:
        mine.accept(theirs)
    assert str(error.value) == (
        f"another consortium's: its key holder is {other.trail.holder_fingerprint()}, this ring's is "
        f"{consortium.trail.holder_fingerprint()}; import it into a file of its own"
    )
    assert mine == consortium


def test_a_grant_with_another_past_is_refused(consortium: Keyring) -> None:
    """The key holder went back to an old copy of the file and did something else."""
    copy = Keyring._new(consortium._roots, consortium.trail, consortium._signer)
    consortium.rotate()
    mine = consortium.granted("hospital_b")
    copy.revoke("hospital_c")
    copy.rotate()
    with pytest.raises(KeyringError, match="its grant trail contradicts the one in this ring: do not use it"):
        mine.accept(copy.granted("hospital_b"))
    assert mine == consortium


def test_a_revoked_site_cannot_pass_a_key_of_its_own_to_the_others(
    consortium: Keyring, tmp_path: Path, own_identity: Path
) -> None:
    """It knows the old keys and everybody's public key; it does not have the key holder's signing key."""
    revoked, mine = consortium.granted("hospital_b"), consortium.granted("hospital_c")
    forged = Keyring._from_roots(revoked._roots | {2: bytes(32)})
    with pytest.raises(KeyringError, match="another consortium's"):
        mine.accept(forged)
    for trail in (revoked.trail, dataclasses.replace(forged.trail, holder=revoked.trail.holder)):
        path = tmp_path / "consortium.hospital_c.key"
        path.write_bytes(encrypt(pack(forged._roots, None, (), trail), recipients=SITES["hospital_c"]))
        with pytest.raises(KeyringError, match="key holder did not sign|not what the key holder signed|was altered"):
            Keyring.load(path, SITES["hospital_c"], in_transit=True)


def test_the_key_holders_own_ring_takes_nothing_in(consortium: Keyring) -> None:
    with pytest.raises(KeyringError, match="this is the key holder's own ring: import into another file"):
        consortium.accept(consortium.granted("hospital_b"))


def test_the_key_holder_has_a_public_name(consortium: Keyring) -> None:
    name = consortium.trail.holder_fingerprint()
    assert consortium.granted("hospital_b").trail.holder_fingerprint() == name
    assert len(name) == 29 and name != Keyring.create().trail.holder_fingerprint()


def test_what_a_trail_says_is_not_changed_in_place(consortium: Keyring) -> None:
    trail = consortium.trail
    for said, name in ((trail, "signature"), (trail.lines[0], "who"), (consortium.members["hospital_a"], "versions")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(said, name, "")


@pytest.mark.parametrize("field", ["when", "action", "who", "recipient", "chain", "fingerprints", "number", "versions"])
def test_a_line_with_something_else_in_a_field_is_no_line(field: str) -> None:
    data = json.loads(json.dumps(STORY.to_json()))
    assert Trail.from_json(data) == STORY
    data["lines"][1][field] = [{}] if field in ("fingerprints", "versions") else {}
    with pytest.raises(ValueError, match="not a"):
        Trail.from_json(data)


def test_a_site_without_a_grant_was_not_revoked_because_another_was(consortium: Keyring) -> None:
    consortium.rotate()
    consortium.revoke("hospital_b")
    with pytest.raises(KeyringError, match="'hospital_x' has no grant: sites with one are hospital_a, hospital_c"):
        consortium.revoke("hospital_x")
    with pytest.raises(KeyringError, match="'hospital_b' was revoked already"):
        consortium.revoke("hospital_b")


def test_a_model_with_a_sites_name_takes_nothing_from_the_site(consortium: Keyring) -> None:
    consortium.record_relock("hospital_b", 1)
    assert set(consortium.members) == set(SITES)
