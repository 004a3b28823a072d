"""A study over a line that loses messages, between a coordinator and sites that die, stop, decline or fail."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.study.test_steps import make_sites
from tests.deploy.study.test_study import STEPS, in_process
from tests.threads import same

from infl import __version__
from infl.deploy.attempt import REQUEST_AGAIN, REQUEST_STOP, Status
from infl.deploy.remote import Patience
from infl.deploy.site_data import SiteSettings
from infl.deploy.site_folder import SiteFolder
from infl.deploy.site_worker import DECLINED
from infl.deploy.study.attempt import StudyAttempt, StudyFolder, StudyTransport
from infl.deploy.study.consent import SiteStudies
from infl.deploy.study.site import StudySite
from infl.deploy.study.specification import Study
from infl.deploy.study.steps import Step
from infl.deploy.study.worker import StudyWorker
from infl.errors import FileError, InflError
from infl.federation.messages import Alive, StudyOffer
from infl.federation.wire import decode, encode
from infl.governance.study import study_page
from infl.keys import Identity, Keyring

QUICK = Patience(silence=3, repeat=0.2, consent=10)
POLICY = 'seals = ["group"]\nsteps = ["*"]\ndisclosure_rules = false\n'
pytestmark = pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")


class House:
    """A coordinator's folder and those of three sites, with keys and policies."""

    def __init__(self, root: Path, steps: list[Step], policy: str = POLICY) -> None:
        self.root, self.lose = root, lambda message: False
        self.sites = make_sites()
        identities = {site: Identity.create() for site in self.sites}
        key = Keyring.create()
        for site, identity in identities.items():
            key.grant(site, identity)
        for site, adata in self.sites.items():
            home = root / site
            home.mkdir(parents=True)
            adata.copy().write_h5ad(home / "cohort.h5ad")
            identities[site].save(home / "identity.key")
            key.granted(site).save(home / "ring.key")
            (home / "policy.toml").write_text(policy)
            self.folder(site).save_settings(
                SiteSettings(site, *(str(home / name) for name in ("cohort.h5ad", "ring.key", "identity.key")))
            )
        self.study = Study.new("first", [*self.sites], steps, key.current, key.fingerprint())
        self.coordinator = StudyFolder(root / "coordinator")
        self.coordinator.begin(self.study)
        self.workers: dict[str, StudyWorker] = {}

    def folder(self, site: str) -> SiteFolder:
        return SiteFolder(self.root / site)

    def attempt(self, on_said: Callable[[Any], None] = lambda message: None) -> Status:
        """Make one attempt, each site by a worker of its own."""
        transport = StudyTransport(self.study.sites, lambda site, parts: self._to(site, b"".join(parts)), QUICK)
        over = threading.Event()

        def to_coordinator(site: str) -> Callable[[bytes], None]:
            def send(content: bytes) -> None:
                message = decode(content)
                on_said(message)
                if not self.lose(message) and not over.is_set():
                    transport.receive(site, content)

            return send

        def alive() -> None:
            while not over.wait(0.5):
                for site in self.study.sites:
                    transport.receive(site, encode(Alive(site, 0, 0, "")))

        threads = [threading.Thread(target=alive)]
        for site in self.study.sites:
            studies = SiteStudies(self.folder(site))
            prepare: Callable[[Study], StudySite] = studies.prepare
            note = self.folder(site).log.note
            self.workers[site] = StudyWorker(site, prepare, to_coordinator(site), note=note, repeat=0.05)
            threads.append(threading.Thread(target=self.workers[site].run))
        for thread in threads:
            thread.start()
        try:
            return StudyAttempt(self.coordinator, transport).go()
        finally:
            over.set()
            for worker in self.workers.values():
                worker.stop()
            for thread in threads:
                thread.join()

    def _to(self, site: str, content: bytes) -> None:
        if not self.lose(decode(content)):
            self.workers[site].receive(content)

    def done(self) -> list[int]:
        return [SiteStudies(self.folder(s)).working(self.study, self.root / s / "cohort.h5ad").done for s in self.sites]


def test_a_line_that_loses_a_fifth_of_all(tmp_path: Path) -> None:
    steps = [*STEPS[:3], STEPS[4]]
    house, draw = House(tmp_path, steps), random.Random(1)
    house.lose = lambda message: not isinstance(message, Alive) and draw.random() < 0.2
    status = house.attempt()
    assert (status.state, status.round, status.rounds) == ("finished", 4, 4), status.message
    expected = in_process(tmp_path, steps)
    for site in house.sites:
        _, working = SiteStudies(house.folder(site)).result()
        assert same(working.read(), expected[site])
        page = study_page(house.folder(site)).markdown()
        assert "| 1 | quality of features | 1 |" in page and "| 4 | pp.pca(n_comps=4) |" in page


def test_stopped_after_a_step_and_gone_on_with(tmp_path: Path) -> None:
    house = House(tmp_path, STEPS[:4])

    def ask(message: Any) -> None:
        if (getattr(message, "step", 0), getattr(message, "number", 0)) == (1, 1):
            house.coordinator.request(REQUEST_STOP)

    status = house.attempt(ask)
    assert (status.state, status.message, status.round) == ("stopped", "", 2)
    kept = house.done()
    assert (
        max(kept) == 2 and min(kept) >= 1
    )  # who has not heard yet that all have written keeps the step at the next attempt
    with pytest.raises(FileError, match=r"study first has done \d of 4 steps here"):
        SiteStudies(house.folder("s0")).result()
    house.coordinator.clear_request()
    assert house.coordinator.requested == REQUEST_STOP  # holds, whatever is started
    house.coordinator.resume()
    assert house.attempt().state == "finished"
    assert house.done() == [4, 4, 4]


def test_an_attempt_that_ends_for_sites_that_came_back(tmp_path: Path) -> None:
    house, asked = House(tmp_path, STEPS[:2]), threading.Event()

    def ask(message: Any) -> None:
        if getattr(message, "step", 0) == 1 and not asked.is_set():
            asked.set()
            house.coordinator.request(REQUEST_AGAIN)
            house.lose = lambda message: not isinstance(message, Alive)

    assert house.attempt(ask).state == "ended"
    house.coordinator.clear_request()
    house.lose = lambda message: False
    assert house.attempt().state == "finished"


def test_a_step_that_fails_stops_the_study_and_tells_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, STEPS[:2])
    bad = house.sites["s1"].copy()
    bad.X.data[0] = -1
    bad.write_h5ad(tmp_path / "s1" / "cohort.h5ad")
    status = house.attempt()
    assert status.state == "stopped"
    assert (
        status.message.startswith("step 2 could not be done at s1, and is kept nowhere") and DECLINED in status.message
    )
    assert "negative" not in status.message
    assert any("step 2 of study first ended" in line and "negative" in line for line in house.folder("s1").log.events())
    assert house.done() == [1, 1, 1]


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ("", "does not accept seal 'group', under which the sums of a study travel"),
        (
            'seals = ["group"]\n',
            r"step 3 (pp.highly_variable_genes with batch_key) is not yet under rules of disclosure",
        ),
        ('seals = ["group"]\ndisclosure_rules = false\n', "a person must say yes; read"),
        ('seals = ["group"]\ndisclosure_rules = false\nsteps = ["pp.log1p"]\n', "a person must say yes; read"),
        ('seals = ["group"]\nsteps = ["*"]\nmin_sites = 4\n', "does not accept 3 sites (at least 4)"),
        ('seals = ["group"]\nsteps = ["*"]\ntargets = ["other"]\n', "does not accept column 'donor'"),
        ('seals = ["group"]\nsteps = ["*"]\nkey_versions = [2]\n', "does not accept key version 1"),
        (
            'seals = ["group"]\nsteps = ["*"]\nlifetime_epsilon = 3\n',
            "does not accept sums without differential privacy",
        ),
    ],
)
def test_what_a_policy_does_not_accept(tmp_path: Path, policy: str, why: str) -> None:
    house = House(tmp_path, [*STEPS[1:3], Step.read("pp.highly_variable_genes", {"batch_key": "donor"})], policy)
    with pytest.raises(InflError) as error:
        SiteStudies(house.folder("s0")).prepare(house.study)
    assert why in str(error.value)
    assert not list((tmp_path / "s0").rglob("*.ledger"))  # before any work


def test_a_yes_is_to_one_study(tmp_path: Path) -> None:
    house = House(tmp_path, STEPS[:1], 'seals = ["group"]\n')
    studies = SiteStudies(house.folder("s0"))
    with pytest.raises(InflError, match="infl site approve"):
        studies.prepare(house.study)
    assert house.folder("s0").approve(house.study.digest[:12]) == house.study.digest
    studies.prepare(house.study).ledger.close()
    again = Study.new("first", house.study.sites, house.study.steps, 1, house.study.fingerprint)
    with pytest.raises(InflError, match="a person must say yes"):
        studies.prepare(again)
    settings = SiteSettings(**{**vars(house.folder("s0").settings), "expects": house.study.specification})
    house.folder("s0").save_settings(settings)  # `infl site start study.toml`
    studies.prepare(again).ledger.close()
    third = Study.new("first", house.study.sites, house.study.steps, 1, house.study.fingerprint)
    with pytest.raises(InflError, match="a person must say yes"):
        studies.prepare(third)
    other = Study.new("first", house.study.sites, STEPS[:2], 1, house.study.fingerprint)
    with pytest.raises(InflError, match="differs from this site's study.toml"):
        studies.prepare(other)


BOUND = POLICY.replace("disclosure_rules = false\n", "")
RULES = "[disclosure]\ndominance = 1\nfeatures_per_record = inf\nrecords_per_parameter = 0\n"


def test_rules_of_a_policy_bind_its_site(tmp_path: Path) -> None:
    house = House(tmp_path, [*STEPS[:3], Step.read("pp.moments", {})], BOUND + RULES)
    site = SiteStudies(house.folder("s0")).prepare(house.study)
    site.ledger.close()
    assert site.disclosure is not None and site.disclosure.rules.dominance == 1
    assert site.disclosure.folder == tmp_path / "s0" / "disclosure"
    (tmp_path / "s1" / "policy.toml").write_text(POLICY)
    status = house.attempt()  # s1 has no rules: the others do not begin
    assert status.state == "stopped"
    assert any("its rules of disclosure need 3 sites" in line for line in house.folder("s0").log.events())
    assert house.done() == [0, 0, 0]
    other = House(
        tmp_path / "other", [STEPS[4], Step.read("pp.harmony_integrate", {})], BOUND
    )  # no table: the rules' defaults
    with pytest.raises(InflError, match=r"step 2 \(pp.harmony_integrate\) is not yet under rules"):
        SiteStudies(other.folder("s0")).prepare(other.study)
    plain = House(tmp_path / "plain", STEPS[:1], BOUND)
    site = SiteStudies(plain.folder("s0")).prepare(plain.study)
    site.ledger.close()
    assert site.disclosure is not None and site.disclosure.rules.k == 5


def test_groups_that_a_policy_does_not_release_are_said_before_any_work(tmp_path: Path) -> None:
    house = House(
        tmp_path,
        [*STEPS[1:3], Step.read("tl.rank_genes_groups", {"groupby": "donor"})],
        'targets = ["donor"]\n' + BOUND,
    )
    with pytest.raises(
        InflError, match=r"s0, step 3 \(tl.rank_genes_groups\) asks about groups of 'donor': .* no column; ask"
    ):
        SiteStudies(house.folder("s0")).prepare(house.study)
    assert not list(tmp_path.rglob("*.ledger"))


def test_what_the_data_lack_is_said_before_any_work(tmp_path: Path) -> None:
    house = House(tmp_path, [STEPS[-1]])
    with pytest.raises(
        InflError, match=r"step 1 \(tl.cluster\) needs obsm\['X_pca'\], which s2 lacks: pp.pca makes it"
    ):
        SiteStudies(house.folder("s2")).prepare(house.study)
    status = house.attempt()
    assert status.state == "ended" and DECLINED in status.message and "X_pca" not in status.message
    assert not list(tmp_path.rglob("*.ledger"))


def test_a_key_of_another_version_and_a_stranger(tmp_path: Path) -> None:
    house = House(tmp_path, STEPS[:1])
    study, studies = house.study, SiteStudies(house.folder("s0"))
    with pytest.raises(InflError, match="key"):
        studies.prepare(Study.new("first", study.sites, study.steps, 2, study.fingerprint))
    with pytest.raises(InflError, match="'ghost' is no member"):
        studies.prepare(Study.new("first", ["s0", "s1", "ghost"], study.steps, 1, study.fingerprint))
    with pytest.raises(InflError, match="s0 is not a site of this study"):
        studies.prepare(Study.new("first", ["s1", "s2", "ghost"], study.steps, 1, study.fingerprint))


def test_offers_that_are_none(tmp_path: Path) -> None:
    sent: list[Any] = []
    noted: list[str] = []
    house = House(tmp_path, STEPS[:1])
    worker = StudyWorker(
        "s0", SiteStudies(house.folder("s0")).prepare, lambda c: sent.append(decode(c)), note=noted.append
    )
    for offer in (
        StudyOffer("0.0.1", house.study.to_json().encode()),
        StudyOffer(__version__, b"\xff"),
        StudyOffer(__version__, house.study.to_json().replace("pp.qc_summary", "os.system").encode()),
    ):
        worker._consider(offer)
    worker.receive(b"nothing")
    worker.stop()
    assert [type(message).__name__ for message in sent] == ["Trouble"] * 3
    assert "install one version everywhere" in sent[0].reason and all(
        DECLINED in message.reason for message in sent[1:]
    )
    assert len(noted) == 3
