"""``infl coordinator``: the machine that adds what it cannot read."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infl.errors import FederationError, FileError, InflError

if TYPE_CHECKING:
    from infl.federation.attempt import Status

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
Home = Annotated[Path, typer.Option("--home", envvar="INFL_COORDINATOR", help="The coordinator's folder.")]
HOME = Path("coordinator")


@app.command()
def init(
    consortium: Annotated[Path, typer.Argument(help="consortium.toml: name, host, port, scheme, valid_days.")],
    home: Home = HOME,
) -> None:
    """Make the coordinator's folder, with the consortium's certificate authority.

    Example: `infl coordinator init consortium.toml`
    """
    from infl.federation.flare.kits import init_coordinator, read_consortium

    fingerprint = init_coordinator(home, read_consortium(consortium))
    typer.echo(f"{home}: keep it, and a copy of {home / 'ca'} in a safe place; whoever has that can enrol sites.")
    typer.echo(f"Send {consortium} to the sites. Tell them this fingerprint by telephone:\n{fingerprint}")


@app.command()
def approve(
    request: Annotated[Path, typer.Argument(help="NAME.request.zip, from `infl site enrol`.")],
    yes: Annotated[bool, typer.Option("--yes", help="The fingerprint was compared.")] = False,
    home: Home = HOME,
) -> None:
    """Enrol a site, after comparing its fingerprint by telephone.

    Example: `infl coordinator approve hospital_b.request.zip`
    """
    from infl.federation.flare.kits import approve as sign
    from infl.federation.flare.kits import request_fingerprint

    typer.echo(f"{request.name}: fingerprint\n{request_fingerprint(request)}")
    if not yes and not typer.confirm("Does the site have the same one?"):
        raise FederationError("not enrolled: the fingerprint was not confirmed")
    signed, _ = sign(home, request)
    typer.echo(f"{signed}: send it back to the site.")


@app.command()
def start(
    run: Annotated[Path, typer.Argument(help="run.toml")],
    home: Home = HOME,
    give_up: Annotated[float, typer.Option(help="End after so many seconds without progress; 0: wait for ever.")] = 0,
) -> None:
    """Start a run, or go on with it, and stay until it is finished. Ctrl-C ends it after the round under way.

    Example: `infl coordinator start run.toml`
    """
    from infl.federation.attempt import RunFolder
    from infl.federation.runfile import RunFile
    from infl.federation.station import specification_digest

    file = RunFile.read(run)
    folder, wanted = RunFolder(home / "runs" / file.name), file.agreement()
    if not folder.store.exists:
        folder.store.begin(wanted)
    elif specification_digest(folder.agreement) != specification_digest(wanted):
        raise FileError(f"run {file.name!r} was begun with other settings: choose another name in {run}")
    folder.keep_patience(file.patience())
    supervise(home, file.name, give_up=give_up)


@app.command()
def check(
    run: Annotated[Path | None, typer.Argument(help="run.toml, to check it too.")] = None, home: Home = HOME
) -> None:
    """Say what would stop a run: kit, certificate, port, disk, the run's file.

    Example: `infl coordinator check run.toml`
    """
    from infl.federation.flare.checks import check_coordinator

    report(check_coordinator(home, run))


# -- for this file and the other commands --------------------------------------------------------------------------
def supervise(home: Path, name: str, *, give_up: float = 0) -> None:
    """Bring a run to its end, from a terminal."""
    from infl.federation.flare.engine import Supervisor

    supervisor = Supervisor(home, name, say=lambda line: typer.echo(f"{name}: {line}"))

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        typer.echo(f"{name}: ending after this round; press Ctrl-C again to end at once")
        supervisor.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        status = supervisor.go(give_up=give_up or float("inf"))
    finally:
        signal.signal(signal.SIGINT, before)
    if status.state != "finished":
        raise FederationError(f"run {name} was stopped after round {status.round}; start it again to go on")
    typer.echo(f"{name}: finished; each site has the model, see `infl run fetch`")


def show(status: Status) -> None:
    """Print a run's status."""
    typer.echo(f"{status.state}, round {status.round} of {status.rounds}, attempt {status.attempts}")
    if status.message:
        typer.echo(status.message)
    for site, row in status.sites.items():
        traffic = f"{row['in'] / 1e6:.2f} MB in, {row['out'] / 1e6:.2f} MB out"
        typer.echo(f"{site:<24} {'up' if row['up'] else 'away':<5} {traffic}  {row['trouble']}".rstrip())


def report(findings: list[tuple[str, InflError | None, str]]) -> None:
    """Print findings (what, what is wrong, what was found), and fail if one is wrong."""
    for what, wrong, found in findings:
        typer.echo(f"{'ok   ' if wrong is None else 'WRONG'} {what:<14} {found if wrong is None else wrong}")
    failed = [what for what, wrong, _ in findings if wrong is not None]
    if failed:
        raise FederationError(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")
