"""How well expression is predicted: correlations as sums, what the network adds, and ridge regression beside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from infl.models.histology.patches import Patches
from infl.sums import FederatedSum, SiteView, State
from infl.sums.shape import Arrays
from infl.sums.share import share_moments

if TYPE_CHECKING:
    from infl.models.histology.spots import Spots
    from infl.nn.histology import HistologyNet

TOP = 50


def quality_shapes(n_features: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the sums behind correlations."""
    return {"n": (), "guess": (n_features,), "truth": (n_features,), "both": (n_features,)}


def quality_sums(guess: np.ndarray, truth: np.ndarray, data: Spots, index: np.ndarray) -> Arrays:
    """Return sums of squares and products about the means of sections, and the number of spots."""
    sums: Arrays = {"n": np.asarray(float(len(index)))}
    sums |= {name: np.zeros(truth.shape[1]) for name in ("guess", "truth", "both")}
    for positions in data.within_sections(index):
        a, b = (v[positions].astype(np.float64) - v[positions].mean(0) for v in (guess, truth))
        sums["guess"] += (a * a).sum(0)
        sums["truth"] += (b * b).sum(0)
        sums["both"] += (a * b).sum(0)
    return sums


def quality(of_site: Callable[[SiteView[Spots, HistologyNet], State], Arrays], n_features: int) -> FederatedSum:
    """Return the sum of :func:`quality_sums` over validation records; state: ``pearson`` (n_features,)."""
    return FederatedSum(
        name="quality",
        shapes=quality_shapes(n_features),
        local=of_site,
        combine=lambda total, state: {
            **state,
            "pearson": pearson(total) if total["n"] else np.full(n_features, np.nan),
        },
        says="sums that tell for each feature how well it is predicted on validation records",
        records=lambda site, state: len(site.data.validation),
        sensitivity={"n": 1},
    )


def pearson(sums: Arrays) -> np.ndarray:
    """Return each gene's correlation (n_features,); 0 where prediction or truth is constant."""
    size = np.sqrt(sums["guess"] * sums["truth"])
    return np.where(size > 1e-12, sums["both"] / np.maximum(size, 1e-12), 0.0)


def gains(step: np.ndarray, rest: np.ndarray, section: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return :func:`infl.sums.share.share_moments` over sections and over regions (2, 6), about the means of sections.

    Parameters
    ----------
    step
        From the first prediction to the second (n, n_features).
    rest
        From the first prediction to the truth (n, n_features).
    section, region
        Of each spot (n,), as a number.
    """
    gain, room = np.zeros((2, len(step)))
    for number in np.unique(section):
        own = section == number
        a, b = (values[own] - values[own].mean(0) for values in (step, rest))
        gain[own], room[own] = (a * b).mean(1), (a * a).mean(1)
    units = (np.unique(of_spot, return_inverse=True)[1] for of_spot in (section, region))
    return np.stack([share_moments(np.bincount(unit, gain), np.bincount(unit, room)) for unit in units])


def expression_metrics(predicted: np.ndarray, observed: np.ndarray) -> dict[str, float]:
    """Return how well genes are predicted over spots (n_obs, n_features): see :meth:`infl.models.Histology.score`.

    Examples
    --------
    >>> truth = np.random.default_rng(0).normal(size=(20, 3))
    >>> expression_metrics(2 * truth, truth)["pearson"]
    1.0
    """
    a, b = predicted - predicted.mean(0), observed - observed.mean(0)
    each = pearson({"guess": (a * a).sum(0), "truth": (b * b).sum(0), "both": (a * b).sum(0)})
    best = np.sort(each)[::-1][:TOP]
    return {
        "pearson": round(float(np.median(each)), 12),
        "pearson_top50": float(best.mean()),
        "mse": float(((predicted - observed) ** 2).mean()),
    }


def ridge_on_colours(patches: Patches, known: np.ndarray, truth: np.ndarray) -> Callable[[Patches], np.ndarray]:
    """Fit expression (n_known, n_features) of the `known` spots to colour and texture; return what predicts it elsewhere."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV((1.0, 10.0, 100.0)))
    model.fit(colour_and_texture(patches)[known], truth)
    return lambda other: model.predict(colour_and_texture(other))


def colour_and_texture(patches: Patches) -> np.ndarray:
    """Return nine plain numbers of each patch: mean and deviation of R, G, B; mean gradients and deviation of grey."""
    rows = []
    for _, density in patches.blocks(np.arange(patches.n)):
        rgb = np.exp(-density)
        grey = rgb.mean(3)
        slopes = [np.abs(np.diff(grey, axis=axis)).mean((1, 2)) for axis in (1, 2)]
        rows.append(np.column_stack([rgb.mean((1, 2)), rgb.std((1, 2)), *slopes, grey.std((1, 2))]))
    return np.concatenate(rows)
