"""An encoder and a decoder for each modality around one latent that they share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class MosaicNet(nn.Module):
    """Map every modality into one latent and back.

    Parameters
    ----------
    n_features
        Number of features of each modality.
    n_latent
        Size of the latent.
    width
        Hidden units of an encoder (0: it is linear). Decoders are linear.

    Examples
    --------
    >>> import torch
    >>> net = MosaicNet([20, 10], n_latent=4)
    >>> net(torch.zeros(3, 20), 0, 1).shape
    torch.Size([3, 10])
    """

    def __init__(self, n_features: Sequence[int], n_latent: int = 8, width: int = 64) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.encoders = nn.ModuleList(_encoder(n, n_latent, width) for n in n_features)
        self.decoders = nn.ModuleList(nn.Linear(n_latent, n) for n in n_features)

    def encode(self, x: Tensor, modality: int) -> Tensor:
        """Map features (n, n_features) of a modality to the latent (n, n_latent)."""
        return self.encoders[modality](x)

    def decode(self, z: Tensor, modality: int) -> Tensor:
        """Map the latent (n, n_latent) to features (n, n_features) of a modality."""
        return self.decoders[modality](z)

    def forward(self, x: Tensor, source: int, to: int) -> Tensor:
        """Predict one modality from another."""
        return self.decode(self.encode(x, source), to)


def _encoder(n_features: int, n_latent: int, width: int) -> nn.Module:
    if not width:
        return nn.Sequential(nn.Linear(n_features, n_latent))
    return nn.Sequential(nn.Linear(n_features, width), nn.SiLU(), nn.Linear(width, n_latent))
