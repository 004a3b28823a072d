"""What Prometheus reads, and the rules and panels that are made of it."""

import json
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from infl.deploy.attempt import Status
from infl.deploy.flare import metrics as pages
from infl.deploy.flare.line import Line
from infl.deploy.flare.metrics import HELP, Metrics, exposition, of_coordinator, of_site, serving
from infl.deploy.folders import alone
from infl.deploy.site_folder import SiteFolder
from infl.deploy.study.attempt import StudyFolder
from infl.deploy.study.specification import Step, Study
from infl.errors import SettingsError, UnreachableError

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"
SITES = {
    "site_1": {"up": True, "silent": 0.5, "in": 10, "out": 20, "trouble": ""},
    "site_2": {"up": False, "silent": 90.0, "in": 1, "out": 2, "trouble": "lost"},
    "site_3": {"up": True, "silent": 0.1, "in": 1, "out": 2, "trouble": "site_3: it declined"},
}
STATUS = Status("running", round=7, rounds=9, position=12, sites=SITES, attempts=2, updated=1e9, seconds=(1.0, 0.5))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.setattr(pages, "days_left", lambda kit: 59.5)
    folder = StudyFolder(tmp_path / "runs" / "tumours")
    folder.begin(Study.new("tumours", ["site_1", "site_2", "site_3"], [Step.read("pp.log1p", {})], 1, "abcd"))
    folder.save_status(STATUS.now())
    return folder


def page(run: StudyFolder) -> dict[str, str]:
    text = exposition(of_coordinator(run.folder.parent.parent, run))
    samples = dict(re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE))
    assert len(samples) == sum(not line.startswith("#") for line in text.splitlines())
    return samples


def test_a_coordinators_page(run: StudyFolder) -> None:
    with alone(run.folder.parent.parent, doing="tumours"):
        samples = page(run)
        assert samples['infl_round{run="tumours"}'] == "7" and samples['infl_round_seconds{run="tumours"}'] == "0.5"
        assert samples['infl_running{run="tumours"}'] == samples['infl_site_up{run="tumours",site="site_1"}'] == "1"
        assert samples['infl_site_up{run="tumours",site="site_2"}'] == "0"
        trouble = [samples[f'infl_site_in_trouble{{run="tumours",site="site_{i}"}}'] for i in (1, 2, 3)]
        assert trouble == ["0", "0", "1"]  # who is away is said by infl_site_up
        assert samples['infl_site_bytes_in{run="tumours",site="site_1"}'] == "10"
        assert samples["infl_certificate_days"] == "59.5" and int(samples["infl_disk_free_bytes"]) > 0
        run.save_status(STATUS.now(state="ended", waits="for sites: site_2"))
        assert (page(run)['infl_waiting{run="tumours"}'], page(run)['infl_running{run="tumours"}']) == ("1", "0")
    run.save_status(STATUS.now())  # nobody works for it
    samples = page(run)
    assert samples['infl_running{run="tumours"}'] == samples['infl_site_up{run="tumours",site="site_1"}'] == "0"
    for state in ("finished", "stopped"):
        run.save_status(STATUS.now(state=state))
        assert page(run)[f'infl_{state}{{run="tumours"}}'] == "1"


def test_a_sites_page_names_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "days_left", lambda kit: 3.0)
    site_folder = SiteFolder(tmp_path)
    assert {name for name, _, _ in of_site(site_folder)}.isdisjoint({"infl_line_up"})
    (tmp_path / "line.json").write_text(json.dumps(vars(Line("refused", 5.0))))
    site_folder.log.note("site_1 refuses: its policy does not accept column 'hiv'")
    site_folder.log.note("run 1a2b3c finished: model")
    samples = of_site(site_folder)
    assert {name: value for name, _, value in samples} | {"infl_disk_free_bytes": 0} == {
        "infl_runs_offered": 0, "infl_runs_finished": 0, "infl_refusals": 1, "infl_line_up": 0, "infl_line_refused": 1,
        "infl_line_since_seconds": 5.0, "infl_certificate_days": 3.0, "infl_disk_free_bytes": 0,
    }  # fmt: skip
    assert not any(labels for _, labels, _ in samples) and "hiv" not in exposition(samples)


def read(port: int, path: str = "/metrics") -> str:
    return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}").read().decode()


def test_it_is_served_until_the_end_was_read_once(run: StudyFolder) -> None:
    metrics, seen = Metrics("127.0.0.1:0"), list[str]()
    with pytest.raises(UnreachableError, match=f"metrics cannot be served at {metrics.port} .*: choose another"):
        Metrics(str(metrics.port))

    def read_at_the_end() -> None:
        while not seen or 'infl_finished{run="tumours"} 1' not in seen[-1]:
            seen.append(read(metrics.port))

    reader = threading.Thread(target=read_at_the_end)
    with serving(metrics, run, run.folder.parent.parent):
        assert 'infl_round{run="tumours"} 7' in read(metrics.port)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            read(metrics.port, "/")
        run.save_status(STATUS.now(state="finished"))
        reader.start()
    reader.join()
    with pytest.raises(OSError, match="refused"):
        read(metrics.port)


def test_a_page_that_cannot_be_made_is_an_error(run: StudyFolder) -> None:
    metrics = Metrics("0")
    (run.folder / "status.json").write_text("")
    with (
        metrics.serve(lambda: of_coordinator(run.folder.parent.parent, run)),
        pytest.raises(urllib.error.HTTPError, match="500"),
    ):
        read(metrics.port)


@pytest.mark.parametrize("address", ["", "x", "localhost:", "1:2:x", "70000", "-1", "127.0.0.1:99999"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(SettingsError, match=r"give a port, or ADDRESS:PORT"):
        Metrics(address)


# -- rules and panels ----------------------------------------------------------------------------------------------
RULES: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
BOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
EXPRESSIONS = [rule["expr"] for rule in RULES] + [t["expr"] for panel in BOARD["panels"] for t in panel["targets"]]


def test_rules_and_panels_name_what_is_served_and_panels_show_all_of_it() -> None:
    named = {name for expression in EXPRESSIONS for name in re.findall(r"\binfl_\w+", expression)}
    assert named == set(HELP)


def test_labels_in_texts_are_those_of_the_metrics(run: StudyFolder) -> None:
    own = {name: set(labels) for name, labels, _ in of_coordinator(run.folder.parent.parent, run)}
    texts = [(rule["expr"], rule["annotations"]["summary"]) for rule in RULES]
    texts += [(t["expr"], t["legendFormat"]) for panel in BOARD["panels"] for t in panel["targets"]]
    for expression, text in texts:
        wanted = set(re.findall(r"\$labels\.(\w+)", text)) | set(re.findall(r"\{\{(\w+)\}\}", text))
        known = set[str]().union(*(own.get(name, set()) for name in re.findall(r"\binfl_\w+", expression)))
        assert wanted <= known | {"instance"}, expression


def test_rules_are_whole() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert re.fullmatch(r"(\d+[mh])?", rule.get("for", ""))
        assert rule["expr"].count("(") == rule["expr"].count(")")
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in BOARD["panels"]]
    assert len({*places}) == len(places) == len({panel["id"] for panel in BOARD["panels"]})
