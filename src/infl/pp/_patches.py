"""Cutting patches of stained tissue from a section's image, at a stated physical size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from infl.errors import DataError, SettingsError

if TYPE_CHECKING:
    from anndata import AnnData

RESOLUTIONS = ("hires", "lowres")


def cut_patches(
    adata: AnnData,
    *,
    size: float,
    pixels: int = 32,
    spot_diameter: float = 55.0,
    library: str | None = None,
    image: Any = None,
    microns_per_pixel: float | None = None,
    spatial_key: str = "spatial",
    key_added: str = "patches",
) -> None:
    """Cut the tissue around each spot out of the section's image.

    Parameters
    ----------
    adata
        One section; ``obsm[spatial_key]`` in pixels of the full image (or of `image`), x first.
    size
        Side of a patch in micrometres.
    pixels
        Side of a patch after it is brought to one resolution.
    spot_diameter
        Of the assay, in micrometres: 55 for Visium, 100 for the first spatial transcriptomics slides. With the diameter in
        pixels, which Space Ranger wrote into ``uns``, it says how large a pixel is.
    library
        Key of ``uns["spatial"]`` (None: the only one).
    image
        RGB image (height, width, 3) of uint8 to cut from instead, such as an element of a SpatialData object's ``images``
        with channels last; with `microns_per_pixel`.
    microns_per_pixel
        Size of a pixel of `image`.
    spatial_key
        Key of ``obsm`` with the coordinates.
    key_added
        Key of ``obsm`` to write to.

    Returns
    -------
    None. ``obsm[key_added]``: uint8 patches (n_obs × pixels · pixels · 3), row-major, zeros where a patch is not whole within
    the image; ``uns["patch_shape"]``: ``(pixels, pixels, 3)``.

    Raises
    ------
    DataError
        There is no image, or it is not RGB of uint8; no patch lies within it.
    SettingsError
        A size that is not possible.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> spots = anndata.AnnData(np.ones((1, 1)), obsm={"spatial": np.array([[50.0, 50.0]])})
    >>> cut_patches(spots, size=20.0, pixels=8, image=np.full((100, 100, 3), 200, np.uint8), microns_per_pixel=0.5)
    >>> spots.obsm["patches"].shape, int(spots.obsm["patches"].min())
    ((1, 192), 200)
    """
    if size <= 0 or pixels < 1 or spot_diameter <= 0:
        raise SettingsError("size=, pixels= and spot_diameter= are above 0")
    if image is None:
        picture, scale, microns = _from_uns(adata, library, spot_diameter)
    elif microns_per_pixel is None or microns_per_pixel <= 0:
        raise SettingsError("image= needs microns_per_pixel=, above 0: the size of its pixels")
    else:
        picture, scale, microns = np.asarray(image), 1.0, microns_per_pixel
    picture = _as_rgb(picture)
    if spatial_key not in adata.obsm:
        raise DataError(f"there are no coordinates in obsm[{spatial_key!r}]: set spatial_key=")
    side = round(size / microns)
    if side < 2:
        raise DataError(f"size={size:g} µm is {size / microns:.2g} pixels of this image: give a larger size or image")
    corners = np.rint(np.asarray(adata.obsm[spatial_key], dtype=np.float64)[:, :2] * scale - side / 2)
    patches = np.zeros((adata.n_obs, pixels, pixels, 3), dtype=np.uint8)
    whole = np.isfinite(corners).all(1) & (corners >= 0).all(1)
    whole &= (corners + side <= (picture.shape[1], picture.shape[0])).all(1)
    if not whole.any():
        raise DataError(
            f"no patch of {size:g} µm lies within the image of {picture.shape[1]} × {picture.shape[0]} pixels: are the "
            "coordinates in pixels of the full image, x first?"
        )
    for i in np.flatnonzero(whole):
        x, y = corners[i].astype(int)
        patches[i] = _resized(picture[y : y + side, x : x + side], pixels)
    adata.obsm[key_added] = patches.reshape(adata.n_obs, -1)
    adata.uns["patch_shape"] = np.array(patches.shape[1:])


def _from_uns(adata: AnnData, library: str | None, spot_diameter: float) -> tuple[np.ndarray, float, float]:
    """Return the image, its pixels a pixel of the full image, and the size of its pixels in micrometres."""
    libraries = adata.uns.get("spatial", {})
    if not libraries:
        raise DataError("there is no image in uns['spatial']: read the section with its images, or pass image=")
    if library is None and len(libraries) > 1:
        raise DataError(f"uns['spatial'] has {len(libraries)} sections: choose library=, one of {', '.join(libraries)}")
    name = next(iter(libraries)) if library is None else library
    if name not in libraries:
        raise DataError(f"uns['spatial'] has no {name!r}: it has {', '.join(libraries)}")
    images, factors = (libraries[name].get(part, {}) for part in ("images", "scalefactors"))
    kind = next((k for k in RESOLUTIONS if k in images), None)
    if kind is None or not {f"tissue_{kind}_scalef", "spot_diameter_fullres"} <= factors.keys():
        raise DataError(
            f"uns['spatial'][{name!r}] lacks an image with tissue_…_scalef and spot_diameter_fullres: pass image= and "
            "microns_per_pixel="
        )
    scale = float(factors[f"tissue_{kind}_scalef"])
    return np.asarray(images[kind]), scale, spot_diameter / float(factors["spot_diameter_fullres"]) / scale


def _as_rgb(picture: np.ndarray) -> np.ndarray:
    if picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise DataError(f"the image has shape {picture.shape}: due is (height, width, 3), RGB last")
    if picture.dtype == np.uint8:
        return picture[..., :3]
    if np.issubdtype(picture.dtype, np.floating) and picture.size and picture.min() >= 0 and picture.max() <= 1:
        return np.rint(picture[..., :3] * 255).astype(np.uint8)  # as scanpy reads images
    raise DataError(f"the image has type {picture.dtype}: due is uint8, 0 to 255, or floating point from 0 to 1")


def _resized(patch: np.ndarray, pixels: int) -> np.ndarray:
    """Return a patch with another number of pixels, averaging where it shrinks."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(patch)).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(tensor, (pixels, pixels), mode="bilinear", antialias=True)
    return np.maximum(resized[0].permute(1, 2, 0).round().clamp(0, 255).numpy(), 1).astype(np.uint8)
