"""Between hospitals: `docs/deploy.md` followed word by word, and the one line where something cannot work."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import psutil
import pytest
import torch
from anndata import AnnData
from typer.testing import CliRunner

import infl
from infl.cli.app import app
from infl.deploy.flare.checks import check_port
from infl.deploy.flare.consortium import consortium_of
from infl.deploy.flare.local_consortium import free_port
from infl.deploy.folders import alone
from infl.deploy.site_data import SiteSettings
from infl.deploy.site_folder import SiteFolder
from infl.errors import MAX_LENGTH, FederationError, FileError, InflError, SettingsError, UnreachableError
from infl.keys import Keyring
from infl.models.locked import LockedModel

SITES = ("hospital_a", "hospital_b", "hospital_c")
HOLDER = "hospital_a"
DOCS = Path(__file__).parents[2] / "docs" / "deploy.md"
POST = {  # who sends what to whom
    "hospital_?/hospital_?/*.request.zip": ("coordinator",),
    "coordinator/coordinator/*.signed.zip": SITES,
    "hospital_?/*.pub": (HOLDER,),
    "hospital_?/*.panel.json": (HOLDER,),
    f"{HOLDER}/consortium.hospital_?.key": SITES,
}


class Participants:
    """Everybody's folder, and a shell in each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.background: dict[str, subprocess.Popen[str]] = {}
        self.said: list[str] = []
        for name in ("coordinator", *SITES):
            (root / name).mkdir()

    def type(self, who: str, command: str) -> str:
        """Run a command of the documentation and return what it prints; those that stay do so in the background."""
        if not command.startswith("infl "):
            subprocess.run(shlex.split(command), cwd=self.root / who, check=True)
            return ""
        arguments = re.findall(r'"[^"]*"|\S+', command.partition("  #")[0])[1:]
        arguments = [a.strip('"') for a in arguments]
        environment = {"INFL_IDENTITY": str(self.root / who / "config" / "identity.key"), "INFL_PROGRESS": "0"}
        if arguments[1] in ("start", "resume"):
            code = "from infl.cli import main; main()"
            with (self.root / f"{who}.out").open("a") as output:
                self.background[who] = subprocess.Popen(
                    [sys.executable, "-c", code, *arguments], cwd=self.root / who, env=os.environ | environment,
                    stdout=output, stderr=output, text=True,
                )  # fmt: skip
            return ""
        before = Path.cwd()
        os.chdir(self.root / who)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(infl.settings, "identity", self.root / who / "config" / "identity.key")
            try:
                done = CliRunner().invoke(app, arguments, env=environment, input="y\n")
            finally:
                os.chdir(before)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    def post(self) -> None:
        """Send what people send each other."""
        for pattern, recipients in POST.items():
            for file in self.root.glob(pattern):
                for recipient in recipients:
                    if recipient not in SITES or len(recipients) == 1 or recipient in file.name:
                        target = self.root / recipient / file.name
                        if not target.exists():
                            shutil.copy(file, target)

    def output(self, who: str) -> str:
        return (self.root / f"{who}.out").read_text()

    def end_all(self) -> None:
        """End everybody as a service manager does, the coordinator first."""
        for who in [name for name in ("coordinator", *SITES) if name in self.background]:
            self.background[who].send_signal(signal.SIGTERM)
            self.wait(who, code=0)

    def wait(self, who: str, *, code: int, seconds: float = 600) -> str:
        assert self.background[who].wait(seconds) == code, self.output(who)
        del self.background[who]
        return self.output(who)

    def wait_until(self, true: Callable[[], bool], *, seconds: float = 600) -> None:
        until = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < until, {who: self.output(who) for who in self.background}
            for who, process in self.background.items():
                assert process.poll() is None, self.output(who)
            time.sleep(0.1)

    def end(self) -> None:
        for process in self.background.values():
            process.send_signal(signal.SIGINT)
        for process in self.background.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def commands(page: Path = DOCS, *, sections: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Return who types what, in the order of the page, or of some of its sections; and what it has of consortium.toml."""
    parts = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
    shown = "".join(part for part in parts if not sections or part.partition("\n")[0] in sections)
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", shown, re.MULTILINE | re.DOTALL):
        first, _, rest = text.partition("\n")
        if language == "toml":
            yield "toml", text
        elif first in ("# coordinator", "# each site", "# key holder"):
            for command in rest.splitlines():
                yield first[2:], command
        elif language != "text":
            assert "infl " not in text or text.startswith("pip install"), f"nobody types {text!r}"


@pytest.fixture
def people(tmp_path: Path, khan: AnnData, monkeypatch: pytest.MonkeyPatch) -> Iterator[Participants]:
    monkeypatch.delenv("INFL_KEY_PASSPHRASE", raising=False)
    people = Participants(tmp_path)
    for i, site in enumerate(SITES):
        khan[i::3, :200].copy().write_h5ad(tmp_path / site / "cohort.h5ad")
    yield people
    people.end()


FIRST, BACKUPS = ("Set up once", "A run"), ("Backups, updates",)


def test_every_command_of_the_page_is_typed_in_a_test() -> None:
    assert [*commands()] == [*commands(sections=FIRST), *commands(sections=BACKUPS)]


@pytest.mark.long
def test_the_page_word_by_word(people: Participants) -> None:
    follow(people, commands(sections=FIRST))
    for site in SITES:
        people.background[site].send_signal(signal.SIGTERM)
        assert "up, Ctrl-C ends" in people.wait(site, code=0)
        assert not [p.pid for p in psutil.process_iter(["cmdline"]) if is_engine(p, people.root / site)]
    outcome(people)


GUIDE = DOCS.parent / "guide" / "three_hospitals.md"


def test_a_hospital_types_five_commands_to_its_first_model() -> None:
    typed = [command for who, command in commands(GUIDE) if who == "each site"]
    assert len(typed) == 5 and typed[-1].startswith("infl run fetch")


@pytest.mark.long
def test_the_guide_word_by_word(people: Participants) -> None:
    steps = [*commands(GUIDE)]
    follow(people, steps[:-1], rounds=5)
    assert "my_run: finished; each site has the model" in people.wait("coordinator", code=0)
    follow(people, steps[-1:])
    assert len({model.effective(ring)["head.weight"].numpy().tobytes() for model, ring in fetched(people)}) == 1


def follow(people: Participants, steps: Iterable[tuple[str, str]], *, rounds: int = 150) -> None:
    """Type commands of the page, and do what it says in words; send each other what people send."""
    told = ""
    for who, command in steps:
        if who == "toml":
            text = command.replace("coordinator.example.org", "localhost").replace("8002", str(free_port()))
            for name in ("coordinator", *SITES):
                (people.root / name / "consortium.toml").write_text(text)
            continue
        everybody = {"coordinator": ["coordinator"], "key holder": [HOLDER], "each site": list(SITES)}[who]
        each = "hospital_b" in command and "hospital_a" not in command
        for participant in everybody:
            for site in SITES if each and who != "each site" else [participant]:
                line = command.replace("1a2b3c4d …", told).replace("hospital_b", site) if each else command
                if line.startswith(("infl run status", "infl run stop")):
                    people.wait_until(lambda: re.search(r"round \d+ of", people.output("coordinator")) is not None)
                printed = people.type(participant, line)
                assert "WRONG" not in printed
                people.said.append(printed)
            people.post()
        after(people, command, printed, rounds)
        if command.startswith("infl coordinator init"):
            told = printed.strip().splitlines()[-1]


@pytest.mark.long
def test_backups_word_by_word(people: Participants) -> None:
    """The newest state goes on; an older one of the coordinator or of a site stops the run, until a newer one is put back."""
    steps = [*commands(sections=FIRST)]
    started = next(i for i, (_, command) in enumerate(steps) if command.startswith("infl run status"))
    follow(people, steps[:started], rounds=1000)
    steps = [*commands(sections=BACKUPS)]
    archive = [step for step in steps if step[1].startswith("tar -c")]
    restore = [step for step in steps if step not in archive]
    starts = [step for step in restore if step[1].startswith("infl")]

    def moves() -> None:
        """The run goes on with everybody."""
        said = len(people.output("coordinator"))
        people.wait_until(
            lambda: re.search(r"round \d+ of 1000, 3 of 3", people.output("coordinator")[said:]) is not None
        )

    def keep(name: str) -> None:
        people.end_all()
        follow(people, archive)
        for file in people.root.glob("*/*.tar.gz"):
            shutil.copy(file, file.with_suffix(f".{name}"))

    def put_back(who: str, name: str) -> None:
        """Put one participant's folder back, by the commands of the page; all others start where they are."""
        kept = people.root / who / (f"{who}.tar.{name}")
        shutil.copy(kept, kept.with_suffix(".gz"))
        for role, command in restore:
            if (role == "coordinator") == (who == "coordinator"):
                people.type(who, command.replace("hospital_b", who))
        for other in {"coordinator", *SITES} - {who}:
            for role, command in starts:
                if (role == "coordinator") == (other == "coordinator"):
                    people.type(other, command)

    moves()
    keep("older")
    put_back("coordinator", "older")  # it is the newest
    moves()
    keep("newer")

    put_back("coordinator", "older")
    assert re.search(
        r"have sums that my_run lacks here: put back from an older backup; put back a newer one, or begin anew .* go on",
        people.wait("coordinator", code=3),
    )
    people.end_all()
    put_back("coordinator", "newer")
    moves()
    keep("newer")

    put_back("hospital_b", "older")
    assert "hospital_b lack sums that are no longer kept: put back from an older backup" in people.wait(
        "coordinator", code=3
    )
    people.end_all()
    put_back("hospital_b", "newer")
    moves()
    people.end_all()

    for who in ("coordinator", *SITES):
        file = people.root / who / "run.toml"
        file.write_text(file.read_text().replace("my_run", "my_run_2").replace("rounds = 1000", "rounds = 2"))
    for role, command in starts:
        for who in SITES if role == "each site" else ("coordinator",):
            people.type(who, command)
    assert "my_run_2: finished" in people.wait("coordinator", code=0)


def after(people: Participants, command: str, printed: str, rounds: int) -> None:
    """Do what the page says in words."""
    if command.startswith("infl run template"):
        file = people.root / HOLDER / "run.toml"
        ring = Keyring.load(people.root / HOLDER / "consortium.key", people.root / HOLDER / "config" / "identity.key")
        assert any(ring.fingerprint() in said for said in people.said)
        text = (
            file.read_text()
            .replace('target = ""', 'target = "tumour_class"')
            .replace("rounds = 20", f"rounds = {rounds}")
        )
        file.write_text(text.replace('fingerprint = ""', f'fingerprint = "{ring.fingerprint()}"') + WAITING)
        for name in ("coordinator", *SITES):
            for sent in ("run.toml", "panel.json"):
                if name != HOLDER:
                    shutil.copy(people.root / HOLDER / sent, people.root / name / sent)
    elif command.startswith("infl coordinator start"):
        people.wait_until(lambda: "waits for sites" in people.output("coordinator"))
    elif command.startswith("infl run stop"):
        assert re.search(
            r"my_run: stopped after round \d+; `infl run resume my_run`", people.wait("coordinator", code=0)
        )
        said = people.output("coordinator")
        people.type("coordinator", "infl coordinator start run.toml")  # as a service manager does
        again = people.wait("coordinator", code=0).removeprefix(said)
        assert re.fullmatch(r"my_run: stopped after round \d+; `infl run resume my_run` goes on\n", again)
    elif command.startswith("infl run resume"):
        said = people.output("coordinator")
        people.wait_until(lambda: "my_run: round" in people.output("coordinator").removeprefix(said))
        people.background["coordinator"].send_signal(signal.SIGTERM)
        ended = people.wait("coordinator", code=0).removeprefix(said)
        assert "my_run: ending after this round" in ended and "start it again to go on" in ended
        assert check_port(consortium_of(people.root / "coordinator" / "coordinator"))
        assert not [p.pid for p in psutil.process_iter(["cmdline"]) if is_engine(p, people.root / "coordinator")]
        people.type("coordinator", "infl coordinator start run.toml")
        assert "my_run: finished" in people.wait("coordinator", code=0)
    elif command.startswith("infl run status"):
        assert re.match(r"(running|finished), round \d+ of 150", printed)
        assert all(site in printed for site in SITES)


def is_engine(process: psutil.Process, home: Path) -> bool:
    """Whether it is one of FLARE's of a participant."""
    command = " ".join(process.info["cmdline"] or [])
    return "nvflare." in command and str(home) in command


WAITING = "\n[waiting]\nsilence = 8\nrepeat = 2\n"


def fetched(people: Participants) -> Iterator[tuple[LockedModel, Keyring]]:
    """Return the sites' models and rings."""
    for site in SITES:
        folder = people.root / site
        yield (
            infl.load_model(folder / "results" / "model.infl.safetensors"),
            Keyring.load(folder / "site.key", folder / "config" / "identity.key"),
        )


def outcome(people: Participants) -> None:
    """Each site has the same model, which opens with its ring and is of use."""
    right, weights = [], []
    for site, (model, ring) in zip(SITES, fetched(people), strict=True):
        folder = people.root / site
        adata = anndata.read_h5ad(folder / "cohort.h5ad")
        infl.tl.predict(adata, model, key=ring)
        right.append((adata.obs["infl_prediction"].astype(str) == adata.obs["tumour_class"].astype(str)).mean())
        weights.append(torch.cat([t.ravel() for _, t in sorted(model.effective(ring).items())]))
        assert torch.equal(weights[0], weights[-1])
        assert len(pd.read_csv(folder / "results" / "history.csv")) == 150
        page = (folder / "report.html").read_text()
        assert f"the ledger of {site} is; the others keep their own" in page
        assert ring.fingerprint() in page and "150 of 150" in page
        card = json.loads((folder / "report.model_card.json").read_text())
        assert card["model_details"]["version"]["sha256"] == model.header.digest
        assert [row["site"] for row in card["quantitative_analyses"]["by_site"]] == [site]
    assert min(right) > 0.9


# -- what cannot work is one line -----------------------------------------------------------------------------------
CONSORTIUM = 'name = "tumours"\nhost = "localhost"\nport = {port}\n'


def typed(*arguments: object, answer: str = "") -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=answer)


def refused(*arguments: object, kind: type[InflError] = FileError, answer: str = "") -> str:
    """Return the one line, which the entry point prints before it leaves."""
    done = typed(*arguments, answer=answer)
    assert type(done.exception) is kind, done.exception or done.output
    assert len(str(done.exception)) <= MAX_LENGTH
    return str(done.exception)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        *(f"coordinator {c}" for c in ("init", "approve", "start", "check", "sites", "revoke", "renew")),
        *(f"site {c}" for c in ("enrol", "install", "start", "check", "status", "approve", "ledger")),
        *(
            f"run {c}"
            for c in ("template", "panel", "list", "prune", "status", "watch", "stop", "resume", "fetch", "report")
        ),
    ],
)
def test_help_has_an_example(command: str) -> None:
    assert f"Example: infl {command}" in typed(*command.split(), "--help").stdout.replace("`", "")


def test_files_that_are_missing_or_wrong(here: Path) -> None:
    assert "consortium.toml" in refused("coordinator", "init", "consortium.toml")
    (here / "consortium.toml").write_text('name = "tumours"\nhost = "localhost"\nporte = 1\n')
    line = refused("coordinator", "init", "consortium.toml", kind=SettingsError)
    assert line == "consortium.toml, line 3: porte: is not known"
    assert "consortium.toml" in refused("site", "enrol", "a", kind=SettingsError)
    assert "no run 'x' at coordinator" in refused("run", "status", "x")
    assert "no run 'x' at coordinator" in refused("run", "stop", "x")
    assert "no run 'x' at coordinator" in refused("run", "resume", "x")
    assert "0 sites' folders here" in refused("run", "fetch", "results")
    assert "0 sites' folders here" in refused("run", "report", "report.html")
    assert "no site's folder" in refused("run", "fetch", "results", "--home", "nowhere")
    assert "cannot read run.toml" in refused("coordinator", "start", "run.toml")
    assert "'classifer' is not known" in refused("run", "template", "classifer", kind=SettingsError)
    assert typed("run", "template", "classifier").exit_code == 0
    assert "run.toml exists" in refused("run", "template", "classifier")
    assert "data.h5ad" in refused("run", "panel", "data.h5ad", "--target", "y")
    (here / "a.json").write_text("[1]")
    assert "a.json is no panel" in refused("run", "panel", "a.json", "--target", "y")
    assert {p.name for p in here.iterdir()} == {"consortium.toml", "run.toml", "a.json"}


@pytest.mark.slow
def test_kits_ports_and_fingerprints(here: Path, khan: AnnData) -> None:
    (here / "consortium.toml").write_text(CONSORTIUM.format(port=free_port()))
    fingerprint = typed("coordinator", "init", "consortium.toml").stdout.splitlines()[-1]
    assert "a coordinator already" in refused("coordinator", "init", "consortium.toml")
    mine = typed("site", "enrol", "hospital_a").stdout
    assert "has a request already" in refused("site", "enrol", "hospital_a")
    request = here / "hospital_a" / "hospital_a.request.zip"
    assert "is not a request" in refused("coordinator", "approve", "consortium.toml", kind=FederationError)
    assert "not confirmed" in refused("coordinator", "approve", request, answer="n\n", kind=FederationError)
    assert not list(here.glob("coordinator/*.signed.zip"))
    shown = typed("coordinator", "approve", request, answer="y\n").stdout
    assert shown.splitlines()[1] in mine
    signed = here / "coordinator" / "hospital_a.signed.zip"
    other = "0" * 8 + fingerprint[8:]
    assert "fingerprint" in refused("site", "install", signed, "--fingerprint", other, kind=FederationError).lower()
    khan[::4].copy().write_h5ad(here / "cohort.h5ad")
    start = ("site", "start", "--data", "cohort.h5ad")
    assert "kit is missing" in refused(*start)
    assert typed("site", "install", signed, "--fingerprint", fingerprint).exit_code == 0
    assert "installed already" in refused("site", "install", signed, "--fingerprint", fingerprint)
    assert "nowhere.h5ad" in refused("site", "start", "--data", "nowhere.h5ad")
    (here / "hospital_a" / "policy.toml").write_text("max_rounds = 0\n")
    assert "policy.toml, line 1: max_rounds" in refused(*start, kind=SettingsError)
    (here / "hospital_a" / "policy.toml").unlink()
    checked = typed("site", "check", "--data", "cohort.h5ad")
    assert re.search(r"WRONG connection .* cannot be reached .* is the coordinator up", checked.stdout)
    assert checked.stdout.count("WRONG") == 1
    settings_stay(here)
    assert "1 of 9 checks failed: connection" in str(checked.exception)
    begun(here)
    with socket.socket() as taken:
        taken.bind(("", infl_port(here)))
        taken.listen()
        checked = typed("coordinator", "check", "run.toml")
        assert re.search(r"WRONG port +port \d+ is taken", checked.stdout)
        assert "is taken" in refused("coordinator", "start", "run.toml", kind=UnreachableError)
    (here / "run.toml").write_text((here / "run.toml").read_text().replace("rounds = 20", "rounds = 21"))
    assert "begun with other settings" in refused("coordinator", "start", "run.toml")
    assert "is no server kit" in refused("coordinator", "start", "run.toml", "--home", "hospital_a")
    renewed(here, fingerprint)


def settings_stay(here: Path) -> None:
    """Neither a check nor a start that is refused rewrites the settings of a site that is up."""
    site_folder = SiteFolder(here / "hospital_a")
    assert not (site_folder.home / "site.json").exists()
    site_folder.save_settings(SiteSettings("hospital_a", str(here / "cohort.h5ad"), expects="0" * 64))
    before = (site_folder.home / "site.json").read_bytes()
    typed("site", "check", "--data", "cohort.h5ad")
    refused("site", "start", "--data", "nowhere.h5ad")
    with alone(site_folder.home):
        assert "in use by another process" in refused("site", "start", "--data", "cohort.h5ad")
    assert (site_folder.home / "site.json").read_bytes() == before
    (site_folder.home / "site.json").unlink()


def renewed(here: Path, fingerprint: str) -> None:
    """New certificates serve in place of old ones; a site that was shut out is on the server's list."""
    kits = {name: here / name / "kit" / "startup" for name in ("coordinator", "hospital_a")}
    before = {name: sorted(f.read_bytes() for f in kit.glob("*.key")) for name, kit in kits.items()}
    assert typed("site", "enrol", "hospital_a", "--renew").exit_code == 0
    request, signed = (here / f for f in ("hospital_a/hospital_a.request.zip", "coordinator/hospital_a.signed.zip"))
    assert typed("coordinator", "approve", request, "--yes", "--renew").exit_code == 0
    assert typed("site", "install", signed, "--fingerprint", fingerprint).exit_code == 0
    assert "valid for 365 days" in typed("coordinator", "renew").stdout
    for name, kit in kits.items():
        assert sorted(f.read_bytes() for f in kit.glob("*.key")) != before[name]
        assert (kit.parent / "local" / "resources.json").exists()
        assert not [*(here / name).glob("*.new")]
    checked = typed("site", "check", "--data", "cohort.h5ad").stdout
    assert re.search(r"ok +certificate +valid for 365 days", checked)
    shown = typed("site", "status")
    assert type(shown.exception) is UnreachableError and shown.stdout.startswith("hospital_a: not up: no process of")
    with alone(here / "hospital_a"):
        shown = typed("site", "status").stdout
        assert "hospital_a: up, not connected yet\ncertificate: valid for 365 days" in shown
    assert "no certificate to renew" in refused("site", "enrol", "b", "--renew")
    assert "'hospital_z' was not enrolled here" in refused("coordinator", "revoke", "hospital_z", kind=FederationError)
    assert "infl key revoke hospital_a" in typed("coordinator", "revoke", "hospital_a").stdout
    assert json.loads((kits["coordinator"].parent / "disabled_clients.json").read_text()) == {
        "disabled_clients": ["hospital_a"]
    }


def begun(folder: Path) -> None:
    """Write a run's files."""
    assert typed("run", "panel", "cohort.h5ad", "--target", "tumour_class").exit_code == 0
    assert typed("run", "template", "classifier").exit_code == 0
    text = (folder / "run.toml").read_text().replace('target = ""', 'target = "tumour_class"')
    (folder / "run.toml").write_text(text.replace('fingerprint = ""', 'fingerprint = "abcd"'))


def infl_port(folder: Path) -> int:
    return int(re.findall(r"port = (\d+)", (folder / "consortium.toml").read_text())[0])
