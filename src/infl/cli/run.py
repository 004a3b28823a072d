"""``infl run``: the file that describes a run, and what becomes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infl.cli.coordinator import COORDINATOR_HOME, MODEL_FETCHED
from infl.cli.coordinator import Home as CoordinatorHome
from infl.cli.options import MODEL_NAMES, Options, task_options
from infl.cli.under_way import add_commands
from infl.errors import FederationError, FileError, SettingsError

if TYPE_CHECKING:
    from infl.deploy.attempt import AttemptFolder
    from infl.deploy.run_attempt import RunFolder
    from infl.deploy.site_folder import SiteFolder

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def template(
    model: Annotated[str, typer.Argument(help="Task, e.g. classifier.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("run.toml"),
) -> None:
    """Write a run.toml with comments.

    Example: `infl run template classifier`
    """
    from infl._files import write_atomic
    from infl.deploy.runfile import RunFile

    write_atomic(out, RunFile.template(model).encode())
    typer.echo(f"{out}: edit it, and give it to coordinator and sites")


@app.command()
def panel(
    data: Annotated[list[Path], typer.Argument(help="h5ad, h5mu or zarr data, or panels of other sites.")],
    target: Annotated[str | None, typer.Option(help="Column of obs to learn, for models that take one.")] = None,
    model: Annotated[str, typer.Option(help=f"Task: {MODEL_NAMES}.")] = "classifier",
    option: Options = None,
    site: Annotated[
        str | None, typer.Option(help="This site's name, for models that know the sites.  [default: the file's name]")
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("panel.json"),
) -> None:
    """Write features and classes, in the order that all sites will use. Names only; no value of a record.

    Every model has a panel: whatever its sites must agree on before the first round.

    Example: `infl run panel cohort.h5ad --target tumour_class`
    """
    from infl._files import read_data, write_atomic
    from infl.deploy.runfile import read_panel
    from infl.models.panels import join_panels
    from infl.models.registry import make_task

    files = [path for path in data if path.suffix != ".json"]
    if site is not None and len(files) != 1:
        raise SettingsError(f"--site names one site, and there are {len(files)} data files: leave it out")
    task, panels = make_task(model, task_options(target, option)), {}
    for path in data:
        name = site or path.stem
        panels[path.name] = read_panel(path) if path.suffix == ".json" else task.agree({name: read_data(path)})
    joined = join_panels(panels)
    joined = task.settled(joined) if len(panels) > 1 else joined
    write_atomic(out, json.dumps(joined, indent=1).encode())
    typer.echo(f"{out}: " + ", ".join(_told(kind, names) for kind, names in joined.items() if kind not in NOT_TOLD))


def _folder(home: Path, name: str) -> RunFolder:
    from infl.deploy.run_attempt import RunFolder

    if not (home / "runs" / name / "agreement.json").exists():
        raise FileError(f"no run {name!r} at {home}: start it with `infl coordinator start run.toml`")
    return RunFolder(home / "runs" / name)


add_commands(app, "run", "tumours", _folder, MODEL_FETCHED)


@app.command("list")
def list_(home: CoordinatorHome = COORDINATOR_HOME) -> None:
    """Print all runs and studies, how far each is, and whether a process is working on it; at the coordinator.

    Example: `infl run list`
    """
    from infl.deploy.condition import condition

    for folder in _begun(home):
        typer.echo(f"{folder.folder.name:<24} {folder.what:<6} {condition(folder).words}")


@app.command()
def prune(
    name: Annotated[
        list[str] | None, typer.Argument(help="Runs and studies.  [default: all that are finished]")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: CoordinatorHome = COORDINATOR_HOME,
) -> None:
    """Remove runs and studies that are over from the coordinator; sites keep theirs. What was not finished cannot go on then.

    Example: `infl run prune tumours`
    """
    from infl.deploy.condition import condition

    begun = {folder.folder.name: folder for folder in _begun(home)}
    if unknown := [each for each in name or () if each not in begun]:
        raise FileError(f"no run {unknown[0]!r} at {home}: see `infl run list`")
    for each in name or [each for each, folder in begun.items() if folder.status.state == "finished"]:
        found = condition(begun[each])
        if found.attended:
            raise FederationError(f"{each} is under way: `infl run stop {each}` first")
        if not yes and not typer.confirm(f"Remove {each} ({found.words})?"):
            continue
        shutil.rmtree(begun[each].folder)
        typer.echo(f"{each}: removed")


def _begun(home: Path) -> list[AttemptFolder]:
    from infl.deploy.flare.consortium import consortium_of
    from infl.deploy.run_attempt import RunFolder
    from infl.deploy.study.attempt import StudyFolder, is_study

    consortium_of(home)
    folders = sorted(path for path in (home / "runs").glob("*") if path.is_dir())
    return [
        StudyFolder(path) if is_study(path) else RunFolder(path)
        for path in folders
        if is_study(path) or (path / "agreement.json").exists()
    ]


@app.command()
def fetch(
    out: Annotated[Path, typer.Argument(help="Folder for model and history.")],
    run: Annotated[str, typer.Option(help="The run's random name, or its beginning.")] = "",
    home: Annotated[Path | None, typer.Option("--home", envvar="INFL_SITE", help="The site's folder.")] = None,
) -> None:
    """Copy the locked model and the history of a finished run; at a site.

    Example: `infl run fetch results`
    """
    from infl.cli.site import find_home
    from infl.deploy.site_folder import SiteFolder

    finished = _finished(SiteFolder(find_home(home)), run)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("model.infl.safetensors", "history.csv"):
        if (out / name).exists():
            raise FileError(f"{out / name} exists: choose another folder")
        shutil.copy(finished / name, out / name)
    typer.echo(f"{out}: model.infl.safetensors, history.csv; open with `infl.load_model` and the site's key ring")


@app.command()
def report(
    out: Annotated[Path, typer.Argument(help="Page to write: NAME.html; two JSON files go beside it.")],
    run: Annotated[str, typer.Option(help="The run's random name, or its beginning.")] = "",
    statements: Annotated[
        Path | None, typer.Option(help="TOML file with what only people can say: purpose, users, contact, …")
    ] = None,
    measure: Annotated[bool, typer.Option(help="Measure the model on this site's validation data.")] = True,
    language: Annotated[str, typer.Option(help="Language of the page: en, de or fr.")] = "en",
    home: Annotated[Path | None, typer.Option("--home", envvar="INFL_SITE", help="The site's folder.")] = None,
) -> None:
    """Write the page for the data steward, with a model card and a data sheet; at a site, after a finished run.

    Example: `infl run report report.html --statements statements.toml`
    """
    from infl.cli.site import find_home
    from infl.deploy.site_data import read_site
    from infl.deploy.site_folder import SiteFolder
    from infl.deploy.toml import read_checked
    from infl.governance import report as write_report
    from infl.governance.language import LANGUAGE
    from infl.tl import site_metrics

    LANGUAGE.read("language", language)
    answers = {} if statements is None else read_checked(statements, dict)
    site_folder = SiteFolder(find_home(home))
    agreement, settings = site_folder.agreement(_finished(site_folder, run)), site_folder.settings
    result = site_folder.result(agreement, site_folder.open_key(agreement))
    here = {settings.name: read_site(Path(settings.data), settings.name)} if measure else {}
    measured = site_metrics(result, here) if here else None
    page = write_report(result, out, site_metrics=measured, statements=answers, language=language)
    typer.echo(
        f"{page}: open it in a browser, print it, sign it; {page.stem}.model_card.json and .data_sheet.json are beside it"
    )


NOT_TOLD = ("units", "class_type")
"""Parts of a panel that say how its values are stored; nobody compares them by eye."""


def _told(kind: str, names: Any) -> str:
    """Return a part of a panel in a few words.

    Examples
    --------
    >>> _told("features", ["g1", "g2"]), _told("column", "perturbation"), _told("patch", [16, 16])
    ('2 features', 'column perturbation', 'patch 16 × 16')
    """
    if isinstance(names, dict) or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return f"{len(names)} {kind}"
    return f"{kind} {' × '.join(map(str, names)) if isinstance(names, list) else str(names)[:16]}"


def _finished(site_folder: SiteFolder, run: str) -> Path:
    done = [folder for folder in site_folder.runs(run) if (folder / "model.infl.safetensors").exists()]
    if len(done) != 1:
        raise FileError(f"{len(done)} finished runs here{': name one with --run' if done else ''}")
    return done[0]
