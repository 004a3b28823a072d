"""What the convolutional network says of spots, as means over the eight ways in which a patch can lie."""

from __future__ import annotations

import numpy as np
import torch

from infl.models.histology.spots import Spots, blocks
from infl.nn.histology import HistologyNet, dihedral


@torch.no_grad()
def means_and_latents(net: HistologyNet, data: Spots, index: np.ndarray, *, ways: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logarithms of expected counts (n, n_features) and latents (n, rank) of the spots `index`.

    Each is the mean over the first `ways` of the eight ways to turn and mirror a patch.
    """
    found = []
    for part in blocks(index):
        images, beside = data.images(part), torch.from_numpy(data.beside[part])
        found.append(torch.stack([net.latent(dihedral(images, way), beside) for way in range(ways)]).mean(0))
    latent = torch.cat(found)
    log_mean = (net.level + net.genes(latent)).clamp(-10, 10).double().numpy()
    return log_mean, latent.numpy()


@torch.no_grad()
def standardise_by_own(net: HistologyNet, data: Spots) -> None:
    """Set the scale of statistics by these spots' own moments, as somebody without the key has to."""
    own = data.beside[data.rows]
    net.center.copy_(torch.from_numpy(own.mean(0)))
    net.scale.copy_(torch.from_numpy(np.maximum(own.std(0), 1e-3)))
