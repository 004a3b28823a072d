"""Three sites behind NAT, a coordinator behind a forwarded port, a proxy in between: tried in network namespaces, as root.

``python tests/deploy/flare/networks.py [WORD …]`` makes the cases whose name has one of the words. Every participant has a namespace of its
own; this process's is the internet between them. The coordinator's name leads to a public address, of which one port is forwarded to the
machine that listens; the sites' own addresses are hidden, and nothing else is let through, in either direction. In the cases with a proxy
(tinyproxy) sites reach nothing but it. Each case is one run, which must end with everybody in every sum.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import POLICY, SITES, make_sites
from infl.deploy.flare.local_consortium import LocalConsortium
from infl.deploy.remote import Patience
from infl.deploy.run_attempt import RunFolder
from infl.federation.agreement import Agreement
from infl.keys import Keyring
from infl.models import Classifier

TASK = Classifier(target="label", width=8, n_blocks=1)
HOST, PUBLIC, PROXY_PORT = "coordinator.test", "192.0.2.1", 3128
NEEDED = ("unshare", "ip", "nft", "ss")
LONGEST = 900.0
SITE = """
import sys, threading
from pathlib import Path
from infl.deploy.flare.daemon import CLIENT_PROCESS, Daemon
home = Path(sys.argv[1])
Daemon(home / "kit", CLIENT_PROCESS, home / "client.log").keep_up(threading.Event())
"""
COORDINATOR = """
import sys
from pathlib import Path
from infl.deploy.flare.engine import Supervisor
Supervisor(Path(sys.argv[1]), sys.argv[2], say=lambda line: print(line, flush=True)).go(poll=0.5)
"""


@dataclass(frozen=True)
class Case:
    """How participants are connected; `goes` says whether a run goes through."""

    name: str
    scheme: str
    proxy: bool = False
    goes: bool = True


CASES = (
    Case("sites behind NAT, a forwarded port, tcp", "tcp"),
    Case("sites behind NAT, a forwarded port, grpc", "grpc"),
    Case("sites behind a proxy, grpc", "grpc", proxy=True),
    Case("sites behind a proxy, tcp", "tcp", proxy=True, goes=False),
)


def sh(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


def rules(port: int, proxy: bool) -> str:
    """Return what is let through: one port of the coordinator, or only the proxy."""
    inside = "ct status dnat" if not proxy else "ip daddr 203.0.113.1"  # the latter is nobody
    return f"""
flush ruleset
table ip infl {{
  chain before {{ type nat hook prerouting priority -100; ip daddr {PUBLIC} tcp dport {port} dnat to 10.0.0.2; }}
  chain after {{ type nat hook postrouting priority 100; oifname "v0" masquerade; }}
  chain through {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    {inside} tcp dport {port} accept
  }}
  chain here {{
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established,related accept
    tcp dport {PROXY_PORT if proxy else 1} accept
  }}
}}
"""


def connect() -> None:
    """Give every participant a namespace with one line to this one."""
    for folder in (Path("/run/netns"), Path("/etc/netns")):
        folder.mkdir(exist_ok=True)
        sh("mount", "-t", "tmpfs", "tmpfs", folder)
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "address", "add", f"{PUBLIC}/32", "dev", "lo")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for i, who in enumerate(("coordinator", *SITES)):
        hosts = Path("/etc/netns") / who / "hosts"
        hosts.parent.mkdir()
        hosts.write_text(f"127.0.0.1 localhost\n{PUBLIC if i else '127.0.0.1'} {HOST}\n")
        sh("ip", "netns", "add", who)
        sh("ip", "link", "add", f"v{i}", "type", "veth", "peer", "name", "line", "netns", who)
        sh("ip", "address", "add", f"10.0.{i}.1/24", "dev", f"v{i}")
        sh("ip", "link", "set", f"v{i}", "up")
        for command in (
            "link set lo up",
            f"address add 10.0.{i}.2/24 dev line",
            "link set line up",
            f"route add default via 10.0.{i}.1",
        ):
            sh("ip", "-n", who, *command.split())
    own = Path("/etc/netns/hosts")
    own.write_text(f"127.0.0.1 localhost\n10.0.0.2 {HOST}\n")
    sh("mount", "--bind", own, "/etc/hosts")  # for the proxy


@contextmanager
def process(
    who: str, out: Path, code: str, *arguments: str | Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python in somebody's namespace, and end it with what it started."""
    command = ["ip", "netns", "exec", who, sys.executable, "-c", code, *map(str, arguments)]
    with out.open("ab") as file:
        made = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | environment)
    try:
        yield made
    finally:
        found = subprocess.run(["ip", "netns", "pids", who], capture_output=True, text=True, check=True)
        for pid in found.stdout.split():
            subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
        made.wait()


@contextmanager
def proxied(folder: Path, port: int) -> Iterator[Path]:
    """Run a CONNECT proxy that lets through to one port; yields its log."""
    log = folder / "proxy.log"
    (folder / "proxy.conf").write_text(
        f'Port {PROXY_PORT}\nListen 0.0.0.0\nTimeout 600\nMaxClients 50\nAllow 10.0.0.0/8\nConnectPort {port}\nLogLevel Connect\nLogFile "{log}"\n'
    )
    made = subprocess.Popen(["tinyproxy", "-d", "-c", str(folder / "proxy.conf")], stdout=subprocess.DEVNULL)
    try:
        yield log
    finally:
        made.kill()
        made.wait()


def peers(port: int) -> set[str]:
    """Return the addresses of those who are connected to the coordinator from elsewhere."""
    command = ["ip", "netns", "exec", "coordinator", "ss", "-Htn", "state", "established", "sport", "=", f":{port}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[3].rpartition(":")[0].removeprefix("[::ffff:").rstrip("]") for line in found} - {"127.0.0.1"}


def play(case: Case, folder: Path) -> str:
    """Return what is wrong."""
    network = LocalConsortium(folder, make_sites(), Keyring.create(), host=HOST, scheme=case.scheme)
    port = network.consortium.port
    subprocess.run(["nft", "-f", "-"], input=rules(port, case.proxy), text=True, check=True)
    for site in SITES:
        (folder / site / "policy.toml").write_text(POLICY)
    agreement = Agreement.new(TASK, TASK.agree(network.data), network.data, network.key, rounds=3, seal="pairwise")
    run = network.begin("run", agreement)
    run.save_patience(Patience(silence=60, repeat=5, consent=300))
    environment: Mapping[str, str] = {"grpc_proxy": f"http://{PUBLIC}:{PROXY_PORT}"} if case.proxy else {}
    with ExitStack() as all_of_them:
        log = all_of_them.enter_context(proxied(folder, port)) if case.proxy else None
        all_of_them.enter_context(
            process("coordinator", folder / "coordinator.out", COORDINATOR, network.coordinator, "run")
        )
        for site in SITES:
            all_of_them.enter_context(process(site, folder / f"{site}.out", SITE, folder / site, **environment))
        seen, end = set[str](), time.monotonic() + (LONGEST if case.goes else 120.0)
        while run.status.state != "finished" and time.monotonic() < end:
            seen |= peers(port)
            time.sleep(0.5)
        used = log is not None and log.exists() and f"CONNECT {HOST}:{port}" in log.read_text()
    return wrong(case, run, seen, used)


def wrong(case: Case, run: RunFolder, seen: set[str], used: bool) -> str:
    if not case.goes:
        return "" if run.status.state != "finished" else "the run went through"
    if run.status.state != "finished":
        return f"not finished: {run.status.state}, {run.status.waits or run.status.message}"
    if any(row["responders"] != row["cohort"] for row in run.exchanges()):
        return "somebody was missing in a sum"
    if seen != {"10.0.0.1"}:
        return f"the coordinator saw {sorted(seen)}, not the router alone"
    return "" if used == case.proxy else "the proxy was not used"


def main() -> int:
    if os.environ.get("INFL_NETWORKS") != "1":
        if os.geteuid() or not all(map(shutil.which, NEEDED)):
            print(f"needs root, and {', '.join(NEEDED)}")
            return 2
        command = ["unshare", "--net", "--mount", sys.executable, *sys.argv]
        return subprocess.run(command, env=os.environ | {"INFL_NETWORKS": "1"}, check=False).returncode
    os.environ["OMP_NUM_THREADS"] = "1"
    connect()
    failed = 0
    for case in CASES:
        if sys.argv[1:] and not any(word in case.name for word in sys.argv[1:]):
            continue
        if case.proxy and not shutil.which("tinyproxy"):
            print(f"{case.name:<44} left out: needs tinyproxy")
            continue
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            what = play(case, Path(folder))
        failed += bool(what)
        said = what or ("the run went through" if case.goes else "no run went through, as the page says")
        print(f"{case.name:<44} {'FAILED' if what else 'ok':<6} {time.monotonic() - begun:6.1f} s  {said}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
