"""A coordinator and three sites with kits of their own, as separate processes over mutual TLS on this machine."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from infl.federation.flare.rehearsal import Rehearsal
from infl.keys import Keyring

SITES = ("site_1", "site_2", "site_3")


def make_sites() -> dict[str, AnnData]:
    """Three separated classes at each site; sites differ in size."""
    rng = np.random.default_rng(0)
    centers, sites = rng.normal(size=(3, 8)) * 2, {}
    for i, name in enumerate(SITES):
        y = np.arange(12 + i) % 3
        x = (centers[y] + rng.normal(size=(len(y), 8))).astype(np.float32)
        names = [f"{i}_{j}" for j in range(len(y))]
        obs = pd.DataFrame({"label": pd.Categorical.from_codes(y, ["a", "b", "c"])}, index=names)
        sites[name] = AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(8)]))
    return sites


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        network = Rehearsal(tmp_path_factory.mktemp("network"), make_sites(), Keyring.create())
        for site in SITES:
            (network.root / site / "policy.toml").write_text("min_sites = 2\n")
        yield network
