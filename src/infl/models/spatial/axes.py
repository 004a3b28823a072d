"""Principal axes of what spots' neighbourhoods express, by subspace iteration over sites."""

from __future__ import annotations

import numpy as np

from infl.models.spatial.neighbourhoods import VIEWS, Spots, squares
from infl.nn.spatial import NeighbourhoodNet
from infl.sums import FederatedSum, SiteView, State
from infl.sums.shape import Arrays

AXES_STEPS = 6
MORE_AXES = 10
"""Axes beside those of the latent that are iterated with them, for speed (Halko, Martinsson and Tropp 2011)."""


def views() -> FederatedSum:
    """Return the sum of each view's squares; state: ``scale`` (VIEWS,)."""
    return FederatedSum(
        name="views",
        shapes={"n": (), "squares": (VIEWS,)},
        local=lambda site, state: squares(site.data),
        combine=lambda total, state: {**state, "scale": scale_of(total)},
        says="number of spots and sums of squares, to bring a spot and its surroundings to one scale",
        records=lambda site, state: site.data.graph.shape[0],
        sensitivity={"n": 1},
    )


def scale_of(total: Arrays) -> np.ndarray:
    """Return the scale of each view (VIEWS,) from what :func:`squares` counts."""
    return np.sqrt(np.maximum(total["squares"] / max(float(total["n"]), 1.0), 1e-12))


def principal_axes(n_latent: int, n_features: int) -> FederatedSum:
    """Return steps of subspace iteration; in the last one axes are turned to the principal ones (Rayleigh and Ritz).

    State: ``axes`` (VIEWS · n_features, n_latent).
    """
    n_views = VIEWS * n_features
    n_axes = min(n_latent + MORE_AXES, n_views)

    def begun(state: State) -> np.ndarray:
        """Axes that a step begins with; the first are random, and the same at all sites."""
        if "axes" in state:
            return state["axes"]
        return np.linalg.qr(np.random.default_rng(0).standard_normal((n_views, n_axes)))[0]

    def local(site: SiteView[Spots, NeighbourhoodNet], state: State) -> Arrays:
        axes, image = begun(state), 0.0
        for chunk in site.data.chunks():
            rows = site.data.rows(chunk) / np.repeat(state["scale"], n_features)
            image = image + rows.T @ (rows @ axes)
        return {"image": np.asarray(image)}

    def finish(total: Arrays, state: State) -> State:
        axes = begun(state)
        _, vectors = np.linalg.eigh(axes.T @ total["image"])
        return {**state, "axes": axes @ vectors[:, ::-1][:, :n_latent]}

    return FederatedSum(
        name="axes",
        shapes={"image": (n_views, n_axes)},
        local=local,
        combine=lambda total, state: {**state, "axes": np.linalg.qr(total["image"])[0]},
        says="products of features, summed over spots, to find axes that all sites share",
        records=lambda site, state: site.data.graph.shape[0],
        steps=AXES_STEPS,
        finish=finish,
    )
