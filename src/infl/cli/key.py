"""``infl key``: make and show key rings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def new(file: Annotated[Path, typer.Argument(help="Key ring file to write.")]) -> None:
    """Make a key ring under a passphrase (asked for, or INFL_KEY_PASSPHRASE).

    Example: `infl key new consortium.key`
    """
    from infl.keys import Keyring

    ring = Keyring.create()
    ring.save(file, passphrase=passphrase(confirm=True))
    typer.echo(f"{file}: version {ring.current}, fingerprint {ring.fingerprint()}")


def passphrase(*, confirm: bool = False) -> str:
    """Return the passphrase from the environment, or ask for it."""
    value = os.environ.get("INFL_KEY_PASSPHRASE")
    return value or typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm)
