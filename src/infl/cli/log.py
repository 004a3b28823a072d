"""``infl site log`` and ``infl coordinator log``: the security log, and whether it is whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from infl.deploy.security_log import SecurityLog

Verify = Annotated[bool, typer.Option("--verify", help="Check that nothing was changed, removed or inserted.")]
Known = Annotated[str, typer.Option(help="NUMBER:HASH that an earlier check showed: must be there, unchanged.")]
SHOWN = 20
"""How many of the last rows are printed."""


def show_log(log: SecurityLog, *, verify: bool, known: str) -> None:
    """Print the last rows, or check all, with what was written down of an earlier check."""
    if verify or known:
        typer.echo(f"{log.path}: {log.verify(known).words}")
        return
    for row in log.rows()[-SHOWN:]:
        typer.echo(f"{row['n']:>6} {row.get('time', '?')} {row.get('event', '?')!s:<12} {_rest(row)}".rstrip())


def _rest(row: dict[str, Any]) -> str:
    kept = {name: value for name, value in row.items() if name not in ("n", "time", "event", "before", "hash", "seal")}
    return " ".join(f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in kept.items())
