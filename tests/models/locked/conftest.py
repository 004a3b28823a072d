"""Shared by the tests of this folder."""

import pytest

import infl
from infl.federation.run import FederatedRun


@pytest.fixture(scope="module")
def run() -> FederatedRun:
    return infl.tl.fit_federated(infl.datasets.khan_sites(), target="tumour_class", rounds=3, progress=False)
