"""Counts like those that the tests of preprocessing have."""

import numpy as np
import pandas as pd
from anndata import AnnData
from tests.pp.conftest import count_sites

__all__ = ["count_sites"]


def cohort(column, key: str = "y") -> dict[str, AnnData]:
    """Three sites whose two classes are far apart."""
    sites = {}
    for number in range(3):
        rng = np.random.default_rng(number)
        y = np.arange(30) % 2
        x = rng.normal(size=(30, 6)) + 4 * np.where(y[:, None], 1, -1)
        obs = pd.DataFrame(index=[f"{number}_{i}" for i in range(30)])
        sites[f"site_{number}"] = AnnData(
            x.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(6)])
        )
        sites[f"site_{number}"].obs[key] = column(y)
    return sites
