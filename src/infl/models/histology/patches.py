"""Patches of stained tissue: how they are read, what their colours and texture say, and how stains are made alike.

Light that passes a stain is absorbed in proportion to its amount (Beer and Lambert), so that all is computed on optical
density, ``-ln((value + 1) / 256)``, in which amounts of stain add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from infl._warn import warn
from infl.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

Stain = Literal["reinhard", "macenko", "none"]
BLOCK = 256
"""Patches that are looked at together."""
SMALLEST = 8
N_STATISTICS = 30
SCALES = (1, 2, 4)
"""Pixels over which patches are averaged before neighbouring ones are compared."""
FAINT = 0.15
"""Optical density below which a pixel is background (Macenko et al. 2009)."""


class Patches:
    """H&E patches of a site's spots, in memory as they are stored and read in blocks.

    Parameters
    ----------
    adata
        ``obsm[key]`` has uint8 patches, (n_obs, height · width · 3) in row-major order with ``uns["patch_shape"]``, or
        (n_obs, height, width, 3). A patch of zeros only is a missing one.
    key
        Of ``obsm``.
    site
        For messages.

    Raises
    ------
    DataError
        There are none, or they are not patches of RGB.
    """

    def __init__(self, adata: AnnData, *, key: str = "patches", site: str) -> None:
        if key not in adata.obsm:
            has = ", ".join(map(repr, list(adata.obsm)[:6])) or "nothing"
            raise DataError(
                f"{site} has no patches in obsm[{key!r}] (obsm has {has}): cut them with infl.pp.cut_patches, or set patches="
            )
        stored = adata.obsm[key]
        if getattr(stored, "dtype", None) != np.uint8:
            kind = getattr(stored, "dtype", type(stored).__name__)
            raise DataError(
                f"obsm[{key!r}] of {site} has type {kind}: patches are uint8, 0 to 255, and 0 throughout where one is missing"
            )
        self.stored, self.n = stored, adata.n_obs
        self.shape = self._shape(adata, key, site)
        self.present = np.concatenate(
            [self._rows(slice(i, i + BLOCK)).any((1, 2, 3)) for i in range(0, max(self.n, 1), BLOCK)]
        )
        if self.n and not self.present.any():
            raise DataError(f"all patches in obsm[{key!r}] of {site} are missing (zeros only)")

    def _shape(self, adata: AnnData, key: str, site: str) -> tuple[int, int, int]:
        if self.stored.ndim == 4:
            shape = tuple(self.stored.shape[1:])
        elif "patch_shape" in adata.uns:
            shape = tuple(int(n) for n in np.ravel(adata.uns["patch_shape"]))
        else:
            raise DataError(f"{site} has flat patches and no uns['patch_shape']: set it to (height, width, 3)")
        if len(shape) != 3 or shape[2] != 3 or int(np.prod(shape)) != int(np.prod(self.stored.shape[1:])):
            raise DataError(
                f"patches of {site} are {tuple(self.stored.shape[1:])} numbers and of shape {shape}: due are (height, width, 3), "
                "RGB last, without alpha"
            )
        if min(shape[:2]) < SMALLEST:
            raise DataError(f"patches of {site} are {shape[0]} × {shape[1]} pixels: at least {SMALLEST} × {SMALLEST}")
        return shape[0], shape[1], 3

    def _rows(self, index: np.ndarray | slice) -> np.ndarray:
        rows = np.asarray(self.stored[index])
        return rows.reshape(len(rows), *self.shape)

    def density(self, index: np.ndarray | slice) -> np.ndarray:
        """Return optical densities (n, height, width, 3), float32."""
        return LEVELS[self._rows(index)]

    def blocks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield positions in `rows` and their optical densities, some hundred at a time."""
        for start in range(0, len(rows), BLOCK):
            yield np.arange(start, min(start + BLOCK, len(rows))), self.density(rows[start : start + BLOCK])


LEVELS = (-np.log((np.arange(256) + 1) / 256)).astype(np.float32)
"""Optical density of each level."""


def statistics(density: np.ndarray) -> np.ndarray:
    """Return what colour and texture say of each patch (n, 30); the same for a patch turned or mirrored.

    Of optical density, by channel: mean, deviation, three quantiles, differences of neighbours at three scales, skewness;
    and the channels' covariances.

    Examples
    --------
    >>> flat = np.full((1, 8, 8, 3), 0.5, dtype=np.float32)
    >>> statistics(flat)[0, :4]
    array([0.5, 0.5, 0.5, 0. ], dtype=float32)
    """
    n, height, width, _ = density.shape
    mean = density.mean((1, 2))
    away = density - mean[:, None, None]
    parts = [mean, density.std((1, 2))]
    parts += list(np.quantile(density.reshape(n, -1, 3), (0.1, 0.5, 0.9), axis=1))
    for k in SCALES:
        h, w = height // k, width // k
        coarse = density[:, : h * k, : w * k].reshape(n, h, k, w, k, 3).mean((2, 4))
        squares = [(np.diff(coarse, axis=axis) ** 2).mean((1, 2)) for axis in (1, 2)]
        parts.append(np.sqrt((squares[0] + squares[1]) / 2))
    pairs = [(away[..., i] * away[..., j]).mean((1, 2)) for i, j in ((0, 1), (0, 2), (1, 2))]
    return np.concatenate([*parts, np.stack(pairs, 1), (away**3).mean((1, 2))], 1).astype(np.float32)


Transform = Callable[[np.ndarray], np.ndarray]


def stain_transform(patches: Patches, rows: np.ndarray, stain: Stain) -> Transform:
    """Return how one section's optical densities (n, h, w, 3) become images in which stains of all sections are alike.

    ``"reinhard"``
        Each channel with mean 0 and deviation 1 over the section.
    ``"macenko"``
        Amounts of haematoxylin, of eosin and what neither explains; the section's 99th percentiles of the stains
        are 1.
    ``"none"``
        As they are.

    References
    ----------
    Reinhard et al., Color transfer between images, IEEE CG&A 2001. Macenko et al., A method for normalizing histology
    slides for quantitative analysis, ISBI 2009.
    """
    if stain == "none":
        return lambda density: density
    if stain == "reinhard":
        moments = np.zeros((3, 3))
        for _, density in patches.blocks(rows):
            flat = density.reshape(-1, 3).astype(np.float64)
            moments += (np.full(3, len(flat)), flat.sum(0), (flat**2).sum(0))
        mean = moments[1] / moments[0]
        deviation = np.sqrt(np.maximum(moments[2] / moments[0] - mean**2, 1e-6))
        return lambda density: ((density - mean) / deviation).astype(np.float32)
    sample = np.concatenate([density.reshape(-1, 3)[::7] for _, density in patches.blocks(rows)]).astype(np.float64)
    inverse = np.linalg.inv(stain_vectors(sample))
    top = np.maximum(np.quantile(np.abs(sample @ inverse), 0.99, axis=0), 1e-3)
    top[2] = top[:2].mean()  # what is left is small and noise: on the scale of the stains
    return lambda density: (density @ inverse / top).astype(np.float32)


def stain_vectors(density: np.ndarray) -> np.ndarray:
    """Return unit vectors (3, 3) of haematoxylin, eosin and the direction across both, from pixels (n, 3).

    The two stains are the extreme directions, at the 1st and 99th percentile, in the plane of most variance.
    """
    tissue = density[(density > FAINT).all(1)]
    if len(tissue) < 10:
        return np.eye(3)
    _, axes = np.linalg.eigh(np.cov(tissue.T))
    plane = axes[:, 1:] * np.where(axes[:, 1:].sum(0) < 0, -1, 1)
    angles = np.arctan2(*(tissue @ plane).T)
    ends = [plane @ (np.sin(a), np.cos(a)) for a in np.quantile(angles, (0.01, 0.99))]
    first, second = (np.abs(end) / np.linalg.norm(end) for end in sorted(ends, key=lambda v: -v[0]))  # more red: nuclei
    across = np.cross(first, second)
    if np.linalg.norm(across) < 1e-3:
        return np.eye(3)
    return np.stack([first, second, across / np.linalg.norm(across)])


def warn_of_colours(mean: np.ndarray, site: str) -> None:
    """Say it when colours are not those of H&E, which lets green light through least; `mean` (3,) is optical density."""
    if mean.argmax() != 1:
        warn(
            f"patches of {site} let {('red', 'green', 'blue')[int(mean.argmax())]} through least, not green as H&E does: "
            "are the channels RGB, and last?"
        )
