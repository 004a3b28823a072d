"""``infl coordinator``: the machine that adds what it cannot read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infl.cli.log import Known, Verify, show_log
from infl.cli.signals import asked_to_end
from infl.errors import FederationError, FileError, InflError, SettingsError

if TYPE_CHECKING:
    from infl.deploy.attempt import AttemptFolder
    from infl.deploy.condition import Condition
    from infl.deploy.flare.daemon import Daemon
    from infl.deploy.flare.metrics import Metrics

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
Home = Annotated[Path, typer.Option("--home", envvar="INFL_COORDINATOR", help="The coordinator's folder.")]
MetricsOption = Annotated[
    str, typer.Option("--metrics", help="Port, or ADDRESS:PORT, for Prometheus, e.g. 9464.  [default: none]")
]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", envvar="INFL_CA", help="Folder with the authority's key.  [default: ca in the folder]"),
]
COORDINATOR_HOME = Path("coordinator")
MODEL_FETCHED = "each site has the model, see `infl run fetch`"


@app.command()
def init(
    consortium: Annotated[Path, typer.Argument(help="consortium.toml: name, host, port, scheme, valid_days.")],
    home: Home = COORDINATOR_HOME,
) -> None:
    """Make the coordinator's folder, with the consortium's certificate authority.

    Example: `infl coordinator init consortium.toml`
    """
    from infl.deploy.flare.consortium import read_consortium
    from infl.deploy.flare.kits import init_coordinator

    fingerprint = init_coordinator(home, read_consortium(consortium))
    typer.echo(f"{home}: keep it, and a copy of {home / 'ca'} in a safe place; whoever has that can enrol sites.")
    typer.echo(f"Send {consortium} to the sites. Tell them this fingerprint by telephone:\n{fingerprint}")


@app.command()
def approve(
    request: Annotated[Path, typer.Argument(help="NAME.request.zip, from `infl site enrol`.")],
    yes: Annotated[bool, typer.Option("--yes", help="The fingerprint was compared.")] = False,
    renew: Annotated[bool, typer.Option("--renew", help="A new certificate for a site that is enrolled.")] = False,
    ca: Ca = None,
    home: Home = COORDINATOR_HOME,
) -> None:
    """Enrol a site, after comparing its fingerprint by telephone.

    Example: `infl coordinator approve hospital_b.request.zip`
    """
    from infl.deploy.flare.kits import approve as sign
    from infl.deploy.flare.kits import asked

    inside = asked(home, request, renew=renew)
    typer.echo(
        f"{inside.name} asks {'for a new certificate' if renew else 'to be enrolled'}; fingerprint\n{inside.fingerprint}"
    )
    if not yes and not typer.confirm(f"Does {inside.name} have the same one?"):
        raise FederationError("not enrolled: the fingerprint was not confirmed")
    signed, _ = sign(home, request, expected=inside, renew=renew, ca=ca)
    typer.echo(f"{signed}: send it back to the site.")


@app.command()
def start(
    run: Annotated[Path | None, typer.Argument(help="run.toml.  [default: be up for runs from notebooks]")] = None,
    home: Home = COORDINATOR_HOME,
    give_up: Annotated[float, typer.Option(help="Seconds without progress after which to end; 0: wait for ever.")] = 0,
    metrics: MetricsOption = "",
) -> None:
    """Start a run, or go on with it, and stay until it is finished. Ctrl-C or SIGTERM ends it after the round under way.

    The next start goes on there; after `infl run stop`, only `infl run resume` does.

    Without a run, be up for those that holders of the admin kit ask for from notebooks, until Ctrl-C.

    Example: `infl coordinator start run.toml`
    """
    if run is None:
        serve(home)
        return
    from infl.deploy.run_attempt import RunFolder
    from infl.deploy.specification import is_specified
    from infl.deploy.study.file import StudyFile, read_plan

    file = read_plan(run)
    if isinstance(file, StudyFile):
        raise SettingsError(f"{run} is a study: start it with `infl study start {run}`")
    page = open_metrics(metrics)
    folder = RunFolder(home / "runs" / file.name)
    if not folder.store.exists:
        folder.store.begin(file.agreement())
    elif not is_specified(folder.agreement, file.specification):
        raise FileError(f"run {file.name!r} was begun with other settings: choose another name in {run}")
    folder.save_patience(file.waiting)
    supervise(home, file.name, give_up=give_up, metrics=page)


@app.command()
def sites(home: Home = COORDINATOR_HOME) -> None:
    """Print who is enrolled: how long each certificate is valid, fingerprint, when the site was last connected.

    Example: `infl coordinator sites`
    """
    from infl.deploy.flare.kits import members

    for line in members(home):
        typer.echo(line)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The site's name.")], home: Home = COORDINATOR_HOME) -> None:
    """Shut a site out, at once and for good: its name, whatever certificates were signed for it.

    Example: `infl coordinator revoke hospital_b`
    """
    from infl.deploy.attempt import REQUEST_AGAIN
    from infl.deploy.flare.console import Console
    from infl.deploy.flare.kits import revoke as shut_out
    from infl.deploy.run_attempt import RunFolder

    shut_out(home, name)
    console = Console(home / "admin")
    if console.ask("disable", name) is not None:
        for folder in (home / "runs").glob("*"):
            if RunFolder(folder).status.state == "running":
                RunFolder(folder).request(REQUEST_AGAIN)  # the next attempt is without it
    console.close()
    typer.echo(f"{name}: shut out. Take its key away too, at the key holder: `infl key revoke {name}`")


@app.command()
def renew(
    ca: Ca = None,
    authority: Annotated[
        bool, typer.Option("--authority", help="A new authority, too: each site then needs a new certificate.")
    ] = False,
    home: Home = COORDINATOR_HOME,
) -> None:
    """Make the coordinator's own keys and certificates anew, while it is not up; sites need nothing, but for --authority.

    Example: `infl coordinator renew`
    """
    from infl.deploy.flare.checks import days
    from infl.deploy.flare.consortium import consortium_of
    from infl.deploy.flare.kits import renew_coordinator
    from infl.deploy.folders import alone

    consortium_of(home)
    with alone(home, wait=0):
        fingerprint = renew_coordinator(home, ca, rotate=authority)
    typer.echo(f"{home}: certificate {days(home / 'kit')}")
    if authority:
        typer.echo(
            f"Each site: `infl site enrol NAME --renew`; fingerprint of the new authority, by telephone:\n{fingerprint}"
        )


@app.command("log")
def log_(
    verify: Verify = False,
    known: Known = "",
    key: Annotated[Path | None, typer.Option(help="A copy of log.key.  [default: the one in the folder]")] = None,
    home: Home = COORDINATOR_HOME,
) -> None:
    """Print the security log: who was enrolled, refused, connected, shut out, who took part; or check that it is whole.

    Example: `infl coordinator log --verify`
    """
    from infl.deploy.flare.consortium import consortium_of
    from infl.deploy.security_log import coordinator_log

    consortium_of(home)
    show_log(coordinator_log(home, key), verify=verify, known=known)


@app.command()
def check(
    run: Annotated[Path | None, typer.Argument(help="run.toml, to check it too.")] = None, home: Home = COORDINATOR_HOME
) -> None:
    """Say what would stop a run: kit, certificate, port, disk, the run's file.

    Example: `infl coordinator check run.toml`
    """
    from infl.deploy.flare.checks import check_coordinator

    report(check_coordinator(home, run))


# -- for this file and the other commands --------------------------------------------------------------------------
def supervise(
    home: Path,
    name: str,
    *,
    resume: bool = False,
    give_up: float = 0,
    metrics: Metrics | None = None,
    fetched: str = MODEL_FETCHED,
) -> None:
    """Bring a run or study to its end, from a terminal; `fetched` says where its result is, `resume` goes on after a stop."""
    from infl.deploy.attempt import REQUEST_STOP
    from infl.deploy.flare.engine import Supervisor
    from infl.deploy.flare.metrics import serving

    supervisor = Supervisor(home, name, say=lambda line: typer.echo(f"{name}: {line}"))
    run = supervisor.run
    with asked_to_end(supervisor.stop), serving(metrics, run, home):
        status = supervisor.go(resume=resume, give_up=give_up or float("inf"))
    where = f"after {run.unit} {status.round}"
    if status.state == "finished":
        typer.echo(f"{name}: finished; {status.message or fetched}")
    elif run.requested == REQUEST_STOP:
        typer.echo(f"{name}: stopped {where}; `infl {run.what} resume {name}` goes on")
    elif status.state == "stopped":
        raise FederationError(f"{run.what} {name} was stopped {where} ({status.message}); start it again to go on")
    else:
        typer.echo(f"{name}: ended {where}; start it again to go on")


def open_metrics(address: str) -> Metrics | None:
    """Take the port for metrics, before anything begins; None where none are wanted."""
    from infl.deploy.flare.metrics import Metrics

    return Metrics(address) if address else None


def serve(home: Path) -> None:
    """Keep the server up until Ctrl-C."""
    from infl.deploy.flare.checks import check_port
    from infl.deploy.flare.consortium import consortium_of
    from infl.deploy.flare.daemon import SERVER_PROCESS, Daemon

    daemon = Daemon(home / "kit", SERVER_PROCESS, home / "server.log")
    daemon.clear()
    check_port(consortium_of(home))
    keep_up_until_signal(daemon, "coordinator")


def keep_up_until_signal(
    daemon: Daemon, name: str, each: Callable[[], None] = lambda: None, begin: Callable[[], None] = lambda: None
) -> None:
    """Keep an engine's process up until Ctrl-C or SIGTERM."""
    over = threading.Event()
    with asked_to_end(over.set):
        typer.echo(f"{name}: up, Ctrl-C ends")
        daemon.keep_up(over, say=lambda line: typer.echo(f"{name}: {line}"), each=each, begin=begin)


def show(found: Condition) -> None:
    """Print what is true of a run; of sites, whether they are up, where that is known."""
    typer.echo(found.words)
    if found.status.message:
        typer.echo(found.status.message)
    for site, row in found.status.sites.items():
        up = ("up" if row["up"] else "away") if found.fresh else "" if found.over else "?"
        traffic = f"{row['in'] / 1e6:.2f} MB in, {row['out'] / 1e6:.2f} MB out"
        typer.echo(f"{site:<24} {up:<5} {traffic}  {row['trouble']}".rstrip())


def end_after(folder: AttemptFolder, name: str) -> None:
    """Ask a running attempt to end after the round or step under way."""
    from infl.deploy.attempt import REQUEST_STOP
    from infl.deploy.condition import condition

    found, goes_on = condition(folder), f"stays so until `infl {folder.what} resume {name}`"
    if found.status.state == "finished":
        typer.echo(f"{name}: finished already")
        return
    folder.request(REQUEST_STOP)
    typer.echo(f"{name}: ends after this {folder.unit}, and {goes_on}" if found.attended else f"{name}: {goes_on}")


def follow(folder: AttemptFolder) -> None:
    """Print what changes until a run or study ends."""
    from infl.deploy.condition import condition

    before = None
    while True:
        found = condition(folder)
        now, up = found.status, [(site, row["up"], row["trouble"]) for site, row in found.status.sites.items()]
        key = (now.state, now.round, now.waits, found.attended, found.fresh, up)
        if key != before:
            show(found)
            before = key
        if found.over:
            return
        time.sleep(1.0)


def report(findings: list[tuple[str, InflError | None, str]]) -> None:
    """Print findings (what, what is wrong, what was found), and fail if one is wrong."""
    for what, wrong, found in findings:
        typer.echo(f"{'ok   ' if wrong is None else 'WRONG'} {what:<14} {found if wrong is None else wrong}")
    failed = [what for what, wrong, _ in findings if wrong is not None]
    if failed:
        kinds = {wrong.exit_code: type(wrong) for _, wrong, _ in findings if wrong is not None}
        kind = FederationError if len(kinds) > 1 else next(iter(kinds.values()))
        raise kind(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")
