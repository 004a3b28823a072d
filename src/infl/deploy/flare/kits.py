"""Enrolment: a site makes its own private key, which never leaves it; the coordinator signs its request.

FLARE's distributed provisioning does the work (``nvflare cert``, ``nvflare package``). What is added here: folders of fixed
shape, fingerprints to compare, and settings that let a job name infl's two classes and nothing else, and bring no code.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from infl._files import explained, parse_json, read_own, write_atomic
from infl.deploy.flare import CONTROLLER_CLASS, EXECUTOR_CLASS, authority, require_flare
from infl.deploy.flare.commands import nvflare
from infl.deploy.flare.consortium import Consortium, consortium_of
from infl.deploy.flare.enrolment import (
    SITE_NAME_PATTERN,
    Request,
    check_answer,
    check_request,
    entry_of,
    groups,
    read_register,
    read_request,
    without,
    write_register,
)
from infl.deploy.folders import age, alone
from infl.deploy.security_log import coordinator_log
from infl.errors import FederationError, FileError, SettingsError

ADMIN_NAME = "coordinator@infl.local"
LARGEST_LOG, LOGS = 5 << 20, 3
"""Bytes of a log, and how many older ones are kept."""
SEEN = "seen.json"
"""File in a coordinator's folder that has when each site was last connected."""
REVOKED = "disabled_clients.json"
"""File in a server's kit with the names that FLARE refuses."""


def init_coordinator(home: Path, consortium: Consortium) -> str:
    """Make a coordinator's folder: certificate authority, server kit, admin kit; return the authority's fingerprint."""
    require_flare()
    if (home / "ca").exists():
        raise FileError(f"{home} is a coordinator already: choose another folder")
    with explained(home, "make"):
        home.mkdir(parents=True, exist_ok=True)
    write_atomic(home / "consortium.json", json.dumps(asdict(consortium), indent=1).encode(), overwrite=True)
    write_atomic(home / "profile.yml", consortium.profile().encode(), overwrite=True)
    authority.make(home)
    for name, kind, kit in ((consortium.host, "server", "kit"), (ADMIN_NAME, "admin", "admin")):
        request = _request(home, consortium, name, kind)
        signed = authority.sign(home, request, home / f"{name}.signed.zip", consortium.valid_days)
        _package(home, signed, kit, _fingerprint(home / "ca" / "rootCA.pem"))
        signed.unlink()
    _restrict(home / "kit", "server")
    fingerprint = _fingerprint(home / "ca" / "rootCA.pem")
    coordinator_log(home).note("made", authority=fingerprint)
    return fingerprint


def enrol(home: Path, name: str, consortium: Consortium, *, renew: bool = False) -> tuple[Path, str]:
    """Make a site's key and request; return the request file and the key's fingerprint.

    With `renew`, a site that is enrolled makes a new key; the old certificate serves until the new one is installed.
    """
    require_flare()
    if not SITE_NAME_PATTERN.fullmatch(name):
        raise SettingsError(f"site {name!r}: use letters, digits, '_' and '-'")
    if renew and not (home / "kit").exists():
        raise FileError(f"{home} has no certificate to renew: leave --renew out")
    if renew:
        shutil.rmtree(home / "request", ignore_errors=True)
    if (home / "request").exists():
        raise FileError(f"{home} has a request already: send it, or choose another folder with --home")
    with explained(home, "make"):
        home.mkdir(parents=True, exist_ok=True)
    write_atomic(home / "consortium.json", json.dumps(asdict(consortium), indent=1).encode(), overwrite=True)
    made = _request(home, consortium, name, "client")
    request = Path(shutil.copy(made, home / f"{name}.request.zip"))
    return request, read_request(request).fingerprint


def asked(home: Path, path: Path, *, renew: bool = False) -> Request:
    """Return what a request asks for, if it can be granted; signs nothing.

    Raises
    ------
    FederationError
        The request is damaged, for no site, or for a site that is enrolled (without `renew`).
    """
    request = read_request(path)
    consortium, out = consortium_of(home), revoked(home)
    register = [replace(entry, revoked=entry.revoked or entry.name in out) for entry in read_register(home)]
    try:
        check_request(request, path, register, (consortium.host, consortium.name, ADMIN_NAME), renew=renew)
    except FederationError as error:
        coordinator_log(home).note("refused", request=request.name, key=request.fingerprint, why=str(error))
        raise
    return request


def approve(
    home: Path,
    path: Path,
    *,
    expected: Request | None = None,
    renew: bool = False,
    valid_days: int | None = None,
    ca: Path | None = None,
) -> tuple[Path, Request]:
    """Sign a site's request; return the file to send back, and what was signed.

    Parameters
    ----------
    home, path
        The coordinator's folder, and the request.
    expected
        What people compared; anything else is not signed.
    renew
        The site is enrolled, and gets a new certificate.
    valid_days
        Of the certificate (None: as the consortium has it).
    ca
        Folder with the authority's key, where that is not kept on this machine (None: ``ca`` in the coordinator's folder).

    Raises
    ------
    FederationError
        As :func:`asked`; the request is for another consortium, or another than was expected.
    """
    require_flare()
    with alone(home / "ca", wait=0), tempfile.TemporaryDirectory(dir=home) as work:
        with explained(path, "read"):
            copy = Path(shutil.copyfile(path, Path(work) / path.name))  # what is read is what is signed
        request = asked(home, copy, renew=renew)
        if expected not in (None, request):
            raise FederationError(f"the file changed after its fingerprint was shown: ask who sent {request.name!r}")
        days = valid_days or consortium_of(home).valid_days
        made = authority.sign(home, copy, Path(work) / f"{request.name}.signed.zip", days, ca)
        entry = entry_of(made)
        if (entry.name, entry.key) != (request.name, request.fingerprint):
            raise FederationError("nvflare signed another name or key than was asked for: nothing was enrolled")
        coordinator_log(home).note(
            "enrolled", name=entry.name, key=entry.key, certificate=entry.certificate, renew=renew
        )
        write_register(home, [*read_register(home), entry])
        return made.replace(home / made.name), request


def install(home: Path, approved: Path, fingerprint: str) -> Path:
    """Make a site's kit of its own key and the signed certificate, if the authority has the fingerprint that was read out by phone.

    Raises
    ------
    FederationError
        Another authority signed it, or it is not for this site's request.
    """
    require_flare()
    check_answer(home / "request", approved, fingerprint)
    if not (home / "kit").exists():
        kit = _package(home, approved, "kit", fingerprint)
        _restrict(kit, "client")
        return kit
    if _key_of(home / "kit") in {path.read_bytes() for path in (home / "request").glob("*/*.key")}:
        raise FileError(f"{home / 'kit'} is installed already; `infl site enrol NAME --renew` asks for a new one")
    return _replace_startup(home, approved, "kit", fingerprint)


def renew_coordinator(home: Path, ca: Path | None = None, *, rotate: bool = False) -> str:
    """Make new keys and certificates for the coordinator's server and administrator; `ca` as in :func:`approve`.

    With `rotate` there is a new authority, too: the old one is put aside, and every site needs a new certificate. Returns the
    authority's fingerprint.

    Raises
    ------
    SettingsError
        Both `ca` and `rotate`.
    FederationError
        FLARE could not make them.
    """
    require_flare()
    if rotate and ca is not None:
        raise SettingsError(
            f"--authority makes a new authority in {home / 'ca'}: leave --ca out, and move the new key away afterwards"
        )
    consortium, before = consortium_of(home), _fingerprint(home / "ca" / "rootCA.pem")
    if rotate:
        authority.rotate(home, before[:8])
    fingerprint = _fingerprint(home / "ca" / "rootCA.pem")
    for name, kind, kit in ((consortium.host, "server", "kit"), (ADMIN_NAME, "admin", "admin")):
        shutil.rmtree(home / "request" / name, ignore_errors=True)
        request = _request(home, consortium, name, kind)
        signed = authority.sign(home, request, home / f"{name}.signed.zip", consortium.valid_days, ca)
        _replace_startup(home, signed, kit, fingerprint)
        signed.unlink()
    coordinator_log(home).note("renewed", name=consortium.host, authority=fingerprint)
    return fingerprint


def revoke(home: Path, name: str) -> None:
    """Shut a site out, whatever certificates it has: the server refuses its name from the next start on.

    Raises
    ------
    FederationError
        No site of this name was enrolled here.
    """
    with alone(home / "ca"):
        register = without(read_register(home), name)
        coordinator_log(home).note("revoked", name=name)
        out = sorted({entry.name for entry in register if entry.revoked} | set(revoked(home)))
        write_atomic(home / "kit" / REVOKED, json.dumps({"disabled_clients": out}).encode(), overwrite=True)
        write_register(home, register)


def revoked(home: Path) -> tuple[str, ...]:
    """Return which sites are shut out."""
    path = home / "kit" / REVOKED
    if not path.exists():
        return ()
    build = TypeAdapter(dict[str, tuple[str, ...]]).validate_python
    return read_own(path, build, "put it back from a backup: it says who is shut out").get("disabled_clients", ())


def members(home: Path, *, now: float | None = None) -> list[str]:
    """Return a line for each site that is enrolled, of its last certificate."""
    now, out = time.time() if now is None else now, revoked(home)
    consortium_of(home)
    seen: dict[str, float] = {}
    with suppress(OSError, ValueError, TypeError, AttributeError):
        seen = {site: float(at) for site, at in parse_json((home / SEEN).read_text()).items()}
    rows = []
    for entry in {entry.name: entry for entry in read_register(home)}.values():
        valid = f"valid for {(entry.until - now) / 86_400:.0f} days" if entry.until else "valid until nobody noted when"
        if entry.until and entry.until <= now:
            valid = f"expired {(now - entry.until) / 86_400:.0f} days ago"
        state = "shut out" if entry.revoked or entry.name in out else valid
        last = f"seen {age(now - seen[entry.name])} ago" if entry.name in seen else "not seen yet"
        rows.append(f"{entry.name:<24} {state:<20} {last:<16} {entry.key}")
    return rows


def days_left(kit: Path) -> float:
    """Return for how many days a kit's certificate is valid."""
    return days_of(next((kit / "startup").glob("*.crt"), kit / "startup" / "client.crt"))


def days_of(path: Path) -> float:
    """Return for how many days a certificate is valid."""
    from cryptography import x509

    with explained(path, "read"):
        content = path.read_bytes()
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError:
        raise FileError(f"{path} is no certificate: put it back from a backup, or renew it") from None
    return (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86400


# -- underneath --------------------------------------------------------------------------------------------------------
def _request(home: Path, consortium: Consortium, name: str, kind: str) -> Path:
    folder = home / "request" / name
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    definition = home / "request" / f"{name}.yml"
    write_atomic(definition, consortium.participant(name, kind).encode(), overwrite=True)
    nvflare(home, "cert", "request", "-p", definition, "--out", folder)
    return folder / f"{name}.request.zip"


def _package(home: Path, signed: Path, kit: str, fingerprint: str) -> Path:
    if (home / kit).exists():
        raise FileError(f"{home / kit} exists: the kit is installed already")
    name = entry_of(signed).name
    with tempfile.TemporaryDirectory(dir=home) as work:
        nvflare(
            home, "package", signed, "--request-dir", home / "request" / name, "-w", work,
            "--fingerprint", fingerprint.replace(" ", ""),
        )  # fmt: skip
        made = next(Path(work).glob(f"*/prod_*/{name}"))
        made.rename(home / kit)
    return home / kit


def _replace_startup(home: Path, signed: Path, kit: str, fingerprint: str) -> Path:
    """Put new keys and certificates into a kit; its local settings stay."""
    made = _package(home, signed, f"{kit}.new", fingerprint)
    old = home / kit / "startup"
    old.rename(made / "old")
    (made / "startup").rename(old)
    shutil.rmtree(made)
    return home / kit


def _key_of(kit: Path) -> bytes:
    with explained(kit, "read"):
        return next((kit / "startup").glob("*.key"), kit / "startup" / "client.key").read_bytes()


def _restrict(kit: Path, role: str) -> None:
    """Write a participant's local settings: infl's class only, no code in jobs, no logs sent, all files in the kit."""
    local = kit / "local"
    resources = json.loads((local / "resources.json.default").read_text())
    resources |= {"class_allow_list": [CONTROLLER_CLASS if role == "server" else EXECUTOR_CLASS]}
    resources |= {"class_list_enforcement_mode": "enforce", "allow_log_streaming": False}
    left_out = {"site_log_streamer", "log_receiver"}
    resources["components"] = [c for c in resources["components"] if c["id"] not in left_out]
    if role == "server":
        resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str((kit / "snapshots").resolve())
        for component in resources["components"]:
            if component["id"] == "job_manager":
                component["args"]["uri_root"] = str((kit / "jobs").resolve())
    rights = json.loads((local / "authorization.json.default").read_text())
    for permissions in rights["permissions"].values():
        if isinstance(permissions, dict):
            permissions |= {"byoc": "none", "shell_commands": "none", "app_command": "n:submitter"}
    rights["permissions"]["project_admin"] = rights["permissions"]["lead"]
    logs = _logs(json.loads((local / "log_config.json.default").read_text()))
    for name, content in (("resources", resources), ("authorization", rights), ("log_config", logs)):
        write_atomic(local / f"{name}.json", json.dumps(content, indent=1).encode(), overwrite=True)


def _logs(config: dict[str, Any]) -> dict[str, Any]:
    """Return FLARE's logging with files that stay small, for people (``log.txt``) and machines (``log.json``); nothing is printed."""
    root = config["loggers"]["root"]
    root["handlers"] = ["logFileHandler", "errorFileHandler", "jsonFileHandler"]
    config["handlers"] = {name: config["handlers"][name] for name in root["handlers"]}
    for handler in config["handlers"].values():
        handler |= {"maxBytes": LARGEST_LOG, "backupCount": LOGS}
    return config


def _fingerprint(certificate: Path) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    content = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(Encoding.DER)
    return groups(content)
