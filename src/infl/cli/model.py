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


@app.command()
def relock(
    file: Annotated[Path, typer.Argument(help="Model file.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", envvar="INFL_KEY", help="The ring's file.  [default: the one in this folder]"),
    ] = None,
    identity: Annotated[Path | None, typer.Option(help="Identity file that opens the ring.")] = None,
    version: Annotated[int | None, typer.Option(help="Key version.  [default: the ring's current one]")] = None,
    strength: Annotated[float | None, typer.Option(help="Strength of the lock, 0 to 1.  [default: as it is]")] = None,
) -> None:
    """Lock a model again under another key version or strength, without training.

    After `infl key revoke` this closes the model to whoever has old versions only; what they hold already, they keep.

    Example: `infl model relock model.infl.safetensors --out model.v2.infl.safetensors --key consortium.key`
    """
    from infl import load_model
    from infl.cli.rings import find_ring, open_ring

    path = find_ring(key)
    ring = open_ring(path, identity)
    model = load_model(file).relock(ring, version=version, strength=strength)
    model.save(out)
    if ring.is_holder:
        ring.record_relock(out.name, model.header.key_version)
        ring.save(path, overwrite=True)
    h = model.header
    typer.echo(f"{out}: locked under version {h.key_version} ({h.fingerprint}), strength {h.strength:g}")
