"""Small runs to attack: five hospitals, every eighth gene, six rounds; and the same with nothing protected."""

import warnings
from dataclasses import replace

import pytest
import torch

import infl
from infl.attacks import AuditContext
from infl.nn.mlp import ResidualMLP


def attacked(*, genes: int = 8, **options: object) -> AuditContext:
    """Fit to every eighth gene, or to fewer where what is attacked is not what the model has learned."""
    sites = {site: adata[:, ::genes].copy() for site, adata in infl.datasets.khan_sites().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", infl.errors.InflWarning)
        run = infl.tl.fit_federated(sites, target="tumour_class", progress=False, **{"rounds": 6, "lr": 3e-3} | options)
    return AuditContext(run, sites)


@pytest.fixture(scope="session")
def default() -> AuditContext:
    return attacked()


@pytest.fixture(scope="session")
def unprotected() -> AuditContext:
    return attacked(lock=None, seal="none")


@pytest.fixture(scope="session")
def published() -> AuditContext:
    return attacked(lock="published", seal="none", rounds=10, local_epochs=5, lr=1e-3)


@pytest.fixture(scope="session")
def private() -> dict[str, AuditContext]:
    """Two runs under differential privacy, by where the noise is added."""
    pytest.importorskip("opacus")
    options = {"rounds": 25, "lr": 0.01, "width": 8, "n_blocks": 0}
    dp = infl.privacy.DP(epsilon=1.5, delta=1e-4, sample_rate=0.2)
    return {noise: attacked(privacy=replace(dp, noise=noise), **options) for noise in ("distributed", "local")}


@pytest.fixture
def easy() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of three classes that anything learns."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 6), torch.arange(60) % 3
    x[torch.arange(60), y] += 4
    return x, y


def net() -> ResidualMLP:
    torch.manual_seed(1)
    return ResidualMLP(6, 3, width=8, n_blocks=1)
