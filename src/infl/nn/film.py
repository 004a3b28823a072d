"""Feature-wise modulation of a layer's output by the activation and a code (FiLM, arXiv 1709.07871).

The code says under which condition the layer works. It may be the code of a secret key
(:mod:`infl.nn.published`) or a site's own coordinate, learned there and never sent, by which a shared network absorbs
what is particular to a site.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILM_CODE_SIZE = 16
FILM_INITIAL_STD = 0.02


class FiLM(nn.Module):
    r"""Modulate features by the activation and a code: ``h * (1 + k tanh γ) + k tanh β``.

    γ and β are a linear function of ``[a, z, a ⊙ z]``, with the activation code ``a = LayerNorm(SiLU(Linear(h)))``
    and the code ``z`` from outside.

    Parameters
    ----------
    features
        Size of the last dimension of the layer's output.
    strength
        Factor k: each feature is scaled by a factor in (1 − k, 1 + k) and moved by less than k; 0 changes nothing.
    code_size
        Size of ``a`` and ``z``.

    References
    ----------
    Perez et al. 2018, *FiLM: visual reasoning with a general conditioning layer*, arXiv 1709.07871.

    Examples
    --------
    >>> import torch
    >>> film = FiLM(5, strength=1.0)
    >>> film(torch.zeros(7, 3, 5), torch.zeros(16)).shape
    torch.Size([7, 3, 5])
    """

    def __init__(self, features: int, strength: float, *, code_size: int = FILM_CODE_SIZE) -> None:
        super().__init__()
        self.features = features
        self.strength = float(strength)
        self.activation = nn.Linear(features, code_size)
        self.norm = nn.LayerNorm(code_size)
        self.modulation = nn.Linear(3 * code_size, 2 * features)
        nn.init.normal_(self.modulation.weight, std=FILM_INITIAL_STD)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Modulate `h` (..., features) by `z`: (code_size,), or (..., code_size) for a code of its own a row."""
        a = self.norm(F.silu(self.activation(h)))  # (..., code_size)
        condition = torch.cat([a, z.expand_as(a), a * z], dim=-1)  # (..., 3 code_size)
        gamma, beta = torch.tanh(self.modulation(condition)).chunk(2, dim=-1)  # (..., features) each
        return torch.addcmul(h, h, gamma, value=self.strength).add(beta, alpha=self.strength)  # h (1 + k γ) + k β

    def extra_repr(self) -> str:
        """Sizes and strength, for ``repr``."""
        return f"features={self.features}, strength={self.strength:g}"
