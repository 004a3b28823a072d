"""A coordinator and three sites with kits of their own, as separate processes over mutual TLS on this machine."""

import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from infl.deploy.flare.local_consortium import LocalConsortium
from infl.keys import Keyring

collect_ignore = ["faults.py", "networks.py", "study_faults.py", "week.py"]  # they are run by hand
SITES = ("site_1", "site_2", "site_3")
POLICY = 'min_sites = 2\nask = false\ntargets = ["label"]\npanels = ["*"]\nseals = ["group", "pairwise"]\nrepeat_seeds = true\n'


def make_sites(names: Sequence[str] = SITES) -> dict[str, AnnData]:
    """Three separated classes at each site; sites differ in size."""
    rng = np.random.default_rng(0)
    centers, sites = rng.normal(size=(3, 8)) * 2, {}
    for i, name in enumerate(names):
        y = np.arange(12 + i) % 3
        x = (centers[y] + rng.normal(size=(len(y), 8))).astype(np.float32)
        names = [f"{i}_{j}" for j in range(len(y))]
        obs = pd.DataFrame({"label": pd.Categorical.from_codes(y, ["a", "b", "c"])}, index=names)
        sites[name] = AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(8)]))
    return sites


def client_context(network: LocalConsortium, kit: Path) -> ssl.SSLContext:
    """Return what opens a connection with a kit's certificate."""
    context = ssl.create_default_context(cafile=str(network.coordinator / "ca" / "rootCA.pem"))
    context.load_cert_chain(kit / "startup" / "client.crt", kit / "startup" / "client.key")
    return context


def fuzz(network: LocalConsortium, n: int, *, seed: int = 0) -> int:
    """Send `n` pieces of noise to the coordinator's port, half of them under an enrolled site's certificate.

    Some are damaged beginnings of TLS, some claim to be a gigabyte. Returns how many connections were made.
    """
    rng, made = random.Random(seed), 0
    where = (network.consortium.host, network.consortium.port)
    context = client_context(network, network.root / "site_1" / "kit")
    while n > 0:
        inside, pieces = rng.random() < 0.5, rng.randint(1, 40)
        try:
            with socket.create_connection(where, timeout=10) as plain:
                made += 1
                line = context.wrap_socket(plain, server_hostname=where[0]) if inside else plain
                with line:
                    for _ in range(min(pieces, n)):
                        n -= 1
                        line.sendall(_noise(rng))
        except OSError:
            continue  # the server hung up
    return made


def _noise(rng: random.Random) -> bytes:
    kind, body = rng.randrange(4), rng.randbytes(rng.randint(1, 400))
    if kind == 0:
        return b"\x16\x03\x01" + len(body).to_bytes(2, "big") + b"\x01" + body  # TLS, a client's first word
    if kind == 1:
        return (1 << 30).to_bytes(4, "big") + body  # FLARE's prefix begins with the frame's length
    return b"INFL" + body if kind == 2 else body


def until(true: Callable[[], bool], *, seconds: float = 90) -> None:
    """Wait for another process."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(name="until", scope="session")
def _until() -> object:
    return until


@pytest.fixture(name="fuzz", scope="session")
def _fuzz() -> object:
    return fuzz


@pytest.fixture(name="client_context", scope="session")
def _client_context() -> object:
    return client_context


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalConsortium]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)  # what is fitted here to compare with rounds as the sites' processes do
        network = LocalConsortium(tmp_path_factory.mktemp("network"), make_sites(), Keyring.create())
        for site in SITES:
            (network.root / site / "policy.toml").write_text(POLICY)
        yield network
        torch.set_num_threads(threads)
