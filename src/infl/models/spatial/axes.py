"""The mean of what spots' neighbourhoods express, and axes along which it differs within sections, by sums over sites."""

from __future__ import annotations

import numpy as np

from infl.models.spatial.neighbourhoods import Neighbourhoods, Spots
from infl.nn.spatial import NeighbourhoodNet
from infl.sums import FINE_SCALE, FederatedSum, SiteView, State
from infl.sums.shape import Arrays

AXES_STEPS = 6
MORE_AXES = 10
"""Axes beside those of the latent that are iterated with them, for speed (Halko, Martinsson and Tropp 2011)."""


def centre(n_features: int) -> FederatedSum:
    """Return the sum of all spots; state: ``centre`` (n_features,), their mean, and ``scale``, how far they are from their sections'."""
    return FederatedSum(
        name="shares",
        shapes={"n": (), "sum": (n_features,), "square": ()},
        local=lambda site, state: total_of(site.data.near),
        combine=lambda total, state: {**state, **centre_of(total)},
        says="number of spots, sums of the roots of each feature's share in them, and how they spread within sections",
        scale=FINE_SCALE,
        records=lambda site, state: len(site.data.near),
        sensitivity={"n": 1},
    )


def total_of(near: Neighbourhoods) -> Arrays:
    """Return the number of spots, their sum (n_features,), and the sum of squares about the means of sections."""
    total, square = np.zeros(near.n_features), 0.0
    for index in near.chunks():
        total += near.rows(index).sum(0)
        square += float((near.within(index) ** 2).sum())
    return {"n": np.asarray(float(len(near))), "sum": total, "square": np.asarray(square)}


def centre_of(total: Arrays) -> Arrays:
    """Return ``centre`` (n_features,) and ``scale`` () from what :func:`total_of` counts."""
    n = max(float(total["n"]), 1.0)
    return {"centre": total["sum"] / n, "scale": np.sqrt(np.maximum(total["square"] / n, 1e-12))}


def principal_axes(n_latent: int, n_features: int) -> FederatedSum:
    """Return steps of subspace iteration; in the last one axes are turned to the principal ones (Rayleigh and Ritz).

    Spots are seen from the mean of their section, and sections weigh alike: what tells one section from others, such as its
    patient or batch, is on no axis. State: ``axes`` (n_features, n_latent).
    """
    n_axes = min(n_latent + MORE_AXES, n_features)

    def begun(state: State) -> np.ndarray:
        """Axes that a step begins with; the first are random, and the same at all sites."""
        if "axes" in state:
            return state["axes"]
        return np.linalg.qr(np.random.default_rng(0).standard_normal((n_features, n_axes)))[0]

    def local(site: SiteView[Spots, NeighbourhoodNet], state: State) -> Arrays:
        axes, image = begun(state), 0.0
        for chunk in site.data.near.chunks():
            rows = site.data.near.alike(chunk)
            image = image + rows.T @ (rows @ axes)
        return {"image": np.asarray(image)}

    def finish(total: Arrays, state: State) -> State:
        axes = begun(state)
        _, vectors = np.linalg.eigh(axes.T @ total["image"])
        return {**state, "axes": axes @ vectors[:, ::-1][:, :n_latent]}

    return FederatedSum(
        name="axes",
        shapes={"image": (n_features, n_axes)},
        local=local,
        combine=lambda total, state: {**state, "axes": np.linalg.qr(total["image"])[0]},
        says="products of features, summed over spots, to find axes that all sites share",
        scale=FINE_SCALE,
        records=lambda site, state: len(site.data.near),
        steps=AXES_STEPS,
        finish=finish,
    )
