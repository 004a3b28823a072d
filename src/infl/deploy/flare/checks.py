"""What can be found wrong before a run, at the coordinator and at a site; each finding says what to do."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from infl import __version__
from infl.deploy.flare.consortium import Consortium, consortium_of
from infl.deploy.flare.kits import days_left, days_of
from infl.deploy.flare.line import check_admitted
from infl.deploy.flare.proxy import connect, first_place
from infl.deploy.site_data import read_site
from infl.deploy.site_folder import SiteFolder
from infl.deploy.study.consent import SiteStudies, asks, check_data, check_policy
from infl.deploy.study.file import StudyFile, read_plan
from infl.errors import DataError, FederationError, FileError, InflError, NoRoomError, UnreachableError
from infl.models.registry import task_from_json

Finding = tuple[str, InflError | None, str]
SOON = 60
"""Days before its end from which on a certificate is worth a word."""
ROOM = 1 << 30
"""Free bytes that checkpoints, ledgers and logs of a usual run fit into."""


def check_coordinator(home: Path, run: Path | None = None) -> list[Finding]:
    """Check kit, certificate, port, disk and versions, and a run's file if there is one."""
    parts: dict[str, Callable[[], str]] = {
        "kit": lambda: _kit(home / "kit"),
        "certificate": lambda: days(home / "kit"),
        "authority": lambda: _days(days_of(home / "ca" / "rootCA.pem"), "`infl coordinator renew --authority`"),
        "port": lambda: check_port(consortium_of(home)),
        "disk": lambda: _disk(home),
        "versions": _versions,
    }
    if run is not None:
        parts["run"] = lambda: _run(run)
    return [_find(what, part) for what, part in parts.items()]


def check_site(site_folder: SiteFolder, run: Path | None = None) -> list[Finding]:
    """Check kit, certificate, connection, disk, versions, policy, data and key; the last three for a run if it is named."""
    kit = site_folder.home / "kit"
    parts: dict[str, Callable[[], str]] = {
        "kit": lambda: _kit(kit),
        "certificate": lambda: days(kit),
        "connection": lambda: _connection(kit, consortium_of(site_folder.home)),
        "admitted": lambda: check_admitted(kit),
        "disk": lambda: _disk(site_folder.home),
        "versions": _versions,
        "policy": lambda: _policy(site_folder, run),
        "data": lambda: _data(site_folder, run),
        "key": lambda: _key(site_folder, run),
    }
    return [_find(what, part) for what, part in parts.items()]


def _find(what: str, part: Callable[[], str]) -> Finding:
    try:
        return what, None, part()
    except InflError as error:
        return what, error, ""


def _kit(kit: Path) -> str:
    if not (kit / "startup").is_dir():
        raise FileError(f"{kit} is missing: `infl coordinator init`, or `infl site install`")
    return str(kit)


def days(kit: Path) -> str:
    """Say how long a kit's certificate is valid.

    Raises
    ------
    FederationError
        It is not.
    """
    return _days(days_left(kit), "`infl site enrol NAME --renew`, or at the coordinator `infl coordinator renew`")


def _days(left: float, how: str) -> str:
    if left <= 0:
        raise FederationError(f"expired {-left:.0f} days ago, or this machine's clock is wrong: {how}")
    return f"valid for {left:.0f} days" + (f": renew it soon, {how}" if left < SOON else "")


def check_port(consortium: Consortium) -> str:
    """Say that the coordinator's port is free.

    Raises
    ------
    UnreachableError
        It is not.
    """
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", consortium.port))
        except OSError as error:
            raise UnreachableError(
                f"port {consortium.port} is taken ({error.strerror}): end what uses it, or a run goes on here already"
            ) from None
    return f"{consortium.port} is free"


def _connection(kit: Path, consortium: Consortium) -> str:
    startup, where, first = kit / "startup", f"{consortium.host}:{consortium.port}", first_place(consortium)
    way = "" if first == (consortium.host, consortium.port) else f", through the proxy {first.host}:{first.port}"
    try:
        context = ssl.create_default_context(cafile=str(startup / "rootCA.pem"))
        context.load_cert_chain(startup / "client.crt", startup / "client.key")
        with (
            connect(consortium, 10) as plain,
            context.wrap_socket(plain, server_hostname=consortium.host) as line,
        ):
            return f"{where} by {line.version()}{way}"
    except ssl.SSLCertVerificationError as error:
        raise FederationError(
            f"{where} is not the coordinator, or a clock is wrong: {error.verify_message}; compare fingerprints by phone"
        ) from None
    except (OSError, ssl.SSLError) as error:
        raise UnreachableError(
            f"{where} cannot be reached{way} ({error.strerror or error}): is the coordinator up, does the firewall let it out?"
        ) from None


def _disk(home: Path) -> str:
    free = shutil.disk_usage(home).free
    if free < ROOM:
        raise NoRoomError(f"{free / 1e6:,.0f} MB free at {home}: make room for {ROOM / 1e6:,.0f} MB")
    return f"{free / 1e9:,.0f} GB free"


def _versions() -> str:
    return f"infl {__version__}, nvflare {version('nvflare')}: must be the same everywhere"


def _run(run: Path) -> str:
    plan = read_plan(run)
    if isinstance(plan, StudyFile):
        study = plan.study()
        return f"study of {len(study.steps)} steps; {study.tolerance()}"
    agreement = plan.agreement()
    summary = f"{agreement.task}, {len(agreement.sites)} sites, {agreement.rounds} rounds"
    return "; ".join(filter(None, (summary, agreement.tolerance())))


def _policy(site_folder: SiteFolder, run: Path | None) -> str:
    policy = site_folder.policy
    if run is None:
        return "can be read"
    plan = read_plan(run)
    if isinstance(plan, StudyFile):
        study = plan.study()
        check_policy(policy, study, site_folder.settings.name)
        summary = "accepts the study" + (", after a person's yes" if asks(policy, study) else "")
        return f"{summary}; {study.tolerance()}"
    agreement = plan.agreement()
    policy.check(agreement, site_folder.settings.name)
    summary = "accepts the run" + (", after a person's yes" if policy.ask else "")
    return "; ".join(filter(None, (summary, agreement.tolerance())))


def _data(site_folder: SiteFolder, run: Path | None) -> str:
    settings = site_folder.settings
    adata = read_site(Path(settings.data), settings.name)
    plan = None if run is None else read_plan(run)
    if isinstance(plan, StudyFile):
        check_data(plan.study(), site_folder.policy, adata, settings.name)
    elif plan is not None:
        agreement = plan.agreement()
        task = task_from_json(agreement.task, agreement.options)
        own = task.agree({settings.name: adata})
        absent = set(agreement.panel.get("features", [])) - set(own.get("features", []))
        if absent:
            raise DataError(f"{len(absent)} features of the run are missing, first {min(absent)!r}: harmonise the data")
        more = set(own.get("classes", [])) - set(agreement.panel.get("classes", []))
        if more:
            raise DataError(f"class {min(more)!r} is not one of the run: agree on the panel anew, or leave it out")
    return f"{adata.n_obs:,} × {adata.n_vars:,}"


def _key(site_folder: SiteFolder, run: Path | None) -> str:
    if run is None:
        return "not asked for without run.toml"
    plan = read_plan(run)
    agreement = plan.study() if isinstance(plan, StudyFile) else plan.agreement()
    ring = site_folder.open_key(agreement)
    if ring is None:
        return "none needed"
    if isinstance(plan, StudyFile):
        SiteStudies(site_folder).open_key(plan.study())
    site_folder.membership(agreement, ring)
    return f"version {agreement.key_version}, {agreement.fingerprint}; all {len(agreement.sites)} sites are members"
