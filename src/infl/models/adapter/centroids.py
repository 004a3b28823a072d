"""Federated k-means over sentences: the centroids by which an adapter's experts are weighed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from infl.models.adapter.data import Sentences
from infl.models.task import Sums
from infl.sums import FederatedSum, SiteView, State
from infl.sums.shape import Records

if TYPE_CHECKING:
    from infl.models.adapter.net import AdaptedNet


def centroid_sums(k: int, width: int, *, steps: int) -> FederatedSum:
    """Return the steps of spherical k-means: k centroids of sentences' embeddings (width)."""

    def combine(total: Sums, state: State) -> State:
        """Move each centroid to the mean of its members, scaled to length 1; one without members stays."""
        before = state.get("centroids", np.zeros_like(total["sums"]))
        length = np.linalg.norm(total["sums"], axis=1, keepdims=True)
        moved = total["sums"] / np.maximum(length, 1e-12)
        return {**state, "centroids": np.where((total["members"] > 0.5)[:, None], moved, before)}

    def records(site: SiteView[Sentences, AdaptedNet], state: State) -> Records:
        members = near_centroids(site, state)["members"]
        return {"members": members, "sums": members[:, None]}

    return FederatedSum(
        name="centroids",
        shapes={"members": (k,), "sums": (k, width)},
        local=near_centroids,
        combine=combine,
        says="for each group of sentences: their number, and sums of the values that the model gives to them",
        records=records,
        sensitivity={"members": 1, "sums": 2},  # embeddings are of length 1
        steps=steps,
        called="{name} {step}",
    )


@torch.no_grad()
def near_centroids(site: SiteView[Sentences, AdaptedNet], state: State) -> Sums:
    """Return number and sum of the training sentences that are nearest to each centroid."""
    data, intuition = site.data, site.module.intuition
    sums = torch.zeros(intuition.centroids.shape, dtype=torch.float64)
    members = torch.zeros(len(sums), dtype=torch.float64)
    for start in range(0, len(data.train), 2048):
        ids, mask, _ = data.batch(data.train[start : start + 2048])
        embedded = intuition.embed(ids, mask)
        nearest = (embedded @ intuition.centroids.T).argmax(1)
        sums.index_add_(0, nearest, embedded.double())
        members += torch.bincount(nearest, minlength=len(members))
    return {"members": members.numpy(), "sums": sums.numpy()}
