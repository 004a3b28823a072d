"""How well domains go with known regions, and clusters without coordinates beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def agreement_with_regions(regions: pd.Series, exclude: tuple[str, ...], domain: np.ndarray) -> dict[str, float]:
    """Return the adjusted Rand index and normalised mutual information of domains (n_obs,) and known regions.

    Examples
    --------
    >>> import pandas as pd
    >>> agreement_with_regions(pd.Series(["a", "a", "b", None, "?"]), ("?",), np.array([1, 1, 0, 0, 1]))
    {'ari': 1.0, 'nmi': 1.0}
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    known = regions.notna().to_numpy() & ~regions.isin(exclude).to_numpy()
    real, found = regions[known].astype(str).to_numpy(), domain[known]
    return {"ari": adjusted_rand_score(real, found), "nmi": normalized_mutual_info_score(real, found)}


def clusters_of_components(x: np.ndarray, n_domains: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Fit k-means on principal components of log-normalised counts (n_obs, n_features); return what names other rows."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline

    n_comps = min(30, *x.shape)
    model = make_pipeline(PCA(n_comps, random_state=seed), KMeans(n_domains, n_init=10, random_state=seed))
    model.fit(x)
    return model.predict
