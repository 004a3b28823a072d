"""Small sites that train in milliseconds."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from infl.keys import Identity, Keyring


def make_sites(n_sites: int = 4, n_obs: int = 12, n_vars: int = 8, seed: int = 0) -> dict[str, AnnData]:
    """Three well separated classes at each site; sites differ in size."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(3, n_vars)) * 2
    sites = {}
    for i in range(n_sites):
        y = np.arange(n_obs + i) % 3
        x = (centers[y] + rng.normal(size=(len(y), n_vars))).astype(np.float32)
        obs = pd.DataFrame(
            {"label": pd.Categorical.from_codes(y, ["a", "b", "c"])}, index=[f"{i}_{j}" for j in range(len(y))]
        )
        sites[f"site_{i + 1}"] = AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(n_vars)]))
    return sites


@pytest.fixture
def small_sites() -> dict[str, AnnData]:
    return make_sites()


@pytest.fixture
def identities(small_sites: dict[str, AnnData]) -> dict[str, Identity]:
    return {name: Identity.create() for name in small_sites}


@pytest.fixture
def key(identities: dict[str, Identity]) -> Keyring:
    """A ring that was granted to the sites."""
    ring = Keyring.create()
    for name, identity in identities.items():
        ring.grant(name, identity)
    return ring
