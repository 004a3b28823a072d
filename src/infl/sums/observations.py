"""How many observations all sites have together, and whether anything is left to do at any of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from infl.sums.cells import everyone
from infl.sums.over_sites import run_sums
from infl.sums.shape import COUNT_SCALE, FederatedSum

if TYPE_CHECKING:
    from infl.keys import Keyring


def n_observations(sites: Mapping[str, int], key: Keyring | None, *, about: str) -> int:
    """Return the number of observations of all sites.

    Parameters
    ----------
    sites
        Number of observations by site.
    key
        Key ring or None.
    about
        What it is for; the seal is bound to it.

    Examples
    --------
    >>> n_observations({"a": 20, "b": 3}, None, about="pca")
    23
    """
    return run_sums([observations()], sites, key, about=about)["n_obs"]


def observations() -> FederatedSum:
    """Return the sum of the sites' numbers of observations; sites are these, state: ``n_obs``."""
    return FederatedSum(
        name="observations",
        shapes={"n": ()},
        local=lambda n, state: {"n": n},
        combine=lambda total, state: {**state, "n_obs": round(float(total["n"]))},
        says="number of observations",
        scale=COUNT_SCALE,
        records=lambda n, state: n,
        sensitivity={"n": 1},
        cells=everyone(int),
    )
