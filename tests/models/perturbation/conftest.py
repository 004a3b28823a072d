"""Shared by the tests of this folder."""

import warnings

import pytest
from tests.models.perturbation.screen import CONDITIONS, GRAPH, cells

import infl
from infl.errors import InflWarning


@pytest.fixture
def sites():
    return {f"site_{i}": cells(i, CONDITIONS) for i in range(3)}


def fit(sites, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        return infl.tl.fit_federated(
            sites, model="perturbation", progress=False, **{"rounds": 6, "graph": GRAPH} | options
        )
