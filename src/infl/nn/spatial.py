"""An autoencoder of what a spot's neighbourhood expresses."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NeighbourhoodNet(nn.Module):
    """Reconstruct a neighbourhood's expression from a part of it.

    Two ways lead to the bottleneck: principal axes, along which it is decoded too, and what a hidden layer with LayerNorm
    adds to them. In training a share of the input is masked, and all of it is reconstructed. Averages over neighbours, the
    light graph convolution, are taken before: they have no weights (Wu et al., Simplifying graph convolutional networks,
    ICML 2019).

    Parameters
    ----------
    n_features
        Columns of the input.
    width
        Of the hidden layer.
    n_latent
        Of the bottleneck.
    mask
        Share of the input that is masked in training.

    Notes
    -----
    ``scale`` (), by which the input is divided, and ``axes`` (n_latent, n_features; orthonormal rows) are set from sums over
    sites and not part of ``state_dict``.

    Examples
    --------
    >>> import torch
    >>> net = NeighbourhoodNet(30).eval()
    >>> net(torch.zeros(2, 30)).shape, net.latent(torch.zeros(2, 30)).shape
    (torch.Size([2, 30]), torch.Size([2, 5]))
    """

    scale: Tensor
    axes: Tensor

    def __init__(self, n_features: int, *, width: int = 64, n_latent: int = 5, mask: float = 0.2) -> None:
        super().__init__()
        self.mask = nn.Dropout(mask)
        self.hidden = nn.Linear(n_features, width)
        self.norm = nn.LayerNorm(width)
        self.bottleneck = nn.Linear(width, n_latent)
        nn.init.normal_(self.bottleneck.weight, std=1e-3)  # begins as the principal components
        nn.init.normal_(self.bottleneck.bias, std=1e-3)
        self.offset = nn.Parameter(torch.randn(n_features) * 1e-4)
        self.register_buffer("scale", torch.tensor(1.0), persistent=False)
        self.register_buffer("axes", torch.zeros(n_latent, n_features), persistent=False)

    def latent(self, x: Tensor) -> Tensor:
        """Map (n, n_features) to the bottleneck (n, n_latent); distances in it are those between reconstructions."""
        x = self.mask(x / self.scale)
        return x @ self.axes.T + self.bottleneck(nn.functional.silu(self.norm(self.hidden(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, n_features) to the reconstruction of ``x / scale`` (n, n_features)."""
        return self.latent(x) @ self.axes + self.offset

    def error(self, x: Tensor) -> Tensor:
        """Return the squared error of the reconstruction of each row (n,)."""
        return ((self(x) - x / self.scale) ** 2).sum(1)
