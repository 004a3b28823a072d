"""What a trained mosaic says of spots: their latents, and each modality as the others tell it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from infl.models.mosaic.spots import MosaicSpots
from infl.nn.mosaic import MosaicNet
from infl.sums import State
from infl.sums.alignment import Alignment


@torch.no_grad()
def fused(net: MosaicNet, data: MosaicSpots) -> np.ndarray:
    """Return the latent of each spot (n_obs, n_latent): the mean over the modalities that it has."""
    return _mean_latent(net, data, tuple(data.measured))


@torch.no_grad()
def imputed(net: MosaicNet, data: MosaicSpots, to: int) -> np.ndarray:
    """Return a modality as the others tell it (n_obs, n_features); NaN for spots that have no other."""
    z = torch.from_numpy(_mean_latent(net, data, tuple(m for m in data.measured if m != to)).astype(np.float32))
    values = net.decode(z, to)
    return (torch.sigmoid(values) if data.binary[to] else values).numpy().astype(np.float64)


def aligned_and_named(
    latent: np.ndarray, sections: Sequence[np.ndarray], alignment: Alignment, private: State
) -> dict[str, np.ndarray]:
    """Return ``latent`` (n_obs, n_axes) where all sections have it, and each spot's ``domain`` where domains are named."""
    aligned = np.empty((len(latent), alignment.n_axes))
    for section in sections:
        aligned[section] = alignment.aligned(latent[section], private)
    if alignment.n_domains is None:
        return {"latent": aligned}
    return {"domain": alignment.label(aligned, private), "latent": aligned}


def missing_modalities(
    net: MosaicNet, data: MosaicSpots, private: State, *, measured_too: bool
) -> dict[str, np.ndarray]:
    """Return ``imputed_<number>`` (n_obs, n_features) of modalities, in measured units; NaN where there is nothing to tell.

    Without private arrays features are in units of their deviation.
    """
    found = {}
    for to, binary in enumerate(data.binary):
        values = imputed(net, data, to)
        if to in data.measured and not measured_too:
            values[data.measured[to].rows] = np.nan
        if not binary and f"center_{to}" in private:
            values = values * private[f"scale_{to}"] + private[f"center_{to}"]
        if np.isfinite(values).any():
            found[f"imputed_{to}"] = values.astype(np.float32)
    return found


def _mean_latent(net: MosaicNet, data: MosaicSpots, modalities: Sequence[int]) -> np.ndarray:
    total = np.zeros((data.n_obs, net.n_latent))
    number = np.zeros((data.n_obs, 1))
    for chunk in data.chunks():
        for m, part in data.batch(chunk).items():
            if m in modalities:
                rows = np.arange(chunk.start, chunk.stop)[part.at]
                total[rows] += net.encode(part.near(), m).numpy()
                number[rows] += 1
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)
