"""All commands of ``infl``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from infl.cli import bundle, coordinator, fit, join, key, model, run, site, study
from infl.cli.options import METHOD_NAMES

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
    help="Federated learning on AnnData and MuData with a secret key inside the model.",
)
app.command()(fit.fit)
app.command()(fit.predict)
app.command()(bundle.bundle)
app.add_typer(key.app, name="key", help="Make, show and share keys.")
app.add_typer(model.app, name="model", help="Look at model files, and lock them again.")
app.add_typer(coordinator.app, name="coordinator", help="Between hospitals: the machine that adds what it cannot read.")
site.app.command()(join.join)
app.add_typer(site.app, name="site", help="Between hospitals: a site's own machine.")
app.add_typer(run.app, name="run", help="Between hospitals: describe a run, follow it, fetch its model.")
app.add_typer(
    study.app, name="study", help="Between hospitals: describe a study of several steps, run it, fetch what it made."
)


def _version(value: bool) -> None:
    if value:
        from infl import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for results; made if it is missing.")] = Path("infl_demo"),
    seeds: Annotated[int, typer.Option(help="Number of seeds of the comparison.")] = 5,
) -> None:
    """Five hospitals, one tumour classifier, about a minute: fit, lock, attack, compare, on real data, offline.

    Example: `infl demo --out results`
    """
    from infl.cli.demo import run_demo

    run_demo(out, seeds=seeds)


@app.command()
def compare(
    file: Annotated[Path, typer.Argument(help="h5ad, h5mu or zarr data.")],
    target: Annotated[str, typer.Option(help="Column of obs to predict.")],
    site_key: Annotated[str, typer.Option(help="Column of obs that says which site a row belongs to.")],
    modality: Annotated[str | None, typer.Option(help="Modality of MuData.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 5,
    rounds: Annotated[int, typer.Option(help="Rounds of each fit.")] = 20,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Only this method; may be repeated: {METHOD_NAMES}.")
    ] = None,
    holdout: Annotated[str, typer.Option(help="Held out: 'observations', or each 'site' in turn.")] = "observations",
    jobs: Annotated[
        int, typer.Option(help="Seeds that run at the same time, each in its own process; -1: one per core.")
    ] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the table as CSV.")] = None,
) -> None:
    """What would federation cost me? One table, from one file with a site column.

    Example: `infl compare cohort.h5ad --target tumour_class --site-key hospital`
    """
    import infl
    from infl._files import read_data
    from infl.cli.tables import print_table

    options = {"holdout": holdout} | ({} if modality is None else {"modality": modality})
    table = infl.tl.compare(
        read_data(file),
        target=target,
        site_key=site_key,
        seeds=seeds,
        rounds=rounds,
        methods=method or None,
        n_jobs=jobs,
        **options,
    )
    if out is not None:
        from infl._files import write_atomic

        write_atomic(out, table.to_csv(index=False).encode(), overwrite=True)
    print_table(table)
