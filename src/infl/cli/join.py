"""``infl site join``: all that a hospital types to become a member, in two commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infl.cli import key, site
from infl.cli.key import SITE_RING
from infl.errors import SettingsError


def join(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    signed: Annotated[Path | None, typer.Option(help="NAME.signed.zip, from the coordinator.")] = None,
    fingerprint: Annotated[str, typer.Option(help="The coordinator's, as told by telephone; with --signed.")] = "",
    grant: Annotated[Path | None, typer.Option(help="What the key holder granted: its file for this site.")] = None,
    ring: Annotated[Path, typer.Option(help="This site's own ring, made if it is missing.")] = SITE_RING,
    consortium: Annotated[Path, typer.Option(help="consortium.toml, from the coordinator.")] = Path("consortium.toml"),
    home: Annotated[Path | None, typer.Option("--home", help="Folder to make.  [default: NAME]")] = None,
) -> None:
    """Ask to become a member; then, with what came back, become one. Both may be typed again.

    The first makes the site's private key, its identity and what is to be sent; the second, with --signed, --fingerprint and --grant,
    installs certificate and key ring.

    Example: `infl site join hospital_b`
    """
    home = home or Path(name)
    if signed is None and grant is None:
        if not (home / "request").exists():
            site.enrol(name, consortium, home, renew=False)
        else:
            typer.echo(f"{home / f'{name}.request.zip'}: send it to the coordinator, if you have not yet")
        key.identity(name)
        return
    if signed is not None and not fingerprint:
        raise SettingsError("--signed needs --fingerprint: have the coordinator's read out by telephone")
    if signed is not None and not (home / "kit").exists():
        site.install(signed, fingerprint, home)
    if grant is not None:
        key.import_(grant, ring)
