"""Cutting patches of stained tissue from a section's image, at a stated physical size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from infl._parameters import Having, Real, Text, Whole, door
from infl.errors import DataError, SettingsError

if TYPE_CHECKING:
    from anndata import AnnData

SpatialData: TypeAlias = Any
"""spatialdata's class; who has no such object need not have the package."""
RESOLUTIONS = ("hires", "lowres")


@door(
    adata=Having(("write",), of_data=True, says="an AnnData or SpatialData"),
    size=Real(0, open="low"),
    pixels=Whole(1),
    spot_diameter=Real(0, open="low"),
    library=Text(none=True),
    microns_per_pixel=Real(0, open="low", none=True),
    spatial_key=Text(),
    table=Text(),
    coordinate_system=Text(),
)
def cut_patches(
    adata: AnnData | SpatialData,
    *,
    size: float,
    pixels: int = 32,
    spot_diameter: float = 55.0,
    library: str | None = None,
    image: Any = None,
    microns_per_pixel: float | None = None,
    spatial_key: str = "spatial",
    table: str = "table",
    coordinate_system: str = "global",
    key_added: str = "patches",
) -> None:
    """Cut the tissue around each spot out of the section's image.

    Parameters
    ----------
    adata
        One section; ``obsm[spatial_key]`` in pixels of the full image (or of `image`), x first. Or a SpatialData object: its
        table says which shapes are the spots, and their places in the image follow from both elements' transformations.
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
        RGB image (height, width, 3) of uint8 to cut from instead; with `microns_per_pixel`. Of a SpatialData object: the
        name of an element of ``images`` (None: the only one); only the patches are read from it.
    microns_per_pixel
        Size of a pixel of `image`. For a SpatialData object None is enough where the spots are circles, whose diameter is
        `spot_diameter`.
    spatial_key
        Key of ``obsm`` with the coordinates.
    table, coordinate_system
        Of a SpatialData object: which of its tables, and where its spots and its image meet.
    key_added
        Key of ``obsm`` to write to.

    Returns
    -------
    None. ``obsm[key_added]`` (of the table): uint8 patches (n_obs × pixels · pixels · 3), row-major, zeros where a patch is not whole within
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
    if hasattr(adata, "tables"):
        adata, picture, places, microns = _from_spatialdata(
            adata, table, image, coordinate_system, spot_diameter, microns_per_pixel
        )
        return _cut(adata, picture, places, size=size, microns=microns, pixels=pixels, key_added=key_added)
    if image is None:
        picture, scale, microns = _from_uns(adata, library, spot_diameter)
    elif microns_per_pixel is None or microns_per_pixel <= 0:
        raise SettingsError("image= needs microns_per_pixel=, above 0: the size of its pixels")
    else:
        picture, scale, microns = np.asarray(image), 1.0, microns_per_pixel
    if spatial_key not in adata.obsm:
        raise DataError(f"there are no coordinates in obsm[{spatial_key!r}]: set spatial_key=")
    places = np.asarray(adata.obsm[spatial_key], dtype=np.float64)[:, :2] * scale
    _cut(adata, picture, places, size=size, microns=microns, pixels=pixels, key_added=key_added)


def _cut(
    adata: AnnData, picture: Any, places: np.ndarray, *, size: float, microns: float, pixels: int, key_added: str
) -> None:
    """Write patches of `size` µm around `places` (x, y in pixels of the picture), whose pixels are of `microns` µm."""
    _check_rgb(picture)
    side = round(size / microns)
    if side < 2:
        raise DataError(f"size={size:g} µm is {size / microns:.2g} pixels of this image: give a larger size or image")
    corners = np.rint(places - side / 2)
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
        patches[i] = _resized(_as_rgb(picture[y : y + side, x : x + side]), pixels)
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


def _from_spatialdata(
    sdata: SpatialData,
    table: str,
    image: str | None,
    coordinate_system: str,
    spot_diameter: float,
    microns_per_pixel: float | None,
) -> tuple[AnnData, Any, np.ndarray, float]:
    """Return the table, the image (lazy), the spots' places in it in pixels, and the size of its pixels in micrometres."""
    from spatialdata import get_centroids, get_pyramid_levels
    from spatialdata.transformations import get_transformation

    if table not in sdata.tables:
        raise DataError(f"the SpatialData object has no table {table!r}: it has {', '.join(sdata.tables) or 'none'}")
    adata = sdata.tables[table]
    if image is None and len(sdata.images) != 1:
        raise DataError(f"the object has {len(sdata.images)} images: choose image=, one of {', '.join(sdata.images)}")
    name = next(iter(sdata.images)) if image is None else image
    if name not in sdata.images:
        raise DataError(f"the object has no image {name!r}: it has {', '.join(sdata.images)}")
    about = adata.uns.get("spatialdata_attrs", {})
    region = about.get("region")
    region = region[0] if isinstance(region, list) and len(region) == 1 else region
    if not isinstance(region, str) or region not in sdata.shapes:
        raise DataError(f"table {table!r} is of {region!r}: due is one element of shapes, the section's spots")
    element, spots = sdata.images[name], sdata.shapes[region]
    for what, part in ((name, element), (region, spots)):
        if coordinate_system not in (known := get_transformation(part, get_all=True)):
            raise DataError(f"{what!r} is not in coordinate system {coordinate_system!r}: it is in {', '.join(known)}")
    axes = {"input_axes": ("x", "y"), "output_axes": ("x", "y")}
    to_world = get_transformation(element, coordinate_system).to_affine_matrix(**axes)
    centroids = get_centroids(spots, coordinate_system=coordinate_system).compute()
    centroids = centroids.loc[adata.obs[about["instance_key"]], ["x", "y"]].to_numpy()
    places = (np.column_stack([centroids, np.ones(len(centroids))]) @ np.linalg.inv(to_world).T)[:, :2]
    if microns_per_pixel is None:
        if "radius" not in spots:
            raise DataError(f"the spots {region!r} are no circles, so their size is not known: pass microns_per_pixel=")
        of_spots = get_transformation(spots, coordinate_system).to_affine_matrix(**axes)
        diameter = 2 * float(spots["radius"].median()) * abs(np.linalg.det(of_spots[:2, :2])) ** 0.5
        microns_per_pixel = spot_diameter / diameter * abs(np.linalg.det(to_world[:2, :2])) ** 0.5
    picture = next(iter(get_pyramid_levels(element))) if hasattr(element, "children") else element
    return adata, picture.transpose("y", "x", "c"), places, microns_per_pixel


def _check_rgb(picture: Any) -> None:
    if picture.ndim != 3 or picture.shape[2] not in (3, 4):
        raise DataError(f"the image has shape {picture.shape}: due is (height, width, 3), RGB last")
    if picture.dtype != np.uint8 and not np.issubdtype(picture.dtype, np.floating):
        raise DataError(f"the image has type {picture.dtype}: due is uint8, 0 to 255, or floating point from 0 to 1")


def _as_rgb(part: Any) -> np.ndarray:
    colours = np.asarray(part)[..., :3]
    if colours.dtype == np.uint8:
        return colours
    if not (colours.min() >= 0 and colours.max() <= 1):
        raise DataError(
            f"the image has values from {colours.min():g} to {colours.max():g}: due is floating point from 0 to 1"
        )
    return np.rint(colours * 255).astype(np.uint8)  # as scanpy reads images


def _resized(patch: np.ndarray, pixels: int) -> np.ndarray:
    """Return a patch with another number of pixels, averaging where it shrinks."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(patch)).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(tensor, (pixels, pixels), mode="bilinear", antialias=True)
    return np.maximum(resized[0].permute(1, 2, 0).round().clamp(0, 255).numpy(), 1).astype(np.uint8)
