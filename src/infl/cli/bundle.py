"""``infl bundle``: what a machine without a package index needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bundle(
    out: Annotated[Path, typer.Argument(help="Folder to make, or to look through with --check.")] = Path("infl_bundle"),
    requirement: Annotated[
        str, typer.Option("--requirement", help="What to bundle, or a wheel of infl with extras.")
    ] = "infl[flare]",
    platform: Annotated[
        list[str] | None,
        typer.Option(help="The machine, e.g. manylinux_2_28_x86_64; may be repeated.  [default: one like this]"),
    ] = None,
    python: Annotated[str, typer.Option(help="Its Python, e.g. 311.  [default: this one]")] = "",
    constraint: Annotated[Path | None, typer.Option(help="File with the versions to take.")] = None,
    extra_index_url: Annotated[str, typer.Option(help="Another index, e.g. with PyTorch for processors alone.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Only say whether a bundle is whole.")] = False,
) -> None:
    """Put all wheels that a machine without a package index needs into a folder, with their hashes.

    Example: `infl bundle infl_bundle --platform manylinux_2_28_x86_64 --python 311`
    """
    from infl.deploy.bundle import INSTALL, check_bundle
    from infl.deploy.bundle import bundle as make

    if check:
        typer.echo(f"{out}: {check_bundle(out)} wheels, all whole")
        return
    wheels = make(
        requirement, out, platforms=platform or (), python=python, constraint=constraint, extra_index=extra_index_url
    )
    size = sum(wheel.stat().st_size for wheel in wheels)
    typer.echo(f"{out}: {len(wheels)} wheels, {size / 1e6:,.0f} MB; there: `{INSTALL.format(folder=out.name)}`")
