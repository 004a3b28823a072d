"""Shared by the tests of this folder."""

import numpy as np
import pandas as pd
from anndata import AnnData

import infl
from infl.keys import Keyring
from infl.privacy import Disclosure, DisclosureRules

SETTINGS = {"target": "tumour_class", "rounds": 3, "width": 8, "n_blocks": 0, "progress": False}


KEY = Keyring.create()


LOOSE = DisclosureRules(features_per_record=np.inf)


def site(n_of: dict[str, int], seed: int, n_vars: int = 12, name: str = "") -> AnnData:
    """Logarithms of counts that are not 0, with one group of each name."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(list(n_of), list(n_of.values()))
    x = np.log1p(rng.poisson(4.0, (len(groups), n_vars)) + 1.0)
    obs = pd.DataFrame({"group": groups}, index=[f"{name or seed} {i}" for i in range(len(groups))])
    return AnnData(
        x, obs=obs, var=pd.DataFrame(index=[f"gene {i}" for i in range(n_vars)]), uns={"log1p": {"base": None}}
    )


def sites_of(*sizes: dict[str, int]) -> dict[str, AnnData]:
    return {f"site_{i}": site(n_of, i) for i, n_of in enumerate(sizes)}


def closed(
    sites: dict[str, AnnData], group: str, rules: DisclosureRules = LOOSE, inside: Disclosure | None = None
) -> bool:
    with inside or Disclosure(rules):
        infl.tl.rank_genes_groups(sites, "group", key=KEY)
    scores = next(iter(sites.values())).uns["rank_genes_groups"]["scores"][group]
    assert np.isnan(scores).all() or not np.isnan(scores).any()
    return bool(np.isnan(scores).all())
