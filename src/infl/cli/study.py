"""``infl study``: the file that describes a study, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infl.cli.coordinator import COORDINATOR_HOME, Home, MetricsOption, open_metrics, supervise
from infl.cli.under_way import add_commands
from infl.errors import FileError

if TYPE_CHECKING:
    from infl.deploy.study.attempt import StudyFolder

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
File = Annotated[Path, typer.Argument(help="study.toml.")]
SiteHome = Annotated[Path | None, typer.Option("--home", envvar="INFL_SITE", help="The site's folder.")]
Which = Annotated[
    str, typer.Option("--study", help="Its name, or the beginning of its random name.  [default: the only one]")
]
FETCHED = "each site has its working object, see `infl study fetch`"


@app.command()
def template(out: Annotated[Path, typer.Option(help="File to write.")] = Path("study.toml")) -> None:
    """Write a study.toml with comments.

    Example: `infl study template`
    """
    from infl._files import write_atomic
    from infl.deploy.study.file import TEMPLATE

    write_atomic(out, TEMPLATE.encode())
    typer.echo(f"{out}: edit it, and give it to coordinator and sites")


@app.command()
def check(study: File) -> None:
    """Say what a study does step by step, or what is wrong in its file.

    Example: `infl study check study.toml`
    """
    from infl.deploy.study.file import StudyFile
    from infl.deploy.study.specification import step_words
    from infl.deploy.study.steps import missing_everywhere

    found = StudyFile.read(study).study()
    for line in step_words(found):
        typer.echo(line)
    if wanted := missing_everywhere(found.steps):
        typer.echo(f"no step makes {', '.join(wanted)}: the data of every site must have it")
    typer.echo(f"{found.name}: {len(found.steps)} steps; {found.tolerance()}")


@app.command()
def start(
    study: File,
    home: Home = COORDINATOR_HOME,
    give_up: Annotated[float, typer.Option(help="Seconds without progress after which to end; 0: wait for ever.")] = 0,
    metrics: MetricsOption = "",
) -> None:
    """Start a study, or go on with it, and stay until it is finished; at the coordinator. Ctrl-C ends it after the step under way.

    Example: `infl study start study.toml`
    """
    from infl.deploy.study.attempt import StudyFolder
    from infl.deploy.study.file import StudyFile

    file = StudyFile.read(study)
    path = home / "runs" / file.name
    if (path / "agreement.json").exists():
        raise FileError(f"{file.name!r} is a run at {home}: choose another name in {study}")
    page = open_metrics(metrics)
    folder = StudyFolder(path)
    if not folder.exists:
        folder.begin(file.study())
    elif folder.agreement.specification != file.specification:
        raise FileError(f"study {file.name!r} was begun with other steps or sites: choose another name in {study}")
    folder.save_patience(file.waiting)
    supervise(home, file.name, give_up=give_up, metrics=page, fetched=FETCHED)


def _folder(home: Path, name: str) -> StudyFolder:
    from infl.deploy.study.attempt import StudyFolder, is_study

    path = home / "runs" / name
    if not is_study(path):
        raise FileError(f"no study {name!r} at {home}: start it with `infl study start study.toml`")
    return StudyFolder(path)


add_commands(app, "study", "my_study", _folder, FETCHED)


@app.command()
def fetch(
    out: Annotated[Path, typer.Argument(help="File to write, NAME.h5ad.")], study: Which = "", home: SiteHome = None
) -> None:
    """Copy this site's data with what the steps wrote, and locked models of fits beside it; at a site, after the study.

    Example: `infl study fetch results.h5ad`
    """
    from infl._files import check_new, write_atomic
    from infl.cli.site import find_home
    from infl.deploy.site_folder import SiteFolder
    from infl.deploy.study.consent import SiteStudies

    check_new(out)
    found, working = SiteStudies(SiteFolder(find_home(home))).result(study)
    models = {
        out.with_name(f"{out.stem}.step_{number}.infl.safetensors"): path for number, path in working.models().items()
    }
    for copy in models:
        check_new(copy)
    working.copy_to(out)
    typer.echo(f"{out}: what {len(found.steps)} steps of {found.name} made of this site's data")
    for copy, path in models.items():
        write_atomic(copy, path.read_bytes())
        typer.echo(f"{copy}: the model, locked; open it with infl.load_model and the site's key ring")


@app.command()
def report(
    out: Annotated[Path, typer.Argument(help="Page to write: NAME.html, or NAME.md.")],
    study: Which = "",
    language: Annotated[str, typer.Option(help="Language of the page: en, de or fr.")] = "en",
    home: SiteHome = None,
) -> None:
    """Write what a study did and opened here step by step, and what left this site; at a site, at any time.

    Example: `infl study report report.html`
    """
    from infl._files import write_atomic
    from infl.cli.site import find_home
    from infl.deploy.site_folder import SiteFolder
    from infl.governance.study import study_page

    if out.suffix.lower() not in (".html", ".htm", ".md"):
        raise FileError(f"{out} is no name for a page: give it one that ends in .html or .md")
    page = study_page(SiteFolder(find_home(home)), study, language=language)
    write_atomic(out, (page.markdown() if out.suffix.lower() == ".md" else page.html()).encode())
    typer.echo(f"{out}: steps, what was opened, and what left this site in each")
