"""Real data for the tests. What needs files beside the repository is marked ``data_dir``; see ``conftest.py`` above."""

import base64
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
from anndata import AnnData
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import settings
from mudata import MuData

import infl
from infl.keys.derive import hkdf
from infl.sums import FederatedSum

collect_ignore = ["mutants.py"]  # `make mutants` runs it, and installs what it imports
matplotlib.use("Agg")
settings.register_profile("infl", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("infl")


@pytest.fixture(autouse=True)
def _keys_of_the_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same keys, salts and noise for a test each time, so that a bound on what they are worth holds or does not.

    ``INFL_TEST_KEYS=fresh`` draws from the operating system, as users do.
    """
    _draw_keys(monkeypatch, request.node.nodeid)


class _KeysOfFixtures:
    """A plugin and no function of this file, whose hooks pytest leaves out where a fixture belongs to the whole session."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> Iterator[None]:
        """Draw the keys of what several tests share from its own name: it is made before any one test's are."""
        if fixturedef.scope == "function":
            return (yield)
        with pytest.MonkeyPatch.context() as patch:
            _draw_keys(patch, f"{fixturedef.baseid} {fixturedef.argname} {getattr(request, 'param', '')}")
            return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Wait for no disk: a process that is killed, as tests do, loses nothing that it wrote; a machine without power would."""
    config.pluginmanager.register(_KeysOfFixtures())
    os.fsync = _not_waited_for


def _not_waited_for(file: Any) -> None:
    os.fstat(file if isinstance(file, int) else file.fileno())  # an error where it is closed, as of fsync


def _draw_keys(patch: pytest.MonkeyPatch, name: str) -> None:
    if os.environ.get("INFL_TEST_KEYS") == "fresh":
        return
    number = count()

    def drawn(length: int) -> bytes:
        return hashlib.shake_256(name.encode() + next(number).to_bytes(8, "big")).digest(length)

    for module in ("keys.keyring", "models.locked.model", "federation.agreement", "federation.site", "privacy.account"):
        patch.setattr(f"infl.{module}.os", SimpleNamespace(**vars(os) | {"urandom": drawn}))


@pytest.fixture(scope="session")
def _khan() -> AnnData:
    return infl.datasets.khan()


@pytest.fixture
def khan(_khan: AnnData) -> AnnData:
    """83 tumours × 2,308 genes, four classes in ``obs["tumour_class"]``."""
    return _khan.copy()


@pytest.fixture(scope="session")
def _khan_sites() -> dict[str, AnnData]:
    return infl.datasets.khan_sites()


@pytest.fixture
def khan_sites(_khan_sites: dict[str, AnnData]) -> dict[str, AnnData]:
    """The same at five hospitals; a fresh copy for each test."""
    return {site: adata.copy() for site, adata in _khan_sites.items()}


@pytest.fixture
def breast() -> MuData:
    """TCGA breast cancer, three modalities; for tests marked ``data_dir``."""
    return infl.datasets.breast_tcga()


@pytest.fixture(scope="session")
def age_by_hand() -> Callable[[bytes, str], bytes]:
    """Encrypt under a passphrase by the age specification: a second opinion, and 500 times quicker to open.

    Real files are stretched for a second with 2^18 or more rounds of scrypt, these with 2^10.
    """

    def b64(content: bytes) -> bytes:
        return base64.b64encode(content).rstrip(b"=")

    def encrypt(plain: bytes, passphrase: str) -> bytes:
        file_key, salt, nonce = os.urandom(16), os.urandom(16), os.urandom(16)
        salted = b"age-encryption.org/v1/scrypt" + salt
        wrap = hashlib.scrypt(passphrase.encode(), salt=salted, n=2**10, r=8, p=1, dklen=32)
        body = ChaCha20Poly1305(wrap).encrypt(bytes(12), file_key, None)
        header = b"age-encryption.org/v1\n-> scrypt %b 10\n%b\n---" % (b64(salt), b64(body))
        mac = hmac.digest(hkdf(file_key, salt=b"", info=b"header", length=32), header, "sha256")
        assert len(plain) <= 65536  # one chunk
        payload = ChaCha20Poly1305(hkdf(file_key, salt=nonce, info=b"payload", length=32))
        return header + b" " + b64(mac) + b"\n" + nonce + payload.encrypt(bytes(11) + b"\1", plain, None)

    return encrypt


@pytest.fixture(scope="session")
def plainly_added() -> Callable[..., dict[str, Any]]:
    """Run a list of sums over views of sites by adding their shares as they are: what a seal and its scales come close to."""

    def run(sums: Iterable[FederatedSum], views: Sequence[Any], state: dict[str, Any] | None = None) -> dict[str, Any]:
        state = state or {}
        for one in sums:
            for step in range(one.steps):
                shares = [one.local(view, state) for view in views]
                assert {n: np.shape(a) for n, a in shares[0].items()} == {n: tuple(s) for n, s in one.shapes.items()}
                state = one.after(
                    {n: np.asarray(sum(share[n] for share in shares)) for n in one.shapes}, state, step=step
                )
        return state

    return run
