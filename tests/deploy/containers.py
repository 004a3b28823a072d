"""A coordinator and three sites from the image, rootless and read-only, fit Khan's samples by the guide's commands.

``python3 tests/deploy/containers.py IMAGE [--rounds 150] [--cgroups disabled] [--keep]``, as any user who can run podman; needs no Python
package. Each container has the options of ``deploy/compose.yaml``; they share one network that has nothing but a loopback. All that is
typed is typed in containers, keys are the image's user's alone, and nothing on this machine is read but the image. At the end each site
must have the same model, in the folder that is all it could write to. ``--keep`` writes what was seen into ``containers.json`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).with_suffix(".json")
SITES, HOLDER = ("site_1", "site_2", "site_3"), "site_1"
EVERYBODY = ("coordinator", *SITES)
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
CONSORTIUM = 'name = "tumours"\nhost = "localhost"\nport = 8002\n'
MAKE_DATA = """
import infl
for name, adata in infl.datasets.khan_sites(3).items():
    adata.write_h5ad(f"/infl/{name}.h5ad")
"""
READ_COMPOSE = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)['services']))"
TRY = """
id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs):' /proc/self/status
for place in / /opt/infl /data; do touch $place/x 2>/dev/null && echo written: $place; done; touch /infl/x && rm /infl/x && echo folder
"""
OPEN = """
import hashlib, sys, anndata, infl
from infl.keys import Keyring
model, adata = infl.load_model("results/model.infl.safetensors"), anndata.read_h5ad("/data/cohort.h5ad")
ring = Keyring.load("site.key", "identity.key")
infl.tl.predict(adata, model, key=ring)
weights = b"".join(t.numpy().tobytes() for _, t in sorted(model.effective(ring).items()))
right = (adata.obs["infl_prediction"].astype(str) == adata.obs["tumour_class"].astype(str)).mean()
print(hashlib.sha256(weights).hexdigest(), f"{right:.3f}")
"""


def podman(*arguments: str | Path, given: str | None = None) -> str:
    """Run podman and return what it prints."""
    command = ["podman", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


class Scene:
    """Everybody's folders, and the options of their containers."""

    def __init__(self, root: Path, image: str, cgroups: str) -> None:
        self.root, self.image = root, image
        self.plain = ["--rm", *(["--cgroups", cgroups] if cgroups else []), "--network", "none"]
        compose = (ROOT / "deploy" / "compose.yaml").read_text()
        command = ["run", "-i", *self.plain, "--entrypoint", "python", image, "-c", READ_COMPOSE]
        self.services: dict[str, dict[str, Any]] = json.loads(podman(*command, given=compose))
        for who in EVERYBODY:
            (root / "homes" / who).mkdir(parents=True)
            (root / "homes" / who / "consortium.toml").write_text(CONSORTIUM)
            (root / "data" / who).mkdir(parents=True)
        self.own(root / "homes")
        self.own(root / "data")

    def own(self, path: Path) -> None:
        """Give files to the image's user, as the page says."""
        podman("unshare", "chown", "-R", "10001:10001", path)

    def options(self, who: str) -> list[str]:
        """Return the options of a service that podman has too; limits need cgroups."""
        service = self.services[who]
        found = ["--read-only"] if service["read_only"] else []
        for option, values in (("tmpfs", "tmpfs"), ("cap-drop", "cap_drop"), ("security-opt", "security_opt")):
            found += [f"--{option}={value.replace(':true', '')}" for value in service[values]]
        found += [f"--env={name}={value}" for name, value in service.get("environment", {}).items()]
        return found + [f"--volume={self.root}/{volume.removeprefix('./')}" for volume in service["volumes"]]

    def type(self, who: str, *command: str, entrypoint: str = "infl") -> str:
        """Run a command in a container of somebody's, and return what it prints."""
        options = [*self.plain, *self.options(who), "--env", "INFL_IDENTITY=/infl/identity.key"]
        return podman("run", *options, "--entrypoint", entrypoint, self.image, *command)

    def send(self, sender: str, file: str, *recipients: str) -> None:
        for recipient in recipients:
            if recipient != sender:
                target = self.root / "homes" / recipient / Path(file).name
                podman("unshare", "cp", self.root / "homes" / sender / file, target)
                self.own(target)

    def start(self, who: str, network: str) -> None:
        """Start somebody's service; its limits are left to machines that have cgroups for them."""
        service = self.services[who]
        grace = service.get("stop_grace_period", "1m").removesuffix("m")
        options = ["--detach", "--name", f"infl-{who}", "--stop-timeout", str(60 * int(grace)), *self.plain[1:-2]]
        podman("run", *options, "--network", network, *self.options(who), self.image, *service["command"].split())


def set_up(scene: Scene, rounds: int) -> None:
    """Do what the guide says, to the last command before the run."""
    scene.type("coordinator", "-c", MAKE_DATA, entrypoint="python")
    for site in SITES:
        made = scene.root / "homes" / "coordinator" / f"{site}.h5ad"
        podman("unshare", "mv", made, scene.root / "data" / site / "cohort.h5ad")
    told = scene.type("coordinator", "coordinator", "init", "consortium.toml").split("\n")[-2]
    target = ("--target", "tumour_class")
    for site in SITES:
        scene.type(site, "site", "join", site)
        scene.type(site, "run", "panel", "/data/cohort.h5ad", *target, "--out", f"{site}.panel.json")
        scene.send(site, f"{site}/{site}.request.zip", "coordinator")
        scene.type("coordinator", "coordinator", "approve", f"{site}.request.zip", "--yes")
        scene.send("coordinator", f"coordinator/{site}.signed.zip", site)
        for file in (f"{site}.pub", f"{site}.panel.json"):
            scene.send(site, file, HOLDER)
    (key,) = re.findall(r"fingerprint (.+)", scene.type(HOLDER, "key", "new", "consortium.key"))
    for site in SITES:
        scene.type(HOLDER, "key", "grant", f"{site}.pub")
    for site in SITES:  # each file names all members
        scene.send(HOLDER, f"consortium.{site}.key", site)
    scene.type(HOLDER, "run", "panel", *(f"{site}.panel.json" for site in SITES), *target)
    scene.type(HOLDER, "run", "template", "classifier")
    file = scene.root / "homes" / HOLDER / "run.toml"
    text = podman("unshare", "cat", file)
    for pattern, value in (
        (r"^sites = .*", f"sites = {json.dumps(SITES)}"),
        (r"^target = .*", 'target = "tumour_class"'),
        (r"^rounds = \d+", f"rounds = {rounds}"),
        (r"^fingerprint = .*", f'fingerprint = "{key}"'),
    ):
        text, n = re.subn(pattern, value, text, flags=re.MULTILINE)
        assert n == 1, pattern
    podman("unshare", "tee", file, given=text)
    for name in ("run.toml", "panel.json"):
        scene.send(HOLDER, name, *EVERYBODY)
    for site in SITES:
        given = ("--signed", f"{site}.signed.zip", "--fingerprint", told, "--grant", f"consortium.{site}.key")
        scene.type(site, "site", "join", site, *given)


def state(who: str, what: str) -> str:
    """Return what podman knows of somebody's container."""
    return podman("inspect", "--format", f"{{{{.State.{what}}}}}", f"infl-{who}").strip()


def run(scene: Scene) -> dict[str, Any]:
    """Start everybody, wait for the end, and return what was seen."""
    begun = time.monotonic()
    scene.start("coordinator", "none")
    for site in SITES:
        scene.start(site, "container:infl-coordinator")
    seen = {who: podman("exec", f"infl-{who}", "sh", "-c", TRY).split() for who in EVERYBODY}
    healthy, up = set[str](), EVERYBODY
    while up == EVERYBODY:
        up = tuple(who for who in EVERYBODY if state(who, "Status") == "running")
        asked = {
            who: subprocess.Popen(
                ["podman", "exec", f"infl-{who}", *scene.services[who]["healthcheck"]["test"][1:]], **QUIET
            )
            for who in {*up} - healthy
        }
        healthy |= {who for who, check in asked.items() if check.wait() == 0}
        time.sleep(2)
    seconds = time.monotonic() - begun
    said = podman("logs", "infl-coordinator")
    if set(up) != set(SITES):
        sys.exit("\n".join(podman("logs", f"infl-{who}") for who in EVERYBODY if who not in up) or "nobody ended")
    for site in SITES:
        podman("stop", f"infl-{site}")
    codes = {who: int(state(who, "ExitCode")) for who in EVERYBODY}
    opened = []
    for site in SITES:
        scene.type(site, "run", "fetch", "results")
        opened.append(scene.type(site, "-c", OPEN, entrypoint="python").split())
    return {
        "seconds": round(seconds, 1), "exit codes": codes, "finished": "finished; each site has the model" in said,
        "seen inside": seen, "healthy": sorted(healthy), "models": len({digest for digest, _ in opened}),
        "right": [float(right) for _, right in opened],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("image")
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--cgroups", default="", help="podman's option, e.g. disabled, where none are delegated")
    parser.add_argument("--keep", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scene = Scene(Path(folder), chosen.image, chosen.cgroups)
        try:
            begun = time.monotonic()
            set_up(scene, chosen.rounds)
            print(f"set up after {time.monotonic() - begun:.0f} s", flush=True)
            found = run(scene)
        finally:
            for who in reversed(EVERYBODY):  # the sites' network is the coordinator's
                subprocess.run(["podman", "rm", "-f", f"infl-{who}"], check=False, stdout=subprocess.DEVNULL)
            podman("unshare", "rm", "-rf", f"{folder}/homes", f"{folder}/data")
    about = json.loads(podman("image", "inspect", chosen.image))[0]
    engine = json.loads(podman("info", "--format", "json"))
    found = {
        "date": date.today().isoformat(), "rounds": chosen.rounds, "gigabytes": round(about["Size"] / 1e9, 2),
        "rootless": engine["host"]["security"]["rootless"], "podman": engine["version"]["Version"], **found,
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    confined = ["10001", "CapBnd:", "0" * 16, "CapEff:", "0" * 16, "NoNewPrivs:", "1", "folder"]
    right = (
        found["finished"] and found["models"] == 1 and not any(found["exit codes"].values())
        and found["healthy"] == sorted(EVERYBODY)
        and all(sorted(of) == sorted(confined) for of in found["seen inside"].values())
    )  # fmt: skip
    if chosen.keep:
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
    print("ok" if right else "FAILED")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
