"""The commands at the coordinator that runs and studies have alike once they are begun: status, watch, stop, resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infl.cli.coordinator import COORDINATOR_HOME, Home, end_after, follow, show, supervise

if TYPE_CHECKING:
    from infl.deploy.attempt import AttemptFolder

Name = Annotated[str, typer.Argument(help="Its name, as in run.toml or study.toml.")]


def add_commands(
    app: typer.Typer, what: str, example: str, folder: Callable[[Path, str], AttemptFolder], fetched: str
) -> None:
    """Add the commands to ``infl run`` or ``infl study``.

    Parameters
    ----------
    app
        Where the commands are added.
    what, example
        ``"run"`` or ``"study"``, and the name of one in the examples.
    folder
        Returns the folder of one that was begun, by the coordinator's folder and its name, or raises.
    fetched
        The line that says where the result is.
    """

    def command(name: str, does: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        return app.command(name, help=f"{does}; at the coordinator.\n\nExample: `infl {what} {name} {example}`")

    @command("status", f"Print where a {what} is")
    def status(name: Name, home: Home = COORDINATOR_HOME) -> None:
        from infl.deploy.condition import condition

        show(condition(folder(home, name)))

    @command("watch", f"Print what changes until the {what} ends")
    def watch(name: Name, home: Home = COORDINATOR_HOME) -> None:
        follow(folder(home, name))

    @command("stop", f"End a {what} after the round or step under way, for good until `infl {what} resume`")
    def stop(name: Name, home: Home = COORDINATOR_HOME) -> None:
        end_after(folder(home, name), name)

    @command("resume", f"Go on with a {what} that was begun, after the last round or step that is kept")
    def resume(name: Name, home: Home = COORDINATOR_HOME) -> None:
        folder(home, name)
        supervise(home, name, resume=True, fetched=fetched)
