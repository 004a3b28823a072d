"""The files in `deploy/` call commands that exist, with options that they have."""

import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from infl.cli.app import app
from infl.errors import FederationError, FileError, NoRoomError, SettingsError, UnreachableError

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
UNITS = {path.name: path.read_text() for path in sorted((DEPLOY / "systemd").iterdir())}


KUBERNETES = {
    f"{document['kind']} {document['metadata']['name']}": document
    for path in ("coordinator.yaml", "site.yaml")
    for document in yaml.safe_load_all((DEPLOY / "kubernetes" / path).read_text())
}
PODS = {name: of["spec"]["template"]["spec"] for name, of in KUBERNETES.items() if "template" in of["spec"]}


def commands() -> dict[str, str]:
    found = {name: service["command"] for name, service in COMPOSE.items()}
    for name, pod in PODS.items():
        found[name] = shlex.join(pod["containers"][0]["args"])
    for name, text in UNITS.items():
        found[name] = re.findall(r"^ExecStart=\S+/infl (.*)$", text, re.MULTILINE)[0]
    return found


@pytest.mark.parametrize(("name", "command"), commands().items())
def test_commands_exist(name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the participant's own files is missing."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, shlex.split(command))
    assert isinstance(done.exception, FileError), done.output
    assert re.search("run.toml|no site's folder|cohort|cannot read", str(done.exception))
    assert not list(tmp_path.iterdir())


def test_containers_are_confined() -> None:
    assert set(COMPOSE) == {"coordinator", "site_1", "site_2", "site_3"}
    for name, service in COMPOSE.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert name == "coordinator" or any(volume.endswith("/data:ro") for volume in service["volumes"])
    assert COMPOSE["coordinator"]["stop_grace_period"] == "10m"  # a round may take minutes
    assert "USER 10001" in (DEPLOY / "Containerfile").read_text()


@pytest.mark.parametrize("name", UNITS)
def test_units_are_confined(name: str) -> None:
    for line in ("User=infl", "ProtectSystem=strict", "NoNewPrivileges=true", "ReadWritePaths=/var/lib/infl"):
        assert f"{line}\n" in UNITS[name]


@pytest.mark.parametrize("name", UNITS)
def test_units_start_again_what_can_work_then(name: str) -> None:
    """And leave alone what a person must look at; the page has the same codes."""
    lines = dict(line.split("=", 1) for line in UNITS[name].splitlines() if "=" in line and line[0] != "#")
    assert (lines["KillMode"], lines["Restart"]) == ("mixed", "on-failure")
    left = {int(code) for code in lines["RestartPreventExitStatus"].split()}
    assert left == {SettingsError.exit_code, FederationError.exit_code, 130}
    page = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| .* \| (.*) \|$", page.split("## Exit codes")[1], re.MULTILINE))
    assert {code for code, then in rows.items() if then.startswith("start again")} == {"1", "4", "5"}
    assert {int(code) for code in rows} >= {0, *left, UnreachableError.exit_code, NoRoomError.exit_code}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
@pytest.mark.parametrize("name", UNITS)
def test_units_are_hardened(name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", str(DEPLOY / "systemd" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    score = re.findall(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    if not score:
        pytest.skip(f"this systemd rates no files: {done.stderr[:80]}")
    assert float(score[0]) < 2.0, done.stdout


@pytest.mark.parametrize("name", PODS)
def test_pods_are_confined_and_their_parts_fit(name: str) -> None:
    pod, labels = PODS[name], KUBERNETES[name]["spec"]["template"]["metadata"]["labels"]
    user = int(re.findall(r"USER (\d+)", (DEPLOY / "Containerfile").read_text())[0])
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == user
    assert not pod["automountServiceAccountToken"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert set(mounts) <= volumes
        assert all(mounts[each].get("readOnly") for each in mounts if each in ("data", "secret"))
    assert {
        mount["name"] for c in (*pod["containers"], *pod.get("initContainers", [])) for mount in c["volumeMounts"]
    } == volumes
    (infl,) = pod["containers"]
    claimed = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    made = {of["metadata"]["name"] for of in KUBERNETES.values() if of["kind"] == "PersistentVolumeClaim"}
    assert claimed - {"infl-data"} <= made  # the data are the hospital's own
    service = KUBERNETES[f"Service {labels['app']}"]["spec"]
    policy = KUBERNETES[f"NetworkPolicy {labels['app']}"]["spec"]
    assert service["selector"] == policy["podSelector"]["matchLabels"] == labels
    ports = {port["name"]: port["containerPort"] for port in infl["ports"]}
    assert {port["targetPort"] for port in service["ports"]} <= set(ports)
    assert str(ports["metrics"]) == infl["args"][-1].rpartition(":")[2]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == {*ports.values()}
    assert policy["policyTypes"] == ["Ingress", "Egress"]


def test_a_pod_is_ready_when_the_commands_of_its_probe_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    probe = PODS["StatefulSet infl-site"]["containers"][0]["readinessProbe"]["exec"]["command"]
    done = CliRunner().invoke(app, probe[1:])
    assert probe[0] == "infl" and isinstance(done.exception, FileError) and "no site's folder" in str(done.exception)


def test_the_coordinators_job_ends_where_a_person_must_look() -> None:
    job = KUBERNETES["Job infl-coordinator"]["spec"]
    (codes,) = [rule["onExitCodes"]["values"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert codes == [SettingsError.exit_code, FederationError.exit_code]
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] == 600
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert all((DEPLOY / "kubernetes" / name).exists() for name in listed["resources"])


STUBS = {  # what the script calls, noting that it was
    "infl": """trap 'kill $!; echo ended >> said; exit ${CODE:-0}' TERM; echo "$@" >> said
[ "${CODE:-0}" = 0 ] || exit "$CODE"
sleep 60 & echo $$ > pid; wait""",
    "scontrol": 'echo "scontrol $@" >> said',
}


@pytest.mark.parametrize(
    ("number", "code", "again"),
    [
        (signal.SIGUSR1, 0, True),
        (signal.SIGTERM, 0, False),
        (None, 4, True),
        (None, 5, True),
        (None, 3, False),
        (None, 2, False),
    ],
)
def test_a_site_in_a_queue(number: signal.Signals | None, code: int, again: bool, tmp_path: Path) -> None:
    """It ends in time and goes back into the queue when its time is over; it does not when a person ends it or must look."""
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "INFL_DATA": "cohort.h5ad", "SLURM_JOB_ID": "7"}
    script = subprocess.Popen(
        ["bash", DEPLOY / "slurm" / "infl-site.sbatch"], cwd=tmp_path, env=environment | {"CODE": str(code)}
    )
    try:
        if number is not None:
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                assert script.poll() is None
            script.send_signal(number)
        assert script.wait(20) == code
    finally:
        script.kill()
    said = (tmp_path / "said").read_text().splitlines()
    assert said[0] == "site start run.toml --home site --data cohort.h5ad --key site.key"
    assert said[1:] == ["ended"] * (number is not None) + ["scontrol requeue 7"] * again


def test_a_site_in_a_queue_must_know_its_data(tmp_path: Path) -> None:
    script = ["bash", DEPLOY / "slurm" / "infl-site.sbatch"]
    done = subprocess.run(
        script, cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert done.returncode and "INFL_DATA: say where the data are" in done.stderr
