"""Who gets a certificate: an insider who wants two, a stranger who wants a role, and a request that says two things."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from typer.testing import CliRunner

from infl.cli.app import app
from infl.deploy.flare import kits
from infl.deploy.flare.consortium import Consortium
from infl.deploy.flare.enrolment import read_register, read_request
from infl.deploy.flare.kits import REVOKED, approve, enrol, init_coordinator, revoke
from infl.deploy.folders import alone
from infl.errors import FederationError, FileError, InflError

CONSORTIUM = Consortium("con", "localhost")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator, and requests of two hospitals, of a server and of an administrator."""
    root = tmp_path_factory.mktemp("enrolment")
    init_coordinator(root / "coordinator", CONSORTIUM)
    for name in ("hospital_a", "hospital_b"):
        enrol(root / name, name, CONSORTIUM)
    for name, kind in (("hospital-x.local", "server"), ("hospital_y@infl.local", "admin")):
        (root / kind).mkdir()
        kits._request(root / kind, CONSORTIUM, name, kind)
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "con"))


def of(here: Path, name: str) -> Path:
    return here / name / f"{name}.request.zip"


def remade(request: Path, out: Path, **members: bytes | None) -> Path:
    """The same request with files replaced, added, or (None) left out; ``csr`` stands for its certificate request."""
    with zipfile.ZipFile(request) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for name, value in members.items():
        real = name.replace("__", ".") if name != "csr" else next(n for n in content if n.endswith(".csr"))
        content.pop(real, None) if value is None else content.update({real: value})
    with zipfile.ZipFile(out, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return out


def inside(request: Path, ending: str) -> bytes:
    with zipfile.ZipFile(request) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(ending)))


def refused(here: Path, request: Path, **options: bool) -> str:
    """The line; nothing is signed and nobody enrolled."""

    def now() -> object:
        files = sorted(p for p in (here / "coordinator").rglob("*") if p.name != "lock")
        return files, read_register(here / "coordinator")

    before = now()
    with pytest.raises(InflError) as error:
        approve(here / "coordinator", request, **options)
    assert now() == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_site_is_enrolled_once(here: Path) -> None:
    home, request = here / "coordinator", of(here, "hospital_a")
    signed, said = approve(home, request)
    assert signed == home / "hospital_a.signed.zip" and (said.name, said.role) == ("hospital_a", "client")
    (entry,) = read_register(home)
    assert (entry.name, entry.key, entry.revoked) == ("hospital_a", said.fingerprint, False)
    assert "is enrolled already" in refused(here, request)
    assert "nothing to renew" in refused(here, of(here, "hospital_b"), renew=True)
    assert approve(home, request, renew=True)[1] == said
    assert [entry.name for entry in read_register(home)] == ["hospital_a"] * 2


def test_a_site_is_told_what_is_wrong_with_what_came_back(here: Path, tmp_path: Path) -> None:
    home, digits = here / "hospital_a", "0" * 64
    signed, _ = approve(here / "coordinator", of(here, "hospital_b"))
    for file, fingerprint, said in (
        (signed, "b4768d21", "fingerprint='b4768d21': give all 64 digits and letters"),
        (signed, "xyz " * 16, "give all 64 digits and letters"),
        (signed, digits, "is for hospital_b, and hospital_a asked here: have its own file sent"),
        (tmp_path / "gone.signed.zip", digits, r"gone\.signed\.zip does not exist"),
        (of(here, "hospital_a"), digits, "holds no certificate"),
    ):
        with pytest.raises(InflError, match=said):
            kits.install(home, file, fingerprint)


def test_an_insider_does_not_become_two(here: Path, tmp_path: Path) -> None:
    approve(here / "coordinator", of(here, "hospital_a"))
    enrol(tmp_path / "again", "hospital_a", CONSORTIUM)
    assert "second 'hospital_a'" in refused(here, tmp_path / "again" / "hospital_a.request.zip")
    enrol(tmp_path / "case", "Hospital_A", CONSORTIUM)
    assert "but for case" in refused(here, tmp_path / "case" / "Hospital_A.request.zip")
    same_key(here, tmp_path)
    assert "is that of 'hospital_a'" in refused(here, tmp_path / "hospital_c.request.zip")


def same_key(here: Path, tmp_path: Path) -> None:
    """A request of hospital_c with the key of hospital_a."""
    script = f"""
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
key = serialization.load_pem_private_key(open({str(next((here / "hospital_a").rglob("*.key")))!r}, "rb").read(), None)
old = x509.load_pem_x509_csr(open({str(next((here / "hospital_a").rglob("*.csr")))!r}, "rb").read())
names = [x509.NameAttribute(a.oid, "hospital_c" if a.value == "hospital_a" else a.value) for a in old.subject]
new = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).sign(key, hashes.SHA256())
print(new.public_bytes(serialization.Encoding.PEM).decode())
"""
    content = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.strip() + b"\n"
    said = json.loads(inside(of(here, "hospital_a"), "request.json")) | {"name": "hospital_c"}
    remade(
        of(here, "hospital_a"),
        tmp_path / "hospital_c.request.zip",
        hospital_a__csr=None,
        hospital_c__csr=content,
        request__json=json.dumps(said).encode(),
    )


@pytest.mark.parametrize(("kind", "name"), [("server", "hospital-x.local"), ("admin", "hospital_y@infl.local")])
def test_sites_alone_are_enrolled(here: Path, kind: str, name: str) -> None:
    request = here / kind / "request" / name / f"{name}.request.zip"
    assert "sites alone" in refused(here, request)
    said = json.loads(inside(request, "request.json")) | {"cert_type": "client", "kind": "site", "cert_role": None}
    assert "describes another" in refused(
        here, remade(request, here / request.name, request__json=json.dumps(said).encode())
    )


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST"])
def test_the_coordinators_own_names_are_taken(here: Path, name: str) -> None:
    enrol(here / "evil", name, CONSORTIUM)
    assert "no site can have" in refused(here, here / "evil" / f"{name}.request.zip")


def test_what_is_shown_is_what_is_inside(here: Path) -> None:
    other = shutil.copy(of(here, "hospital_b"), here / "hospital_a.request.zip")
    assert "request of 'hospital_b'" in refused(here, Path(other))
    swapped = remade(
        of(here, "hospital_a"), here / "hospital_a.request.zip", csr=inside(of(here, "hospital_b"), ".csr")
    )
    assert "describes another" in refused(here, swapped)
    b = of(here, "hospital_b")
    for wrong in (
        {"hospital_b__csr": inside(b, ".csr")},
        {"more__txt": b""},
        {"site__yaml": None},
        {"csr": b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"},
        {"request__json": b"[1]"},
        {"request__json": b"{"},
    ):
        assert "is not a request" in refused(
            here, remade(of(here, "hospital_a"), here / "hospital_a.request.zip", **wrong)
        )
    (here / "hospital_a.request.zip").write_bytes(b"PK")
    assert "is not a request" in refused(here, here / "hospital_a.request.zip")
    with pytest.raises(FileError, match=re.escape(r"'a\x1b[2J.request.zip' does not exist")):
        read_request(here / "a\x1b[2J.request.zip")


def test_another_file_than_was_compared_is_not_signed(here: Path) -> None:
    compared = read_request(of(here, "hospital_b"))
    with pytest.raises(FederationError, match="changed after its fingerprint"):
        approve(here / "coordinator", of(here, "hospital_a"), expected=compared)
    assert read_register(here / "coordinator") == []


def test_a_revoked_site_stays_out_whatever_files_are_called(here: Path) -> None:
    home = here / "coordinator"
    approve(home, of(here, "hospital_a"))
    (home / "hospital_a.signed.zip").rename(home / "hospital_z.signed.zip")
    with pytest.raises(FederationError, match="'hospital_z' was not enrolled here: there are hospital_a"):
        revoke(home, "hospital_z")
    revoke(home, "hospital_a")
    revoke(home, "hospital_a")
    assert json.loads((home / "kit" / REVOKED).read_text()) == {"disabled_clients": ["hospital_a"]}
    for renew in (False, True):
        assert "was revoked" in refused(here, of(here, "hospital_a"), renew=renew)


def test_a_coordinator_of_version_0_1_has_a_register_of_its_files(here: Path) -> None:
    home = here / "coordinator"
    approve(home, of(here, "hospital_a"))
    entries = read_register(home)
    (home / "members.json").unlink()
    assert read_register(home) == entries
    assert "is enrolled already" in refused(here, of(here, "hospital_a"))


def test_the_command_shows_the_name_inside(here: Path) -> None:
    def typed(*arguments: str) -> object:
        return CliRunner().invoke(
            app, ["coordinator", "approve", "--home", str(here / "coordinator"), *arguments], input="n\n"
        )

    request = of(here, "hospital_a")
    result = typed(str(request))
    assert "hospital_a asks to be enrolled" in result.stdout and read_request(request).fingerprint in result.stdout
    assert isinstance(result.exception, FederationError) and read_register(here / "coordinator") == []
    result = typed(str(shutil.copy(of(here, "hospital_b"), here / "hospital_a.request.zip")), "--yes")
    assert isinstance(result.exception, FederationError) and read_register(here / "coordinator") == []


@pytest.mark.parametrize("name", ["server", "admin", "All", "rootCA", "con"])
def test_names_that_mean_somebody_else_to_flare(here: Path, name: str) -> None:
    enrol(here / "evil", name, CONSORTIUM)
    assert "no site can have" in refused(here, here / "evil" / f"{name}.request.zip")


def test_a_site_that_was_revoked_before_there_was_a_register(here: Path) -> None:
    home = here / "coordinator"
    approve(home, of(here, "hospital_a"))
    revoke(home, "hospital_a")
    (home / "members.json").unlink()
    assert "was revoked" in refused(here, of(here, "hospital_a"), renew=True)


def test_one_request_at_a_time(here: Path) -> None:
    with alone(here / "coordinator" / "ca"), pytest.raises(FileError, match="in use by another process"):
        approve(here / "coordinator", of(here, "hospital_a"))


def test_the_authoritys_key_need_not_be_on_the_coordinator(here: Path, tmp_path: Path) -> None:
    home, safe = here / "coordinator", tmp_path / "safe"
    shutil.copytree(home / "ca", safe)
    (home / "ca" / "rootCA.key").unlink()
    with pytest.raises(FileError, match=r"ca has no rootCA\.key, which signs: name the folder that has it with --ca"):
        approve(home, of(here, "hospital_a"))
    assert read_register(home) == []
    other = tmp_path / "other"
    shutil.copytree(safe, other)
    (other / "rootCA.pem").write_bytes(b"another")
    with pytest.raises(FederationError, match="is another authority than"):
        approve(home, of(here, "hospital_a"), ca=other)
    command = ["coordinator", "approve", str(of(here, "hospital_a")), "--yes", "--home", str(home), "--ca", str(safe)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert [entry.name for entry in read_register(home)] == ["hospital_a"]
    assert not (home / "ca" / "rootCA.key").exists()
