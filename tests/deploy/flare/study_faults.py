"""Processes killed −9 at scripted places of one study over TLS, one after the other; `make faults`, or ``python study_faults.py [WORD …]``.

Three sites under rules of disclosure, and the coordinator. A process dies at a point of its own code, or all processes of a participant,
or of several, are killed while one stays at such a point. After each the study must go on. At its end every site has the bits that the same
functions make in one process under the same rules (a fit: its predictions, and latents to 1e-5), each site's ledger has one message
for each exchange, and its register the releases of the unbroken study and no other: then nothing was opened twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from faults import Played, Scene
from scipy import sparse

import infl
from infl.deploy.remote import Patience
from infl.deploy.study.consent import SiteStudies
from infl.deploy.study.specification import Study
from infl.deploy.study.steps import Step
from infl.privacy import Disclosure, DisclosureRules

STEPS = [
    Step.read("pp.qc_summary", {"percent_top": [10]}),
    Step.read("pp.normalize_total", {"target_sum": 100}),
    Step.read("pp.log1p", {}),
    Step.read("pp.highly_variable_genes", {"n_top_genes": 20}),
    Step.read("pp.pca", {"n_comps": 4}),
    Step.read("tl.fit_federated", {"target": "donor", "rounds": 4, "width": 8}),
    Step.read("tl.cluster", {"n_clusters": 3, "use_rep": "X_pca", "n_init": 2}),
]
RULES = {"dominance": 1, "features_per_record": 1e6, "records_per_parameter": 0, "groups": ["donor"]}
POLICY = 'seals = ["pairwise", "group"]\nrepeat_seeds = true\n\n[disclosure]\n' + "".join(
    f"{name} = {json.dumps(value)}\n" for name, value in RULES.items()
)
PATIENCE = Patience(silence=5, repeat=2, consent=60)
SITE, COORDINATOR = "site_2", "coordinator"
KEPT = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Place:
    """Where a study is interrupted: at a point of whose code, by what; without `kill`, the process kills itself."""

    name: str
    who: str
    point: str
    kill: Callable[[Scene], None] | None = None


PLACES = [
    Place("a site: asked to take part", SITE, "SiteStudies.prepare|before|"),
    Place("a site: said yes, has not begun", SITE, "StudySite.run|before|"),
    Place("the coordinator's job: before the offer", COORDINATOR, "RemoteTransport.offer|before|"),
    Place("a site: its random bytes are kept, not used", SITE, "WorkingObject.drawn|after|step=0"),
    Place("a site: sealed, not in the ledger", SITE, "Ledger.record|before|step 1,"),
    Place("a site: in the ledger, not sent", SITE, "Ledger.record|after|step 1,"),
    Place("a site: judged, not in the register", SITE, "RegisterFile.append|before|"),
    Place("a site: in the register, not sealed", SITE, "RegisterFile.append|after|"),
    Place("the coordinator's job: added, not written", COORDINATOR, "HeardFile.add|before|0000"),
    Place("the coordinator's job: written, nobody told", COORDINATOR, "HeardFile.add|after|0000"),
    Place("all processes of a site, step 2", SITE, "StudyChannel.agree|before|step=1", Scene.kill_site),
    Place("a site: a matrix is to be written", SITE, "_write|before|"),
    Place("a site: a matrix is written, the object is not", SITE, "_write|after|"),
    Place("a site: the object is written, not said so", SITE, r"WorkingObject.write|after|step=2"),
    Place("server and job, step 3", COORDINATOR, "HeardFile.add|before|0002", Scene.kill_server),
    Place("a site: all have written, it has not kept", SITE, r"WorkingObject.keep|before|step=2"),
    Place("a site: a step is kept, the next not begun", SITE, r"WorkingObject.keep|after|step=2"),
    Place("the coordinator's job: one site told, the others not", COORDINATOR, "StudyTransport.tell|after|"),
    Place("infl's own process at the coordinator, step 4", SITE, "StudyChannel.add|before|step=3", Scene.kill_supervisor),
    Place("all processes of the coordinator, step 4", SITE, "StudyChannel.add|after|step=3", Scene.kill_coordinator),
    Place("all sites, step 5", SITE, "StudyChannel.add|after|step=4", Scene.kill_all_sites),
    Place("a site and the server, step 5", SITE, "StudyChannel.add|before|step=4", Scene.kill_site_and_server),
Place("the coordinator's job: a step begins, the last is not forgotten", COORDINATOR, "Desk._forget_before|before|step=5"),
    Place("a site: a round of the fit is in the ledger, not sent", SITE, "Ledger.record|after|step 6, .*train"),
    Place("everything, in the fit", SITE, "StudyChannel.add|after|step=5 .*train", Scene.kill_everything),
    Place("everything, step 7", SITE, "StudyChannel.add|before|step=6 .*sums", Scene.kill_everything),
    Place("a site: its message is due, step 7", SITE, "StudyWorker._exchange|before|step=6"),
    Place("a site: it has the answer, step 7", SITE, "StudyWorker._exchange|after|step=6"),
    Place("a site: the last step is kept, not said so", SITE, r"WorkingObject.keep|after|step=6"),
    Place("the coordinator's job: the last step is kept, the study not noted as finished", COORDINATOR, "StudyAttempt._work|after|"),
]  # fmt: skip


@dataclass
class Outcome:
    """What came of a place; `killed` are the kinds of processes that were, where others killed them."""

    during: str
    date: str
    commit: str
    attempts: int = 0
    seconds: float = 0.0
    killed: str = ""
    wrong: str = ""
    same: bool | None = None
    """Whether all was as it must be when the study was over."""


def make_sites() -> dict[str, AnnData]:
    rng, sites = np.random.default_rng(0), {}
    base = rng.lognormal(0, 1, 40)
    for i, n in enumerate((90, 80, 100), 1):
        kind = np.arange(n) % 3
        rate = np.where(np.arange(40) // 8 == kind[:, None], 6.0, 1.0) * base
        adata = AnnData(sparse.csr_matrix(1.0 + rng.poisson(rate), dtype=np.float32))
        adata.obs_names, adata.var_names = [f"{i}-{j}" for j in range(n)], [f"g{j}" for j in range(40)]
        adata.obs["donor"] = np.array(["x", "y"])[np.arange(n) // 3 % 2]
        sites[f"site_{i}"] = adata
    return sites


class Interrupted(Played):
    """A study that is interrupted at places, one after the other."""

    def __init__(self, scene: Scene, commit: str) -> None:
        network, self.commit = scene.network, commit
        key = network.key
        self.study = Study.new("interrupted", [*network.data], STEPS, key.current, key.fingerprint())
        scene.run = network.begin_study(self.study)
        scene.run.save_patience(PATIENCE)
        super().__init__(scene, "interrupted")

    def play(self, places: list[Place]) -> dict[str, Outcome]:
        """Interrupt it at all places, wait for its end, and return what came of each."""
        found: dict[str, Outcome] = {}
        with self.scene.network.sites_up():
            self._order(places[0])
            self.scene.start(self.name)
            try:
                for place, after in zip(places, [*places[1:], None], strict=True):
                    outcome = found[place.name] = self._happens(place, after)
                    print(f"{len(found):>2} {place.name:<80} {outcome.seconds:5.0f} s  {outcome.wrong}", flush=True)
                    if outcome.wrong:
                        break
                ended = self.until(lambda: self.run.status.state == "finished")
            finally:
                self.end()
        wrong = self._compared() if ended else f"not finished: {self.run.status}"
        if wrong:
            print(wrong, (self.scene.network.root / "coordinator.out").read_text()[-2000:], sep="\n")
        for outcome in found.values():
            outcome.same, outcome.wrong = not wrong, outcome.wrong or wrong
        return found

    def _order(self, place: Place | None) -> None:
        if place is not None:
            deed = "" if place.kill is None else "|wait"
            (self.scene.orders / place.who).write_text(place.point + deed)

    def _happens(self, place: Place, after: Place | None) -> Outcome:
        outcome = Outcome("study", date.today().isoformat(), self.commit)
        order, said = self.scene.orders / place.who, self.scene.orders / "reached"
        if not self.until(lambda: not order.exists() and (place.kill is None or said.exists())):
            outcome.wrong = f"the place was not reached: {self.run.status}"
            order.unlink(missing_ok=True)
            return outcome
        before, begun, position = self.run.status, time.monotonic(), self.run.position
        self.scene.hit.clear()
        if place.kill is not None:
            place.kill(self.scene)
            outcome.killed = ", ".join(sorted({*self.scene.hit}))
        self._order(after)
        said.unlink(missing_ok=True)
        alone = place.kill is Scene.kill_supervisor  # the job goes on without it
        if not self.until(lambda: self._goes_on(before.attempts, position, alone=alone)):
            outcome.wrong = f"it did not go on: {self.run.status}"
        outcome.attempts, outcome.seconds = (
            self.run.status.attempts - before.attempts,
            round(time.monotonic() - begun, 1),
        )
        return outcome

    def _goes_on(self, attempts: int, position: int, *, alone: bool) -> bool:
        status = self.run.status
        if status.state == "finished":
            return True
        return self.run.position > position if alone else status.attempts > attempts

    def _compared(self) -> str:
        """Return what is wrong with the study, which has ended."""
        network = self.scene.network
        results = {site: SiteStudies(network.site_folder(site)).result()[1].read() for site in network.data}
        seed = next(iter(results.values())).uns["infl"]["settings"]["seed"]
        with tempfile.TemporaryDirectory() as folder, Disclosure(DisclosureRules(**RULES), folder):  # type: ignore[arg-type]
            sites = {site: adata.copy() for site, adata in network.data.items()}
            for step in STEPS:
                if step.do == "tl.fit_federated":
                    infl.tl.fit_federated(sites, **step.arguments, seed=seed, key=network.key, progress=False)
                else:
                    step.run(sites)
            released = {site: releases(Path(folder) / site) for site in sites}
        for site, adata in sites.items():
            found, home = results[site], network.site_folder(site)
            for slot in ("obs", "var"):
                table, expected = getattr(found, slot), getattr(adata, slot)
                for name in expected.columns:
                    same = np.array_equal(
                        table[name].to_numpy(), expected[name].to_numpy(), equal_nan=table[name].dtype.kind == "f"
                    )
                    if not same and name != "infl_probability":
                        return f"{slot}[{name!r}] of {site} is another one"
            if not (
                np.array_equal(found.X.data, adata.X.data) and np.array_equal(found.obsm["X_pca"], adata.obsm["X_pca"])
            ):
                return f"X or X_pca of {site} is another one"
            if not np.allclose(found.obsm["X_infl"], adata.obsm["X_infl"], atol=1e-5):
                return f"the latent of the fit at {site} is another one"
            [where] = home.studies()
            rows = [row["context"] for row in home.ledger(where)]
            if len({*rows}) < len(rows):
                return f"two messages for one exchange are in the ledger of {site}"
            if releases(home.home / "disclosure" / site) != released[site]:
                return f"the register of {site} has other releases than one of an unbroken study"
        return ""


def releases(folder: Path) -> set[tuple[str, str]]:
    """Return what was released about which records."""
    rows = map(json.loads, (folder / "register.jsonl").read_text().splitlines())
    return {(row["about"], row["of"]) for row in rows if "of" in row}


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    path = [str(Path(__file__).parent / "points"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    places = [place for place in PLACES if not sys.argv[1:] or any(word in place.name for word in sys.argv[1:])]
    command = ["git", "log", "-1", "--format=%h", "--", ":/src"]
    commit = subprocess.run(command, cwd=KEPT.parent, capture_output=True, text=True, check=True).stdout.strip()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = Interrupted(Scene(Path(folder), make_sites(), POLICY), commit).play(places)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept |= {name: asdict(outcome) for name, outcome in found.items()}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    wrong = len(places) - sum(not outcome.wrong for outcome in found.values())
    print(
        f"{len(found)} of {len(places)} places in {time.monotonic() - begun:.0f} s, {wrong} with something wrong or not reached"
    )
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
