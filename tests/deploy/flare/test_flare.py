"""The same fit between processes over mutual TLS, with and without faults."""

import base64
import shutil
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from tests.deploy.test_curves import read as read_curves

import infl
from infl.deploy.flare import EXECUTOR_CLASS
from infl.deploy.flare.console import Console
from infl.deploy.flare.daemon import SERVER_PROCESS, Daemon
from infl.deploy.flare.engine import Supervisor
from infl.deploy.flare.job import write_job
from infl.deploy.flare.kits import REVOKED, approve, enrol, init_coordinator, install, revoke, revoked
from infl.deploy.flare.line import check_admitted, is_connected, refusal
from infl.deploy.flare.local_consortium import LocalConsortium, expire, kill
from infl.deploy.remote import Patience
from infl.deploy.site_runs import runs_of
from infl.errors import FederationError
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.models import Classifier

pytestmark = pytest.mark.slow

TASK = Classifier(target="label", width=8, n_blocks=1)
QUICK = Patience(silence=6, repeat=2, consent=90)


def agree(network: LocalConsortium, **settings: Any) -> Agreement:
    return Agreement.new(TASK, TASK.agree(network.data), network.data, network.key, **settings)


def weights(model: Any, key: Any) -> torch.Tensor:
    return torch.cat([t.ravel() for _, t in sorted(model.effective(key).items())])


def assert_sites_have(network: LocalConsortium, agreement: Agreement, expected: torch.Tensor) -> None:
    for site in agreement.sites:
        folder = network.root / site / "runs" / agreement.run
        found = weights(infl.load_model(folder / "model.infl.safetensors"), network.key)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


class Watching:
    """In process, keeping the model of every round: what a coordinator must not have."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.holder, self.models = inner, inner.holder, list[bytes]()

    def ask(self, cohort: tuple[str, ...], plan_for: Any) -> Iterator[Any]:
        yield from self.inner.ask(cohort, plan_for)
        model = self.inner.sites[cohort[0]].replica.theta.numpy()[-12:].tobytes()
        if model not in self.models:
            self.models.append(model)


def traces_of(network: LocalConsortium, models: list[bytes], run: Any) -> dict[str, list[bytes]]:
    """Return what would betray a key, a model or a record in a file or in memory."""
    ring = network.key
    secrets = [ring._roots[1], *(ring.subkey(label, version=1) for label in ("seal", "lock", "checkpoint"))]
    weights = [*run.model.effective(ring).values(), *run.model.stored.values()]
    return {
        "key": [form for s in secrets for form in (s, s.hex().encode(), base64.b64encode(s))],
        "model": [*models, *(t.numpy().tobytes()[:24] for t in weights if t.numel() > 5)],
        "record": [row.tobytes()[:24] for a in network.data.values() for row in np.asarray(a.X)],
    }


def found(traces: dict[str, list[bytes]], content: bytes) -> set[str]:
    """Return which kinds of traces are in the content, all of them looked for at once.

    A trace has four bytes that begin at an even place of the content: where such stand, the whole trace is compared.
    """
    heads: dict[int, list[tuple[str, bytes, int]]] = {}
    for kind, forms in traces.items():
        for form in forms:
            for shift in (0, 1):
                heads.setdefault(int.from_bytes(form[shift : shift + 4], "little"), []).append((kind, form, shift))
    pairs, wanted = np.frombuffer(content, "<u2", len(content) // 2), np.array([*heads], np.uint32)
    halves = np.zeros(1 << 16, bool)
    halves[wanted & 0xFFFF] = True
    places = np.flatnonzero(halves[pairs[:-1]])
    numbers = pairs[places] | pairs[places + 1].astype(np.uint32) << 16
    hits = np.flatnonzero(np.isin(numbers, wanted))
    return {
        kind
        for place, number in zip(2 * places[hits], numbers[hits], strict=True)
        for kind, form, shift in heads[int(number)]
        if place >= shift and content.startswith(form, int(place) - shift)
    }


def processes_of(kit: Path) -> list[psutil.Process]:
    """Return the processes of a kit, the newest first."""
    found = [p for p in psutil.process_iter(["cmdline", "create_time"]) if str(kit) in (p.info["cmdline"] or [])]
    return sorted(found, key=lambda p: -p.info["create_time"])


@contextmanager
def asleep(kit: Path) -> Iterator[None]:
    """Stop the processes of a kit for a while; no round ends without that site, however slow the machine is."""
    stopped = processes_of(kit)
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            process.resume()


def memory_of(kit: Path) -> bytes:
    """Return what the processes of a kit have in memory that they wrote themselves; that of the run, the newest, first."""
    parts = []
    for process in processes_of(kit):
        with suppress(OSError), open(f"/proc/{process.pid}/mem", "rb", buffering=0) as memory:
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                extent, rights, *_ = line.split()
                begin, end = (int(part, 16) for part in extent.split("-"))
                if rights.startswith("rw"):
                    with suppress(OSError):
                        memory.seek(begin)
                        parts.append(memory.read(end - begin))
    return b"".join(parts)


def test_same_weights_as_in_process_and_a_coordinator_that_has_none(network: LocalConsortium) -> None:
    agreement = agree(network, rounds=60, seal="pairwise")
    folder = network.begin("same", agreement)
    curves, site_folder = network.root / "curves", network.site_folder("site_2")
    if find_spec("tensorboard") is not None:
        site_folder.save_settings(replace(site_folder.settings, curves=str(curves)))
    memories: dict[str, bytes] = {}
    over = threading.Event()

    def look() -> None:
        while folder.status.round < 5:
            if over.wait(0.02):
                return
        with asleep(network.root / "site_1" / "kit"):  # what the site still has shows that the coordinator was at work
            for name in ("coordinator", "site_1"):
                memories[name] = memory_of(network.root / name / "kit")

    looking = threading.Thread(target=look)
    if sys.platform == "linux":
        looking.start()
    try:
        with network.sites_up():
            status = network.supervise("same", replace(QUICK, silence=90))
    finally:
        over.set()
        if sys.platform == "linux":
            looking.join()
    assert (status.state, status.round, status.attempts) == ("finished", 60, 1), network.lines
    assert all(row["responders"] == [*network.data] for row in folder.exchanges())
    if find_spec("tensorboard") is not None:
        assert read_curves(curves / agreement.run[:12])["loss"].keys() == {*range(1, 61)}
    rows = runs_of(network.site_folder("site_1"))
    assert f"run {agreement.run[:12]}: classifier, finished, round 60 of 60" in rows
    watching: list[Watching] = []

    def wrap(inner: Any) -> Any:
        watching.append(Watching(inner))
        return watching[0]

    run = run_in_process(agreement, TASK, network.data, network.key, wrap=wrap).run
    assert_sites_have(network, agreement, weights(run.model, network.key))
    initial = watching[0].models[0]  # of the public seed: the coordinator makes it, too, to know the shapes
    traces = traces_of(network, [m for m in watching[0].models if m != initial], run)
    if sys.platform == "linux":  # the site's memory shows that the search finds what is there
        assert found(traces, memories["site_1"]) == {"key", "model", "record"}
        assert found(traces, memories["coordinator"]) == set()
    files = [p for p in network.coordinator.rglob("*") if p.is_file()]
    assert any(p.name == "coordinator.json" for p in files)
    assert not {p: kinds for p in files if (kinds := found(traces, p.read_bytes()))}
    for kind, forms in traces.items():
        assert all(found(traces, before + form + b"y") == {kind} for form in forms for before in (b"", b"x"))
        assert not any(found(traces, form[:-1] + bytes([form[-1] ^ 1])) for form in forms)


@pytest.mark.long
def test_site_and_coordinator_are_killed_and_the_run_goes_on(network: LocalConsortium) -> None:
    """−9 on a site in the middle, −9 on the server when the site is back; nobody does anything about it."""
    agreement = agree(network, rounds=400, min_sites=2)
    run = network.begin("killed", agreement)
    killed: list[str] = []

    def fault(supervisor: Supervisor, line: str) -> None:
        status = run.status
        if not killed and status.round >= 5:
            kill(network.daemons["site_2"])
            killed.append("site_2")
        elif killed == ["site_2"] and status.attempts == 2 and status.state == "running":
            kill(supervisor.daemon)
            killed.append("server")

    with network.sites_up():
        status = network.supervise("killed", QUICK, on_line=fault)
    assert killed == ["site_2", "server"], network.lines
    assert (status.state, status.round) == ("finished", 400), network.lines
    assert status.attempts >= 3
    rounds = [row for row in run.exchanges() if row["round"]]
    assert [row["round"] for row in rounds] == [*range(1, 401)]
    for site in agreement.sites:
        assert [*history(network, site, agreement)["n_sites"]] == [len(row["responders"]) for row in rounds]
    missed = [row["round"] for row in rounds if "site_2" not in row["responders"]]
    assert missed, "site_2 was never missed"
    assert max(missed) < 400, "site_2 never came back"
    assert_sites_have(network, agreement, weights(network.expected(run, TASK).model, network.key))


@pytest.mark.long
def test_strangers_and_jobs_with_code_get_nowhere(
    network: LocalConsortium, fuzz: Any, client_context: Any, until: Any
) -> None:
    """A server that allows everything: its sites refuse code and foreign classes; it refuses whom it did not enrol."""
    run = network.begin("hostile", agree(network, rounds=1))
    daemon = Daemon(network.coordinator / "kit", SERVER_PROCESS, network.coordinator / "server.log")
    rights = network.coordinator / "kit" / "local" / "authorization.json"
    kept, mark = rights.read_text(), network.root / "it_ran"
    rights.write_text(kept.replace('"byoc": "none"', '"byoc": "any"'))
    console = Console(network.coordinator / "admin")
    try:
        with network.sites_up():
            daemon.ensure()
            console.wait_for_sites(network.data, seconds=90)
            for kind, named in (("code", "evil.E"), ("class", "nvflare.app_common.np.np_trainer.NPTrainer")):
                job = write_job(network.root / kind, "hostile", [*network.data], min_sites=3, patience=QUICK)
                client = job / "infl" / "config" / "config_fed_client.json"
                client.write_text(client.read_text().replace(EXECUTOR_CLASS, named))
                if kind == "code":
                    (job / "infl" / "custom").mkdir()
                    (job / "infl" / "custom" / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
                name = console.submit(job)
                assert name is not None
                assert console.wait_for_end(name, seconds=90) not in (None, "FINISHED:COMPLETED"), kind
                assert run.status.position == 0
            assert not mark.exists()
            enrolled, old = (
                client_context(network, kit) for kit in (network.root / "site_1" / "kit", expired(network))
            )
            assert not is_shut_out(network, enrolled)
            assert is_shut_out(network, client_context(network, stranger(network)))
            assert is_shut_out(network, old)
            assert hangs_up(network, enrolled, 1 << 30)
            assert not hangs_up(network, enrolled, 1 << 20)
            assert fuzz(network, 1000) > 20
            assert set(console.sites()) == set(network.data)
            assert not is_shut_out(network, enrolled)
            revoke_one(network, console, until)
    finally:
        console.close()
        daemon.stop()
        rights.write_text(kept)
        (network.coordinator / "kit" / REVOKED).unlink(missing_ok=True)


def revoke_one(network: LocalConsortium, console: Console, until: Any) -> None:
    """A site that is shut out stays out, with a certificate that is still valid."""
    revoke(network.coordinator, "site_3")
    assert console.ask("disable", "site_3") is not None
    starts = network.daemons["site_3"].starts
    kill(network.daemons["site_3"])
    until(lambda: network.daemons["site_3"].starts > starts)
    until(lambda: "Reject disabled client registration: site_3" in refusals(network))
    assert set(console.sites()) == {"site_1", "site_2"}
    assert revoked(network.coordinator) == ("site_3",)
    kit = network.root / "site_3" / "kit"
    until(lambda: refusal(kit) == "Client 'site_3' is disabled")
    with pytest.raises(FederationError, match="the coordinator shut this site out"):
        check_admitted(kit)
    assert check_admitted(network.root / "site_1" / "kit") and is_connected(
        network.daemons["site_1"], network.consortium.port
    )


def refusals(network: LocalConsortium) -> str:
    return (network.coordinator / "kit" / "log.txt").read_text()


def stranger(network: LocalConsortium) -> Path:
    """Return the kit of a site that another authority enrolled, under the name of one of ours."""
    other = init_coordinator(network.root / "other", network.consortium)
    request, _ = enrol(network.root / "stranger", "site_1", network.consortium)
    signed, _ = approve(network.root / "other", request)
    with pytest.raises(FederationError, match="nvflare package"):
        install(network.root / "stranger", signed, network.fingerprint)
    return install(network.root / "stranger", signed, other)


def is_shut_out(network: LocalConsortium, context: ssl.SSLContext) -> bool:
    """Whether the server ends the connection that a certificate opens."""
    where = (network.consortium.host, network.consortium.port)
    with socket.create_connection(where, timeout=10) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=where[0]) as line:
                line.settimeout(2)
                return line.recv(1) == b""
        except TimeoutError:
            return False
        except (ssl.SSLError, ConnectionError):
            return True


def hangs_up(network: LocalConsortium, context: ssl.SSLContext, claimed: int) -> bool:
    """Whether the server ends a site's connection at the claim that a frame of so many bytes follows."""
    where = (network.consortium.host, network.consortium.port)
    with (
        socket.create_connection(where, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=where[0]) as line,
    ):
        line.settimeout(3)
        line.sendall(claimed.to_bytes(4, "big") + bytes(12))
        try:
            while line.recv(1 << 10):
                pass
        except TimeoutError:
            return False
        except (ssl.SSLError, ConnectionError):
            return True
        return True


def expired(network: LocalConsortium) -> Path:
    """Return a kit whose certificate the consortium's own authority signed, for yesterday."""
    kit, ca = network.root / "expired", network.coordinator / "ca"
    shutil.copytree(network.root / "site_1" / "kit" / "startup", kit / "startup")
    certificate = kit / "startup" / "client.crt"
    certificate.write_bytes(expire(certificate, ca))
    return kit


def history(network: LocalConsortium, site: str, agreement: Agreement) -> pd.DataFrame:
    return pd.read_csv(network.root / site / "runs" / agreement.run / "history.csv", index_col="round")
