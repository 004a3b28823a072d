"""Identities, public keys, and age files as bytes."""

import copy
import hmac
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infl.errors import FileError, InflError, KeyringError, SettingsError
from infl.keys import Identity, decrypt, encrypt
from infl.keys.derive import OWN_LABELS
from infl.keys.identity import own_path, public_identities, public_keys

# a pair published with age (https://github.com/FiloSottile/age), in a file as age-keygen writes it
PUBLISHED = """# created: 2021-01-02T15:30:45+01:00
# public key: age1cy0su9fwf3gf9mw868g5yut09p6nytfmmnktexz2ya5uqg9vl9sss4euqm
AGE-SECRET-KEY-184JMZMVQH3E6U0PSL869004Y3U2NYV7R30EU99CSEDNPH02YUVFSZW44VU
"""
PUBLIC = "age1cy0su9fwf3gf9mw868g5yut09p6nytfmmnktexz2ya5uqg9vl9sss4euqm"


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_a_file_of_age_keygen_is_read(tmp_path: Path) -> None:
    assert Identity.load(write(tmp_path / "key.txt", PUBLISHED)).public == PUBLIC


def test_identities_are_equal_where_their_keys_are_whichever_stands_first(tmp_path: Path, me: Identity) -> None:
    published = Identity.load(write(tmp_path / "key.txt", PUBLISHED))
    assert published == Identity.load(tmp_path / "key.txt")
    assert (published == me, me == published, me == PUBLIC) == (False, False, False)


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_an_identity_comes_back_from_its_file(
    tmp_path: Path, me: Identity, passphrase: str | None, monkeypatch: pytest.MonkeyPatch, age_by_hand: Callable
) -> None:
    monkeypatch.setattr(
        "infl.keys.age.encrypt_under", age_by_hand
    )  # tests/keys/test_files.py stretches a passphrase for real
    path = me.save(tmp_path / "me.key", passphrase)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"AGE-SECRET-KEY-" in path.read_bytes()) == (passphrase is None)
    assert Identity.load(path, passphrase) == me
    assert os.listdir(tmp_path) == ["me.key"]


def test_an_identity_under_a_passphrase_needs_it(tmp_path: Path, age_by_hand: Callable) -> None:
    path = write(tmp_path / "me.key", age_by_hand(PUBLISHED.encode(), "correct horse"))
    assert Identity.load(path, "correct horse").public == PUBLIC
    with pytest.raises(KeyringError, match="me.key: wrong passphrase"):
        Identity.load(path, "wrong")
    with pytest.raises(KeyringError, match="me.key is under a passphrase: give it"):
        Identity.load(path)


def test_the_public_key_file_has_the_public_key_and_may_be_read(tmp_path: Path, me: Identity) -> None:
    path = me.save_public(tmp_path / "hospital_b.pub")
    assert (
        path.read_text() == f"{me.public} ed25519:{me.verifier}\n" == f"{me.public_line}\n"
        and stat.S_IMODE(path.stat().st_mode) == 0o644
    )
    assert public_keys(path) == public_keys(str(path)) == public_keys(me) == public_keys([me, path]) == [me.public]


def test_files_that_exist_are_kept(tmp_path: Path, me: Identity) -> None:
    path = write(tmp_path / "x", "mine")
    for save in (me.save, me.save_public):
        with pytest.raises(FileError, match="exists"):
            save(path)
    assert path.read_text() == "mine"
    me.save(path, overwrite=True)
    assert Identity.load(path) == me


def test_repr_shows_the_public_key_only_and_copies_are_refused(me: Identity) -> None:
    assert repr(me) == f"Identity({me.public})"
    assert hash(me) == hash(Identity._from_text(str(me._secret)))
    assert me != Identity.create() and me != "me"
    for copying in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(KeyringError, match="not pickled or copied"):
            copying(me)
    with pytest.raises(TypeError, match=r"Identity\.create\(\)"):
        Identity()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_an_identity_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "me.key", PUBLISHED, mode)
    with pytest.raises(KeyringError, match=f"{path} can be read by others: chmod 600 {path}"):
        Identity.load(path)


@pytest.mark.parametrize(
    "content",
    ["", "hello", PUBLISHED + PUBLISHED, PUBLISHED.replace("ZW44VU", "ZW44VV"), PUBLISHED[:-20], b"\xff\xfe\0", PUBLIC],
    ids=["empty", "text", "two keys", "altered", "cut off", "bytes", "public key"],
)
def test_what_is_no_identity_is_refused_without_repeating_it(tmp_path: Path, content: str | bytes) -> None:
    path = write(tmp_path / "me.key", content)
    with pytest.raises(
        FileError, match="not an identity file, or damaged: make one with `infl key identity NAME`"
    ) as e:
        Identity.load(path)
    assert "SECRET" not in str(e.value) and e.value.__context__ is None


def test_a_key_ring_is_no_identity(tmp_path: Path, me: Identity) -> None:
    path = write(tmp_path / "ring.key", encrypt(b"ring", recipients=me))
    with pytest.raises(FileError, match="not an identity file"):
        Identity.load(path)


def test_a_missing_identity_and_a_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot read .*no.key: No such file"):
        Identity.load(tmp_path / "no.key")
    with pytest.raises(FileError, match="cannot read .*directory"):
        Identity.load(tmp_path)


def test_a_secret_given_in_place_of_a_path_is_not_repeated() -> None:
    secret = PUBLISHED.splitlines()[-1]
    for use in (
        lambda: Identity.load(secret),
        lambda: public_keys(secret),
        lambda: public_keys([PUBLIC, secret.lower()]),
    ):
        with pytest.raises(KeyringError, match="a private key was given in place of") as error:
            use()
        assert secret[:20].lower() not in str(error.value).lower()


@pytest.mark.parametrize(
    "text",
    ["age1", "hello", "", PUBLIC[:-1] + "n", f"{PUBLIC}\nnonsense", "ssh-ed25519 AAAAC3Nz", b"\xff\0".decode("latin1")],
)
def test_what_is_no_public_key_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "site.pub", text, 0o644)
    with pytest.raises(KeyringError, match=r"site.pub is not an age public key \(age1…\): make a pair with"):
        public_keys(path)


def test_a_private_key_where_a_public_one_belongs_is_named_as_that(tmp_path: Path) -> None:
    path = write(tmp_path / "site.pub", PUBLISHED)
    with pytest.raises(KeyringError, match=r"holds a private key: give the public one, NAME\.pub"):
        public_keys(path)


def test_public_keys_need_a_file_or_a_key(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read the public key .*no\.pub: No such file"):
        public_keys(tmp_path / "no.pub")
    with pytest.raises(KeyringError, match="age1nonsense is not an age public key"):
        public_keys("age1nonsense")
    with pytest.raises(SettingsError, match="recipients is empty, so nobody could open the file"):
        public_keys([])


def test_a_recipient_file_may_have_comments_and_several_keys(tmp_path: Path, me: Identity) -> None:
    path = write(tmp_path / "sites.pub", f"# the consortium\n{PUBLIC}\n\n  {me.public}  \n", 0o644)
    assert public_keys(path) == [PUBLIC, me.public]


def test_bytes_open_for_their_recipients_and_nobody_else(me: Identity) -> None:
    other = Identity.create()
    content = encrypt(b"cohort", recipients=[me.public, other])
    assert decrypt(content, identity=me) == decrypt(content, identity=other) == b"cohort"
    stranger = Identity.create()
    with pytest.raises(
        KeyringError, match=f"model was not made for the identity {stranger.public}: name the right one"
    ):
        decrypt(content, identity=stranger, source="model")


def test_what_age_wrote_we_open_and_the_other_way_round(me: Identity, age_by_hand: Callable) -> None:
    assert pyrage.decrypt(encrypt(b"x", recipients=me), [me._secret]) == b"x"
    assert decrypt(age_by_hand(b"x", "p q"), passphrase="p q") == b"x"


def test_recipients_or_a_passphrase_one_of_the_two(me: Identity) -> None:
    for both in ({}, {"recipients": me, "passphrase": "x"}):
        with pytest.raises(SettingsError, match="give recipients or a passphrase, one of the two"):
            encrypt(b"x", **both)
    with pytest.raises(KeyringError, match="passphrase is empty"):
        encrypt(b"x", passphrase="")


def test_what_is_no_age_file_is_said_to_be_none(me: Identity) -> None:
    for content in (b"", b"PK\3\4", b"age-encryption.org/v2\n-> "):
        with pytest.raises(FileError, match="model is not an age file"):
            decrypt(content, identity=me, source="model")


# -- signatures ------------------------------------------------------------------------------------------------------
def test_an_identity_file_of_any_age_signs_and_no_other_does(tmp_path: Path, me: Identity) -> None:
    """The signing key follows from what age-keygen wrote: old files need no change, and give the same key each time."""
    old = Identity.load(write(tmp_path / "key.txt", PUBLISHED))
    assert old.verifier == Identity.load(tmp_path / "key.txt").verifier != me.verifier
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(old.verifier))
    key.verify(old.sign(b"statement"), b"statement")
    for forged in (me.sign(b"statement"), old.sign(b"statement "), bytes(64)):
        with pytest.raises(InvalidSignature):
            key.verify(forged, b"statement")


def test_the_signing_key_is_hkdf_of_the_private_key_written_out(tmp_path: Path) -> None:
    identity = Identity.load(write(tmp_path / "key.txt", PUBLISHED))
    secret = PUBLISHED.splitlines()[-1].encode()
    extracted = hmac.digest(bytes(32), secret, "sha256")
    seed = hmac.digest(extracted, b"infl/1/identity/sign\x01", "sha256")
    assert Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw().hex() == identity.verifier
    assert identity.subkey("sign") == seed
    assert len({identity.subkey(use, salt=salt) for use in OWN_LABELS for salt in (b"", b"run")}) == 2 * len(OWN_LABELS)
    with pytest.raises(KeyringError, match="no subkey of an identity is called 'seal'"):
        identity.subkey("seal")


def test_a_public_file_of_infl_0_1_has_no_verifier(tmp_path: Path, me: Identity) -> None:
    old = write(tmp_path / "old.pub", f"{me.public}\n", 0o644)
    assert public_identities(old) == public_identities(me.public) == [(me.public, "")]
    assert (
        public_identities(me.save_public(tmp_path / "new.pub")) == public_identities(me) == [(me.public, me.verifier)]
    )


@pytest.mark.parametrize(
    "rest", ["ed25519:", "ed25519:00", "ed25519:" + "g" * 64, "ed25519:" + "A" * 64, "more", "a b"]
)
def test_a_public_line_with_something_else_in_it_is_refused(me: Identity, rest: str) -> None:
    with pytest.raises(KeyringError, match="is not an age public key"):
        public_keys(f"{me.public} {rest}")


# -- the user's own identity -----------------------------------------------------------------------------------------
def test_ones_own_identity_is_made_once_and_said(own_identity: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyringError, match=f"you have no identity at {own_identity}: make one with"):
        Identity.own()
    assert not own_identity.parent.exists()
    mine = Identity.own(create=True)
    assert [r.getMessage().startswith(f"made your identity {own_identity}") for r in caplog.records] == [True]
    assert "SECRET" not in caplog.text
    assert Identity.own() == Identity.own(create=True) == mine
    assert len(caplog.records) == 1
    assert stat.S_IMODE(own_identity.stat().st_mode) == 0o600
    assert stat.S_IMODE(own_identity.parent.stat().st_mode) == 0o700


def test_ones_own_identity_is_made_in_a_folder_that_is_there(own_identity: Path) -> None:
    own_identity.parent.mkdir()
    assert Identity.own(create=True) == Identity.load(own_identity)


def test_an_identity_made_meanwhile_by_another_process_is_used(
    own_identity: Path, monkeypatch: pytest.MonkeyPatch, me: Identity
) -> None:
    create = Identity.create

    def slowly() -> Identity:
        me.save(own_identity)  # the other process is quicker
        return create()

    monkeypatch.setattr(Identity, "create", slowly)
    assert Identity.own(create=True) == me == Identity.own()


def test_a_file_without_an_identity_to_open_it_says_where_it_was_looked_for(own_identity: Path, me: Identity) -> None:
    with pytest.raises(KeyringError, match=f"model opens with an identity: name its file, .* none at {own_identity}"):
        decrypt(encrypt(b"x", recipients=me), source="model")
    mine = Identity.own(create=True)
    assert decrypt(encrypt(b"x", recipients=mine)) == b"x"


def test_own_path_follows_the_settings_then_the_configuration_folder(
    own_identity: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import infl

    assert own_path() == own_identity
    monkeypatch.setattr(infl.settings, "identity", None)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert own_path() == tmp_path / "xdg/infl/identity.key"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert own_path() == tmp_path / "home/.config/infl/identity.key"


def test_an_own_identity_that_cannot_be_written_is_one_line(own_identity: Path) -> None:
    own_identity.parent.parent.joinpath("config").write_text("in the way")
    with pytest.raises(InflError, match="cannot make the folder"):
        Identity.own(create=True)
