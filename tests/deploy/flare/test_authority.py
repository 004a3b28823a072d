"""The authority's key under a passphrase, and another authority in place of the first."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from infl.cli.app import app
from infl.deploy.flare import authority, kits
from infl.deploy.flare.authority import PASSPHRASE
from infl.deploy.flare.consortium import Consortium
from infl.errors import FederationError, FileError, SettingsError

CONSORTIUM = Consortium("con", "localhost")


def test_a_key_under_a_passphrase_signs_with_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    home = tmp_path / "coordinator"
    kits.init_coordinator(home, CONSORTIUM)
    key = home / "ca" / "rootCA.key"
    assert key.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY")
    assert key.stat().st_mode & 0o777 == 0o600
    request, _ = kits.enrol(tmp_path / "a", "hospital_a", CONSORTIUM)
    monkeypatch.setenv(PASSPHRASE, "battery staple")
    with pytest.raises(FileError, match=r"rootCA\.key does not open with the passphrase in INFL_CA_PASSPHRASE"):
        kits.approve(home, request)
    monkeypatch.delenv(PASSPHRASE)
    with pytest.raises(FileError, match=r"rootCA\.key is under a passphrase: give it in .* INFL_CA_PASSPHRASE"):
        kits.approve(home, request)
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    assert kits.approve(home, request)[0].exists()
    with authority._opened(home / "ca") as usable:
        assert usable != home / "ca" and b"ENCRYPTED" not in (usable / "rootCA.key").read_bytes()
        assert usable.stat().st_mode & 0o777 == 0o700
    assert not usable.exists()
    assert b"ENCRYPTED" in key.read_bytes()


def test_its_end_is_warned_of(tmp_path: Path) -> None:
    home = tmp_path / "coordinator"
    kits.init_coordinator(home, CONSORTIUM)
    for days, says in (
        (59, r"ok +authority +valid for 59 days: renew it soon, `infl coordinator renew --authority`"),
        (-2, r"WRONG authority +expired 2 d"),
    ):
        (home / "ca" / "rootCA.pem").write_bytes(signed(days))
        assert re.search(says, CliRunner().invoke(app, ["coordinator", "check", "--home", str(home)]).stdout)


def signed(days: int) -> bytes:
    """Return a certificate that ends in some days."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    begins, ends = datetime.now(UTC) - timedelta(days=99), datetime.now(UTC) + timedelta(days=days, hours=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begins, ends)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def test_another_authority_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """Sites get new certificates, which they install by the new fingerprint; what the old authority signed is worth nothing then."""
    home, site = tmp_path / "coordinator", tmp_path / "a"
    before = kits.init_coordinator(home, CONSORTIUM)
    request, _ = kits.enrol(site, "hospital_a", CONSORTIUM)
    kits.install(site, kits.approve(home, request)[0], before)
    done = CliRunner().invoke(app, ["coordinator", "renew", "--authority", "--home", str(home)])
    assert done.exit_code == 0, done.output
    now = done.stdout.splitlines()[-1]
    assert now != before and "infl site enrol NAME --renew" in done.stdout
    [aside] = home.glob("ca.*")
    assert (aside / "rootCA.key").exists()
    again, _ = kits.enrol(site, "hospital_a", CONSORTIUM, renew=True)
    signed, _ = kits.approve(home, again, renew=True)
    with pytest.raises(FederationError, match="(?i)fingerprint"):
        kits.install(site, signed, before)
    kits.install(site, signed, now)
    first, second = (x509.load_pem_x509_certificate((ca / "rootCA.pem").read_bytes()) for ca in (aside, home / "ca"))
    for certificate in (site / "kit/startup/client.crt", home / "kit/startup/server.crt"):
        mine = x509.load_pem_x509_certificate(certificate.read_bytes())
        mine.verify_directly_issued_by(second)
        with pytest.raises(Exception):  # noqa: B017 - by name or by signature
            mine.verify_directly_issued_by(first)
    assert json.loads((home / "security.jsonl").read_text().splitlines()[-2])["event"] == "renewed"


def test_an_authority_that_cannot_be_made_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "rootCA.key").write_text("old")
    with pytest.raises(FederationError):
        authority.rotate(tmp_path, "1a2b")  # there is no profile.yml
    assert [p.name for p in tmp_path.iterdir()] == ["ca"]
    assert (tmp_path / "ca" / "rootCA.key").read_text() == "old"


def test_a_new_authority_is_not_made_where_another_folder_is_to_sign(tmp_path: Path) -> None:
    home, away = tmp_path / "coordinator", tmp_path / "away"
    fingerprint = kits.init_coordinator(home, CONSORTIUM)
    (home / "ca").rename(away)
    (home / "ca").mkdir()
    (home / "ca" / "rootCA.pem").write_bytes((away / "rootCA.pem").read_bytes())
    with pytest.raises(SettingsError, match=r"--authority makes a new authority in .*ca: leave --ca out"):
        kits.renew_coordinator(home, away, rotate=True)
    assert [path.name for path in (home / "ca").iterdir()] == ["rootCA.pem"]
    assert kits.renew_coordinator(home, away) == fingerprint
