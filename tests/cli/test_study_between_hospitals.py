"""The guide's page on studies, typed word by word between processes over mutual TLS; and processes that are killed on the way."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pytest
from tests.cli.test_between_hospitals import commands
from tests.deploy.flare.conftest import until
from tests.deploy.study.test_steps import make_sites
from tests.deploy.study.test_study import STEPS
from tests.threads import same

import infl
from infl.deploy.flare.local_consortium import LocalConsortium, kill
from infl.deploy.remote import Patience
from infl.deploy.study.consent import SiteStudies
from infl.deploy.study.kinds import _WRITTEN_BY_MODEL
from infl.deploy.study.specification import Study
from infl.deploy.study.steps import Step
from infl.keys import Keyring

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "study.md"
SITES = ("hospital_a", "hospital_b", "hospital_c")
POLICY = 'seals = ["pairwise", "group"]\ndisclosure_rules = false\n'
MANY_STEPS = STEPS + [Step.read("tl.cluster", STEPS[-1].arguments | {"seed": seed}) for seed in range(1, 19)]
STEP_TABLES = """
[[step]]
do = "pp.qc_summary"
percent_top = [10]

[[step]]
do = "pp.normalize_total"
target_sum = 100

[[step]]
do = "pp.log1p"

[[step]]
do = "pp.highly_variable_genes"
n_top_genes = 20

[[step]]
do = "pp.pca"
n_comps = 4

[[step]]
do = "tl.cluster"
n_clusters = 3
use_rep = "X_pca"
n_init = 1
max_iter = 5

[waiting]
silence = 8
repeat = 2
"""
pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")]


@pytest.fixture
def network(tmp_path: Path) -> LocalConsortium:
    sites = dict(zip(SITES, make_sites().values(), strict=True))
    network = LocalConsortium(tmp_path, sites, Keyring.create())  # grants are of one network's identities
    for site in SITES:
        (tmp_path / site / "policy.toml").write_text(POLICY)
    return network


SHORT = {"rounds": 1, "width": 8, "n_blocks": 1}
COUNTS = {"rounds": 1, "n_latent": 2, "n_hidden": 4, "site_effect": "local"}
FITS = {
    "scvi": {"model": "scvi", **COUNTS},
    "scanvi": {"model": "scanvi", "target": "donor", **COUNTS},
    "spatial": {"model": "spatial", "n_domains": 2, "rounds": 1},
    "classifier": {"target": "donor", **SHORT},
    "labels": {"target": ["donor", "guide"], **SHORT},
    "regressor": {"model": "regressor", "target": "age", **SHORT},
    "survival": {"model": "survival", "time": "months", "event": "chosen", **SHORT},
    "perturbation": {"model": "perturbation", "target": "guide", "rounds": 1},
}
"""Each model that can be a step, and in what short form; the first three read counts."""


def expected(network: LocalConsortium, folder: Path, steps: list[Step] = STEPS) -> dict[str, anndata.AnnData]:
    """Return what the steps make of all sites in one process."""
    for step in steps:
        step.run(network.data)
    for site, adata in network.data.items():
        adata.write_h5ad(folder / f"expected_{site}.h5ad")
    return {site: anndata.read_h5ad(folder / f"expected_{site}.h5ad") for site in SITES}


class Terminals:
    """What is typed, by whom; commands that stay run in the background."""

    def __init__(self, network: LocalConsortium) -> None:
        self.network, self.background = network, dict[str, subprocess.Popen[bytes]]()

    def type(self, who: str, line: str) -> str:
        root = self.network.root
        words = [sys.executable, "-m", *shlex.split(line, comments=True)]
        home = root / who if who in SITES else root
        env = (
            {"OMP_NUM_THREADS": "1"}
            | os.environ
            | {"INFL_SITE": str(home), "INFL_COORDINATOR": str(root / "coordinator")}
        )
        if re.search(r"(study|site) start|study resume", line):
            output = (root / f"{who}.out").open("wb")
            self.background[who] = subprocess.Popen(words, cwd=home, env=env, stdout=output, stderr=subprocess.STDOUT)
            return ""
        done = subprocess.run(words, cwd=home, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    def output(self, who: str) -> str:
        return (self.network.root / f"{who}.out").read_text()

    def wait(self, who: str) -> tuple[int, str]:
        return self.background.pop(who).wait(240), self.output(who)

    def end(self) -> None:
        for process in self.background.values():
            process.send_signal(signal.SIGINT)
        for process in self.background.values():
            process.wait(30)


@pytest.fixture
def terminals(network: LocalConsortium, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminals]:
    monkeypatch.delenv("INFL_KEY_PASSPHRASE", raising=False)
    terminals = Terminals(network)
    yield terminals
    terminals.end()


def test_the_page_word_by_word(network: LocalConsortium, terminals: Terminals) -> None:
    root = network.root
    for who, line in commands(PAGE):
        if who == "toml":
            continue
        everybody = {"coordinator": ["coordinator"], "key holder": ["key holder"], "each site": list(SITES)}[who]
        for participant in everybody:
            typed = line
            if participant in SITES and "--key" in line:
                typed = line.replace("site.key", "ring.key").split("#")[0] + " --identity identity.key"
            if line.startswith("infl study check"):
                text = (root / "study.toml").read_text()
                text = text[: text.index("# Steps run")].replace(
                    'fingerprint = ""', f'fingerprint = "{network.key.fingerprint()}"'
                )
                for name in (".", *SITES):
                    (root / name / "study.toml").write_text(text + STEP_TABLES)
            if line.startswith(("infl study fetch", "infl study resume")) and "coordinator" in terminals.background:
                code, ended = terminals.wait("coordinator")  # a fast machine is through before it is asked to stop
                stopped = "my_study: stopped after step" in ended
                assert not code and (stopped or "my_study: finished" in ended)
                assert not stopped or "resume" in line
            printed = terminals.type(participant, typed)
            assert "WRONG" not in printed
            if line.startswith("infl study start"):
                until(lambda: "waits for sites" in terminals.output("coordinator"))
            if line.startswith("infl site start") and participant == SITES[-1]:
                until(
                    lambda: re.search(r"step \d of 6|offered", terminals.output("coordinator")) is not None, seconds=240
                )
    for site in SITES:
        terminals.background[site].send_signal(signal.SIGINT)
        code, printed = terminals.wait(site)
        assert not code and "step 6 of 6 is kept" in printed
    wanted = expected(network, root)
    for site in SITES:
        assert same(anndata.read_h5ad(root / site / "results.h5ad"), wanted[site])
        assert same(infl.study.result(root / site), wanted[site])
        page = (root / site / "report.html").read_text()
        assert '<th scope="row">1</th><td>quality of features</td><td class="number">1</td>' in page


def test_site_and_server_are_killed_and_the_study_goes_on(network: LocalConsortium, tmp_path: Path) -> None:
    """−9 on a site's processes in a step, −9 on the server's in a later one; nobody does anything about it."""
    study = Study.new("killed", SITES, MANY_STEPS, network.key.current, network.key.fingerprint())
    folder, killed = network.begin_study(study), list[str]()

    def fault(supervisor: object, line: str) -> None:
        if not killed and line.startswith("step"):  # a fast machine has done some when the first is heard of
            kill(network.daemons["hospital_b"])
            killed.append("hospital_b")
        elif killed == ["hospital_b"] and line.startswith("step"):
            kill(supervisor.daemon)  # type: ignore[attr-defined]
            killed.append("server")

    with network.sites_up():
        status = network.supervise("killed", Patience(silence=6, repeat=2, consent=90), on_line=fault)
    assert killed == ["hospital_b", "server"], network.lines
    assert (status.state, status.round) == ("finished", len(MANY_STEPS)), network.lines
    assert folder.status.attempts >= 2
    wanted = expected(network, tmp_path, MANY_STEPS)
    for site in SITES:
        _, working = SiteStudies(network.site_folder(site)).result()
        assert same(working.read(), wanted[site])
        kinds = [entry["context"] for entry in network.site_folder(site).ledger(working.folder)]
        assert len(kinds) == len({*kinds})  # one message at each place


def test_all_tasks_are_steps(network: LocalConsortium) -> None:
    """Every model is fitted in a step, and the sites have one model each time, and what it predicts."""
    assert {*FITS} == {*_WRITTEN_BY_MODEL}
    fits = [Step.read("tl.fit_federated", options | {"key_added": f"of_{name}"}) for name, options in FITS.items()]
    steps = [*fits[:3], *STEPS[1:3], *fits[3:]]
    study = Study.new("tasks", SITES, steps, network.key.current, network.key.fingerprint())
    network.begin_study(study)
    with network.sites_up():
        status = network.supervise("tasks", Patience(silence=60, repeat=10, consent=300), give_up=600)
    assert (status.state, status.round) == ("finished", len(steps)), network.lines
    of_sites = []
    for site in SITES:
        _, working = SiteStudies(network.site_folder(site)).result()
        found = working.read()
        for step in fits:
            assert all(name in getattr(found, slot) for slot, name in step.writes)
        models = [infl.load_model(path) for path in working.models().values()]
        of_sites.append(
            [{name: value.numpy() for name, value in model.effective(network.key).items()} for model in models]
        )
    first, *others = of_sites
    assert len(first) == len(FITS)
    for other in others:
        for one, another in zip(first, other, strict=True):
            assert {*one} == {*another}
            for name, value in one.items():
                np.testing.assert_array_equal(value, another[name])
