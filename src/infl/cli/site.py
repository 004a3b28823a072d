"""``infl site``: a hospital's or lab's own machine."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infl.cli.coordinator import MetricsOption, keep_up_until_signal, open_metrics, report
from infl.cli.log import Known, Verify, show_log
from infl.cli.options import DeviceOption
from infl.errors import FederationError, FileError, NoRoomError, UnreachableError

if TYPE_CHECKING:
    from infl.deploy.site_folder import SiteFolder

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
EVENTS = 5
"""How many of a site's last events its status shows."""
Home = Annotated[
    Path | None, typer.Option("--home", envvar="INFL_SITE", help="The site's folder.  [default: the one here]")
]
RunOption = Annotated[Path | None, typer.Argument(help="run.toml or study.toml: take part in nothing else than this.")]
CheckedRun = Annotated[Path | None, typer.Argument(help="run.toml or study.toml, to check it too.")]
DataOption = Annotated[Path, typer.Option("--data", help="h5ad, h5mu or zarr data.")]
KeyOption = Annotated[Path | None, typer.Option("--key", envvar="INFL_KEY", help="The site's key ring.")]
IdentityOption = Annotated[Path | None, typer.Option("--identity", help="Identity file that opens the ring.")]
CurvesOption = Annotated[
    Path | None, typer.Option("--curves", help="Folder in which TensorBoard finds loss and metrics of each round.")
]


@app.command()
def enrol(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    consortium: Annotated[Path, typer.Option(help="consortium.toml, from the coordinator.")] = Path("consortium.toml"),
    home: Annotated[Path | None, typer.Option("--home", help="Folder to make.  [default: NAME]")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="A new key and certificate for a site that has one.")] = False,
) -> None:
    """Make the site's private key, which never leaves this machine, and a request for the coordinator.

    Example: `infl site enrol hospital_b`
    """
    from infl.deploy.flare.consortium import read_consortium
    from infl.deploy.flare.kits import enrol as make
    from infl.deploy.policy import POLICY_TEMPLATE
    from infl.deploy.site_folder import SiteFolder

    home = home or Path(name)
    request, fingerprint = make(home, name, read_consortium(consortium), renew=renew)
    policy = home / "policy.toml"
    if not policy.exists():
        policy.write_text(POLICY_TEMPLATE)
    SiteFolder(home).log.security.note("enrolled", name=name, key=fingerprint, renew=renew)
    typer.echo(f"{request}: send it to the coordinator, and tell this fingerprint by telephone:\n{fingerprint}")
    typer.echo(f"{policy}: what this site accepts; read it.")


@app.command()
def install(
    approved: Annotated[Path, typer.Argument(help="NAME.signed.zip, from the coordinator.")],
    fingerprint: Annotated[str, typer.Option(help="The coordinator's, as told by telephone.")],
    home: Home = None,
) -> None:
    """Install the certificate that the coordinator signed.

    Example: `infl site install hospital_b.signed.zip --fingerprint "1a2b3c4d …"`
    """
    from infl.deploy.flare.kits import install as make
    from infl.deploy.folders import alone
    from infl.deploy.site_folder import SiteFolder

    home = find_home(home)
    with alone(home, wait=0):
        kit = make(home, approved, fingerprint)
        SiteFolder(home).log.security.note("installed", authority=fingerprint)
    typer.echo(f"{kit}: installed; now `infl site check --data cohort.h5ad --key site.key`")


@app.command()
def start(
    run: RunOption = None,
    *,
    data: DataOption,
    key: KeyOption = None,
    identity: IdentityOption = None,
    metrics: MetricsOption = "",
    curves: CurvesOption = None,
    device: DeviceOption = "auto",
    home: Home = None,
) -> None:
    """Be up for runs and studies until Ctrl-C.

    Example: `infl site start run.toml --data cohort.h5ad --key site.key`
    """
    from infl._device import device_named
    from infl.deploy.curves import require_tensorboard
    from infl.deploy.flare.checks import check_site
    from infl.deploy.flare.consortium import consortium_of
    from infl.deploy.flare.daemon import CLIENT_PROCESS, Daemon
    from infl.deploy.flare.line import Lookout
    from infl.deploy.flare.metrics import of_site

    if curves is not None:
        require_tensorboard()
    site_folder = _settle(home, run, data, key, identity, curves)
    os.environ["INFL_DEVICE"] = device  # processes of runs and studies have it from here
    device_named(device)
    name = site_folder.settings.name
    for what, wrong, _ in check_site(site_folder, run):
        if wrong is not None and what in ("connection", "admitted"):
            typer.echo(f"{name}: {wrong}; trying again until it can")
        elif wrong is not None:
            raise wrong
    page = open_metrics(metrics)
    daemon = Daemon(site_folder.home / "kit", CLIENT_PROCESS, site_folder.home / "client.log")
    log = site_folder.log

    def say(line: str) -> None:
        typer.echo(f"{name}: {line}")
        with suppress(NoRoomError):
            log.security.note("line", said=line)

    def begin() -> None:
        site_folder.save_settings(site_folder.settings)
        policy = sha256((site_folder.home / "policy.toml").read_bytes()).hexdigest()
        log.security.note("started", policy=policy, run=site_folder.settings.expects)

    lookout = Lookout(daemon, consortium_of(site_folder.home), say)
    seen = log.journal.last()

    def tell() -> None:
        nonlocal seen
        lookout.look()
        for row in log.journal.rows(after=seen):
            typer.echo(f"{name}: {row['time']} {row['event']}")
            seen = row["n"]

    with page.serve(lambda: of_site(site_folder)) if page is not None else nullcontext():
        keep_up_until_signal(daemon, name, tell, begin=begin)
    log.security.note("ended")


@app.command()
def check(
    run: CheckedRun = None,
    *,
    data: DataOption,
    key: KeyOption = None,
    identity: IdentityOption = None,
    home: Home = None,
) -> None:
    """Say what would keep this site from a run: kit, certificate, connection, clock, disk, policy, data, key.

    Example: `infl site check run.toml --data cohort.h5ad --key site.key`
    """
    from infl.deploy.flare.checks import check_site

    report(check_site(_settle(home, run, data, key, identity), run))


@app.command()
def status(home: Home = None) -> None:
    """Print whether this site is up and connected, since when, how long its certificate is valid, its runs and what happened last.

    Example: `infl site status`
    """
    from infl.deploy.flare.checks import days
    from infl.deploy.flare.consortium import consortium_of
    from infl.deploy.flare.line import Line
    from infl.deploy.folders import holder
    from infl.deploy.site_folder import SiteFolder
    from infl.deploy.site_runs import runs_of

    site_folder = SiteFolder(find_home(home))
    where, line = consortium_of(site_folder.home), Line.read(site_folder.home)
    name, up = site_folder.enrolled_name(), holder(site_folder.home) is not None
    if not up:
        typer.echo(f"{name}: not up: no process of `infl site start` has {site_folder.home}")
    elif line is None:
        typer.echo(f"{name}: up, not connected yet")
    else:
        typer.echo(f"{name}: {line.words(f'{where.host}:{where.port}')}")
    typer.echo(f"certificate: {days(site_folder.home / 'kit')}")
    for row in runs_of(site_folder):
        typer.echo(row)
    for event in site_folder.log.events()[-EVENTS:]:
        typer.echo(event)
    if line is not None and up and line.state == "refused":
        raise FederationError(f"{name} is shut out")
    if not up or line is None or line.state != "up":
        raise UnreachableError(f"{name} is not connected")


@app.command()
def approve(digest: Annotated[str, typer.Argument(help="What the refusal says.")], home: Home = None) -> None:
    """Say yes to a run or study, where the policy asks for a person.

    Example: `infl site approve 1a2b3c4d5e6f`
    """
    from infl.deploy.site_folder import SiteFolder

    site_folder = SiteFolder(find_home(home))
    typer.echo(f"{site_folder.approve(digest)}: this site takes part from the coordinator's next attempt on")


@app.command()
def ledger(
    run: Annotated[str | None, typer.Argument(help="The run's random name, or its beginning.")] = None,
    home: Home = None,
) -> None:
    """Print what left this site: time, kind, round, bytes, digest.

    Example: `infl site ledger`
    """
    from infl.deploy.site_folder import SiteFolder

    site_folder = SiteFolder(find_home(home))
    for folder in (*site_folder.runs(run or ""), *site_folder.studies(run or "")):
        typer.echo(folder.name)
        for entry in site_folder.ledger(folder):
            kind = entry["kind"].partition(":")[2] or entry["kind"]
            sealed = "sealed" if entry["sealed"] else "OPEN"
            typer.echo(
                f"{entry['time']}  {kind:<12} {entry['round']:>4} {entry['bytes']:>12,}  {sealed}  {entry['digest'][:16]}"
            )


@app.command("log")
def log_(verify: Verify = False, known: Known = "", home: Home = None) -> None:
    """Print the security log: offers, consents, refusals, connections; or check that it is whole.

    Example: `infl site log --verify`
    """
    from infl.deploy.site_folder import SiteFolder

    show_log(SiteFolder(find_home(home)).log.security, verify=verify, known=known)


def find_home(home: Path | None) -> Path:
    """Return the site's folder: the one that was given, or the only one here."""
    if home is not None:
        if not (home / "consortium.json").exists():
            raise FileError(f"{home} is no site's folder: make one with `infl site enrol NAME`")
        return home
    found = [p.parent for p in (Path(), *Path().iterdir()) for p in [p / "consortium.json"] if p.exists()]
    found = [p for p in found if not (p / "ca").exists()]
    if len(found) != 1:
        raise FileError(f"{len(found)} sites' folders here: name one with --home")
    return found[0]


def _settle(
    home: Path | None,
    run: Path | None,
    data: Path,
    key: Path | None,
    identity: Path | None,
    curves: Path | None = None,
) -> SiteFolder:
    """Return the site with the data, key and run that were named; nothing is written."""
    from infl.deploy.site_data import SiteSettings, stamp
    from infl.deploy.site_folder import SiteFolder
    from infl.deploy.study.file import read_plan

    home = find_home(home)
    settings = SiteSettings(
        SiteFolder(home).enrolled_name(),
        str(data.resolve()),
        "" if key is None else str(key.resolve()),
        "" if identity is None else str(identity.resolve()),
        "" if run is None else read_plan(run).specification,
        stamp(data),
        "" if curves is None else str(curves.resolve()),
    )
    return SiteFolder(home, settings)
