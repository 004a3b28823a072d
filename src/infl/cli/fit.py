"""``infl fit`` and ``infl predict``: a federated fit of one file's sites on this machine, and its model on new data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infl.cli.options import MODEL_NAMES, DeviceOption, Options, task_options
from infl.cli.rings import IdentityFile, make_ring, open_ring
from infl.errors import KeyringError

if TYPE_CHECKING:
    from infl.keys import Keyring


def fit(
    file: Annotated[Path, typer.Argument(help="h5ad, h5mu or zarr data of all sites.")],
    out: Annotated[Path, typer.Option(help="Model to write, NAME.infl.safetensors.")],
    site_key: Annotated[str, typer.Option(help="Column of obs that says which site a row belongs to.")],
    target: Annotated[str | None, typer.Option(help="Column of obs to learn, for models that take one.")] = None,
    model: Annotated[str, typer.Option(help=f"Model: {MODEL_NAMES}.")] = "classifier",
    option: Options = None,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of everything that is random.")] = 0,
    key: Annotated[
        Path | None,
        typer.Option("--key", envvar="INFL_KEY", help="Key ring; made if it is missing.  [default: beside the model]"),
    ] = None,
    identity: IdentityFile = None,
    recipient: Annotated[
        list[str] | None, typer.Option(help="For a new ring: public key of somebody who may open it; may be repeated.")
    ] = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="For a new ring: ask for a passphrase that opens it.")
    ] = False,
    results: Annotated[Path | None, typer.Option(help="Also write the data with predictions.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Fit one model over the sites of one file: a simulation on this machine.

    The model is locked. Its key ring is --key, or a new one that is saved, as `infl key new` does, before the fit.

    Example: `infl fit cohort.h5ad --target tumour_class --site-key hospital --out model.infl.safetensors`
    """
    from infl._files import check_data_name, check_new, read_data, write_data
    from infl.tl import fit_federated

    for path in (out, results):
        if path is not None:
            check_new(path)
    ring_path = key or out.with_name(f"{out.name.partition('.')[0]}.key")
    data = read_data(file)
    if results is not None:
        check_data_name(results, data)
    options = task_options(target, option)
    options["device"] = device
    fresh = not ring_path.exists()
    ring = _ring(ring_path, identity, recipient, passphrase, made_for=key)
    try:
        fit_federated(data, model, site_key=site_key, key=ring, rounds=rounds, seed=seed, **options).save(out)
    finally:
        if fresh and not out.exists():
            ring_path.unlink()  # it has locked nothing
    typer.echo(f"{out}: opens with {ring_path}")
    if results is not None:
        typer.echo(f"{write_data(results, data)}: the data with what the model says of them")


def predict(
    file: Annotated[Path, typer.Argument(help="h5ad, h5mu or zarr data.")],
    model: Annotated[Path, typer.Option(help="Model file.")],
    out: Annotated[Path, typer.Option(help="Data to write, with predictions.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", envvar="INFL_KEY", help="The ring's file.  [default: the one in this folder]"),
    ] = None,
    identity: IdentityFile = None,
    device: DeviceOption = "auto",
) -> None:
    """Predict with a trained model, and write the data with its predictions.

    Example: `infl predict new.h5ad --model model.infl.safetensors --key model.key --out predicted.h5ad`
    """
    from infl import load_model
    from infl._files import check_data_name, read_data, write_data
    from infl.cli.rings import find_ring
    from infl.tl import predict as run_model

    loaded, data = load_model(model), read_data(file)
    check_data_name(out, data)
    ring = None if loaded.header.lock == "none" and key is None else open_ring(find_ring(key), identity)
    run_model(data, loaded, key=ring, device=device)
    write_data(out, data)
    typer.echo(f"{out}: the data with what {model} says of them")


def _ring(
    path: Path, identity: Path | None, recipient: list[str] | None, passphrase: bool, *, made_for: Path | None
) -> Keyring:
    """Open the ring, or make one and save it before anything is locked with it."""
    if path.exists():
        if made_for is None:
            raise KeyringError(f"{path} exists: pass it with --key, or name another ring with --key NAME.key")
        if recipient or passphrase:
            raise KeyringError(f"{path} exists, and opens as it did: leave --recipient and --passphrase out")
        return open_ring(path, identity)
    return make_ring(path, recipient, passphrase)
