"""Real data for the tests. What needs files beside the repository is marked ``data_dir``; see ``conftest.py`` above."""

import matplotlib
import pytest
from anndata import AnnData
from mudata import MuData

import infl

matplotlib.use("Agg")


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
