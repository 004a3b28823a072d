"""Sites whose processors round differently."""

from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch

import infl
from infl.deploy.flare.local_consortium import LocalConsortium, kill
from infl.deploy.remote import Patience
from infl.federation.agreement import Agreement
from infl.federation.local import run_in_process
from infl.models import Classifier

pytestmark = pytest.mark.long
TASK = Classifier(target="label", width=8, n_blocks=1)
ROUNDS, PLAIN = 40, "site_2"
CAPABILITY = "ATEN_CPU_CAPABILITY"


def weights(model: Any, network: LocalConsortium) -> torch.Tensor:
    return torch.cat([t.ravel() for _, t in sorted(model.effective(network.key).items())])


def capabilities(network: LocalConsortium) -> dict[str, set[str]]:
    """Return which instructions the processes that compute for each site may use."""
    found: dict[str, set[str]] = {}
    for process in psutil.process_iter(["cmdline", "environ"]):
        command, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        if any("worker_process" in word for word in command):
            for site in network.data:
                if str(network.root / site / "kit") in command:
                    found.setdefault(site, set()).add(environment.get(CAPABILITY, "all"))
    return found


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="needs a processor with vectors")
def test_sites_on_different_processors_finish(
    network: LocalConsortium, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    """One site computes without vector instructions: its weights differ in the last bits, what all open does not."""
    agreement = Agreement.new(TASK, TASK.agree(network.data), network.data, network.key, rounds=ROUNDS, seal="pairwise")
    run, seen = network.begin("processors", agreement), list[dict[str, set[str]]]()
    monkeypatch.setenv(CAPABILITY, "default")
    with network.sites_up():
        until(lambda: all(daemon.starts for daemon in network.daemons.values()))
        monkeypatch.delenv(CAPABILITY)
        others = [daemon for site, daemon in network.daemons.items() if site != PLAIN]
        for daemon in others:
            kill(daemon)
        until(lambda: all(daemon.starts == 2 for daemon in others))
        status = network.supervise(
            "processors",
            Patience(silence=6, repeat=2, consent=90),
            on_line=lambda *_: seen.append(capabilities(network)),
        )
    assert (status.state, status.round, status.attempts) == ("finished", ROUNDS, 1), network.lines
    assert {site: {PLAIN: {"default"}}.get(site, {"all"}) for site in network.data} in seen
    assert all(row["responders"] == [*network.data] for row in run.exchanges())
    folders: list[Path] = [network.root / site / "runs" / agreement.run for site in agreement.sites]
    models = [infl.load_model(folder / "model.infl.safetensors") for folder in folders]
    losses = [pd.read_csv(folder / "history.csv")["loss"].tolist() for folder in folders]
    assert all(model.header.salts == models[0].header.salts for model in models)  # they follow from the sums
    assert losses[1:] == losses[:-1]
    found = [weights(model, network) for model in models]
    alone = weights(run_in_process(agreement, TASK, network.data, network.key).run.model, network)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], alone), "the processors round alike: this shows nothing"
    for other in found:
        torch.testing.assert_close(other, alone, rtol=0, atol=1e-4)
