"""The same fit between processes over mutual TLS, with and without faults."""

import base64
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import infl
from infl.errors import FederationError
from infl.federation.agreement import Agreement
from infl.federation.flare import EXECUTOR
from infl.federation.flare.engine import SERVER, Console, Daemon, Supervisor
from infl.federation.flare.job import write_job
from infl.federation.flare.kits import approve, enrol, init_coordinator, install
from infl.federation.flare.rehearsal import Rehearsal, kill
from infl.federation.local import run_in_process
from infl.federation.messages import Answer
from infl.federation.remote import Patience
from infl.models import Classifier

pytestmark = pytest.mark.slow

TASK = Classifier(target="label", width=8, n_blocks=1)
QUICK = Patience(silence=6, repeat=2, consent=90)


class Losing:
    """In process, with a site missing in some rounds: what a run with faults must come out as."""

    def __init__(self, inner: Any, without: dict[int, set[str]]) -> None:
        self.inner, self.without, self.holder = inner, without, inner.holder

    def ask(self, cohort: tuple[str, ...], plan_for: Any) -> Iterator[Any]:
        plans = {site: plan_for(site) for site in cohort}
        for reply in self.inner.ask(cohort, plans.__getitem__):
            if not (isinstance(reply, Answer) and reply.site in self.without.get(plans[reply.site].round, ())):
                yield reply


def agree(network: Rehearsal, **settings: Any) -> Agreement:
    return Agreement.new(TASK, TASK.agree(network.data), network.data, network.key, **settings)


def weights(model: Any, key: Any) -> torch.Tensor:
    return torch.cat([t.ravel() for _, t in sorted(model.effective(key).items())])


def assert_sites_have(network: Rehearsal, agreement: Agreement, expected: torch.Tensor) -> None:
    for site in agreement.sites:
        folder = network.root / site / "runs" / agreement.run
        found = weights(infl.load_model(folder / "model.infl.safetensors"), network.key)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def assert_coordinator_holds_nothing(network: Rehearsal, run: Any) -> None:
    """No key, no weight, no value of a record, in any file that the coordinator wrote, the engine's and its logs included."""
    ring = network.key
    secrets = [ring._roots[1], *(ring.subkey(label, version=1) for label in ("seal", "lock", "checkpoint"))]
    traces = [form for s in secrets for form in (s, s.hex().encode(), base64.b64encode(s))]
    traces += [t.numpy().tobytes()[:12] for t in run.model.effective(ring).values()]
    traces += [t.numpy().tobytes()[:12] for t in run.model.stored.values()]
    traces += [row.tobytes()[:12] for a in network.data.values() for row in np.asarray(a.X)]
    files = [p for p in network.coordinator.rglob("*") if p.is_file()]
    assert any(p.name == "coordinator.safetensors" for p in files)
    for path in files:
        content = path.read_bytes()
        assert not [t for t in traces if t in content], path


def test_same_weights_as_in_process(network: Rehearsal) -> None:
    agreement = agree(network, rounds=4)
    network.begin("same", agreement)
    with network.sites_up():
        status = network.supervise("same", QUICK)
    assert (status.state, status.round, status.attempts) == ("finished", 4, 1), network.said
    run = run_in_process(agreement, TASK, network.data, network.key).run
    assert_sites_have(network, agreement, weights(run.model, network.key))
    assert_coordinator_holds_nothing(network, run)


def test_site_and_coordinator_are_killed_and_the_run_goes_on(network: Rehearsal) -> None:
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
    assert killed == ["site_2", "server"], network.said
    assert (status.state, status.round) == ("finished", 400), network.said
    assert status.attempts >= 3
    rounds = [row for row in run.exchanges() if row["round"]]
    assert [row["round"] for row in rounds] == [*range(1, 401)]
    for site in agreement.sites:
        assert [*history(network, site, agreement)["n_sites"]] == [len(row["responders"]) for row in rounds]
    without = {row["round"]: set(row["cohort"]) - set(row["responders"]) for row in rounds}
    missed = [number for number, away in without.items() if "site_2" in away]
    assert missed, "site_2 was never missed"
    assert max(missed) < 400, "site_2 never came back"
    wrap = lambda inner: Losing(inner, without)  # noqa: E731
    expected = run_in_process(agreement, TASK, network.data, network.key, wrap=wrap).run
    assert_sites_have(network, agreement, weights(expected.model, network.key))


def test_strangers_and_jobs_with_code_get_nowhere(network: Rehearsal) -> None:
    """A server that allows everything: its sites refuse code and foreign classes; it refuses whom it did not enrol."""
    run = network.begin("hostile", agree(network, rounds=1))
    daemon = Daemon(network.coordinator / "kit", SERVER, network.coordinator / "server.log")
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
                client.write_text(client.read_text().replace(EXECUTOR, named))
                if kind == "code":
                    (job / "infl" / "custom").mkdir()
                    (job / "infl" / "custom" / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
                name = console.submit(job)
                assert name is not None
                assert console.wait_for_end(name, seconds=90) not in (None, "FINISHED:COMPLETED"), kind
                assert run.status.position == 0
            assert not mark.exists()
            assert not is_shut_out(network, network.root / "site_1" / "kit")
            assert is_shut_out(network, stranger(network))
    finally:
        console.close()
        daemon.stop()
        rights.write_text(kept)


def stranger(network: Rehearsal) -> Path:
    """Return the kit of a site that another authority enrolled, under the name of one of ours."""
    other = init_coordinator(network.root / "other", network.consortium)
    request, _ = enrol(network.root / "stranger", "site_1", network.consortium)
    signed, _ = approve(network.root / "other", request)
    with pytest.raises(FederationError, match="nvflare package"):
        install(network.root / "stranger", signed, network.fingerprint)
    return install(network.root / "stranger", signed, other)


def is_shut_out(network: Rehearsal, kit: Path) -> bool:
    """Whether the server ends the connection that a kit's certificate opens."""
    context = ssl.create_default_context(cafile=str(network.coordinator / "ca" / "rootCA.pem"))
    context.load_cert_chain(kit / "startup" / "client.crt", kit / "startup" / "client.key")
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


def history(network: Rehearsal, site: str, agreement: Agreement) -> pd.DataFrame:
    return pd.read_csv(network.root / site / "runs" / agreement.run / "history.csv", index_col="round")
