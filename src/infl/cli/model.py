"""``infl model``: what a model file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="Model file.")],
    identity: Annotated[Path | None, typer.Option(help="age identity, when the file is encrypted.")] = None,
) -> None:
    """Print what a model file says without a key.

    Example: `infl model show model.infl.safetensors`
    """
    from rich.console import Console
    from rich.table import Table

    from infl import load_model

    model = load_model(file, identity=identity)
    h = model.header
    rows = {
        "task": h.task,
        "weights": f"{sum(t.numel() for t in model.stored.values()):,} in {len(model.stored)} tensors",
        "features": f"{len(h.panel.get('features', ())):,}",
        "classes": ", ".join(map(str, h.panel.get("classes", ()))),
        "lock": f"{h.lock}, strength {h.strength:g}",
        "key": f"{h.fingerprint or 'none'}, version {h.key_version}",
        "sites": ", ".join(h.sites),
        "made with": f"infl {h.infl_version}, format {h.format}",
        "digest": h.digest,
    }
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
