"""Networks from stained tissue to counts: a small convolutional one, and the head that any backbone is put on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, ValidationError, validate_call
from torch import Tensor, nn
from torch.nn import functional as F

from infl import _entry_points
from infl._settings import settings
from infl.errors import SettingsError

GROUPS = 8
BOUND = 10.0
"""Of the logarithm of expected counts."""
SHARPEST = 6.0
"""Bound of log θ: beyond it single precision would lose the difference of log-gammas, and the variance is μ anyway."""


BACKBONES = {"small_cnn": "infl.nn.histology:SmallCNN"}
"""Those that are ours."""


class SmallCNN(nn.Sequential):
    """Three convolutions of stride 2 with GroupNorm, averaged over the patch.

    Parameters
    ----------
    width
        Channels of the last convolution.
    grid
        Averages are taken over each field of a ``grid × grid`` partition of the patch, which keeps its layout.

    Examples
    --------
    >>> import torch
    >>> SmallCNN()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 64])
    """

    def __init__(self, width: int = 64, *, grid: int = 1) -> None:
        sizes = (3, width // 4, width // 2, width)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(math.gcd(GROUPS, after), after), nn.SiLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(grid), nn.Flatten())


class HistologyNet(nn.Module):
    """Expected counts from a patch and from what was summed up of it and its neighbours.

    Parameters
    ----------
    backbone
        Maps images (n, 3, h, w) to vectors (n, d) or maps (n, d, h', w').
    n_statistics
        Numbers beside the image (0: none).
    n_features
        Genes.
    width, rank
        Of the hidden layer, and of the latent that genes are a linear function of.
    dropout
        Rate before and after the hidden layer.
    augment
        Turn and mirror images at random in training.
    image
        Shape (h, w), to find the backbone's width.

    Notes
    -----
    ``center``, ``scale`` (n_statistics) and ``level`` (n_features: log of mean counts) are set from sums over sites and
    are not part of ``state_dict``.
    """

    center: Tensor
    scale: Tensor
    level: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        n_statistics: int,
        n_features: int,
        *,
        width: int = 64,
        rank: int = 16,
        dropout: float = 0.2,
        augment: bool = True,
        image: tuple[int, int] = (32, 32),
    ) -> None:
        super().__init__()
        self.augment, self.backbone = augment, backbone
        with torch.no_grad():
            n_seen = self._seen(torch.zeros(2, 3, *image)).shape[1]
        self.image = nn.Linear(n_seen, width)
        self.beside = nn.Linear(n_statistics, width) if n_statistics else None
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.narrow = nn.Linear(width, rank)
        self.genes = nn.Linear(rank, n_features)
        nn.init.normal_(self.genes.weight, std=0.3 * rank**-0.5)
        nn.init.normal_(self.genes.bias, std=1e-2)
        self.dispersion = nn.Parameter(1 + 0.01 * torch.randn(n_features))
        self.register_buffer("center", torch.zeros(n_statistics), persistent=False)
        self.register_buffer("scale", torch.ones(n_statistics), persistent=False)
        self.register_buffer("level", torch.zeros(n_features), persistent=False)

    def _seen(self, images: Tensor) -> Tensor:
        seen = self.backbone(images)
        return seen.mean((2, 3)) if seen.ndim == 4 else seen

    def latent(self, images: Tensor, beside: Tensor) -> Tensor:
        """Map images (n, 3, h, w) and statistics (n, n_statistics) to the latent (n, rank)."""
        if self.training and self.augment:
            images = dihedral(images, int(torch.randint(8, ())))
        h = self.image(self._seen(images))
        if self.beside is not None:
            h = h + self.beside(self.dropout(((beside - self.center) / self.scale).clamp(-5, 5)))
        return self.narrow(self.dropout(F.silu(self.norm(h))))

    def forward(self, images: Tensor, beside: Tensor) -> Tensor:
        """Map images (n, 3, h, w) and statistics (n, n_statistics) to the log of expected counts (n, n_features)."""
        return (self.level + self.genes(self.latent(images, beside))).clamp(-BOUND, BOUND)


def dihedral(images: Tensor, number: int) -> Tensor:
    """Turn images (..., h, w) by ``number % 4`` quarters, and mirror them from 4 on.

    Examples
    --------
    >>> dihedral(torch.tensor([[1, 2], [3, 4]]), 5)
    tensor([[4, 2],
            [3, 1]])
    """
    turned = torch.rot90(images, number % 4, (-2, -1))
    return turned.flip(-1) if number >= 4 else turned


def count_loss(log_mean: Tensor, counts: Tensor, dispersion: Tensor | None) -> Tensor:
    """Return the negative log-likelihood of counts (n, n_features): negative binomial, Poisson without `dispersion`.

    `dispersion` (n_features) is the log of the inverse dispersion θ: the variance is μ + μ² / θ. Terms of the counts alone
    are left out of Poisson's.

    Examples
    --------
    >>> count_loss(torch.zeros(1, 1), torch.ones(1, 1), torch.full((1,), 20.0)).round(decimals=2)  # −log P(1 | μ = 1)
    tensor([[1.]])
    """
    if dispersion is None:
        return log_mean.exp() - counts * log_mean
    theta = dispersion.clamp(-SHARPEST, SHARPEST)
    total = torch.logaddexp(theta, log_mean)  # log(θ + μ)
    ways = torch.lgamma(counts + theta.exp()) - torch.lgamma(theta.exp()) - torch.lgamma(counts + 1)
    return -(ways + theta.exp() * (theta - total) + counts * (log_mean - total))


GROUP = "infl.backbones"
"""Entry points of functions that return a torch module from images (n, 3, h, w)."""


def load_backbone(name: str, options: Mapping[str, object]) -> nn.Module:
    """Return the backbone that a name means here, made with `options`; BatchNorm becomes GroupNorm.

    A name comes with messages and model files. What it means is for those to say whose machine this is: by
    ``infl.settings.backbones``, or by a package with an entry point of the group ``infl.backbones``; ``"small_cnn"`` is
    :class:`SmallCNN` everywhere. Import paths are not followed. Options are checked against the annotations of the function's parameters; each needs one.

    Raises
    ------
    SettingsError
        Nothing here has this name, the options are not of its types, or it makes no module.
    """
    own = settings.backbones
    installed = _entry_points.known(GROUP, BACKBONES)
    if name not in own and name not in installed:
        known = ", ".join(map(repr, sorted({*own, *installed})))
        raise SettingsError(
            f"backbone={name!r} is not known here ({known}): set infl.settings.backbones[{name!r}] to a function that makes it, "
            f"or install a package that brings it as an entry point of {GROUP!r}"
        )
    factory = own[name] if name in own else _entry_points.load(name, installed[name])
    try:
        parameters = inspect.signature(factory).parameters.values()
        bare = [p.name for p in parameters if p.annotation is p.empty or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    except (TypeError, ValueError):
        bare = ["its parameters"]
    if bare and options:
        raise SettingsError(
            f"backbone={name!r} takes no backbone_options: {bare[0]} has no type; annotate int, float, bool or str"
        )
    try:
        module = (
            validate_call(config=ConfigDict(strict=True))(_as_function(factory))(**options) if options else factory()
        )
    except (TypeError, ValidationError) as error:
        reason = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
        raise SettingsError(f"backbone={name!r} with backbone_options={dict(options)}: {reason}") from None
    if not isinstance(module, nn.Module):
        raise SettingsError(f"backbone={name!r} gave {type(module).__name__}: it has to return a torch module")
    return _without_batch_norm(module)


def _as_function(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes what a class makes, with its parameters and their types."""
    if not inspect.isclass(factory):
        return factory

    def make(*arguments: Any, **options: Any) -> Any:
        return factory(*arguments, **options)

    make.__signature__ = inspect.signature(factory)  # type: ignore[attr-defined]
    make.__annotations__ = get_type_hints(factory.__init__)
    return make


def _without_batch_norm(module: nn.Module) -> nn.Module:
    """Batch statistics are each site's own and cannot be averaged: groups within a patch take their place."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                n = child.num_features
                setattr(parent, name, nn.GroupNorm(math.gcd(GROUPS, n), n))
    return module
