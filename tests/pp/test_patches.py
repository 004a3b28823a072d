"""Patches cut from images: the right place, the right physical size."""

import anndata as ad
import numpy as np
import pytest

import infl
from infl.errors import DataError, SettingsError


@pytest.fixture
def section():
    """A hires image at half of the full resolution; a pixel of it is 2 µm: its red is x, its green y."""
    x, y = np.meshgrid(np.arange(200), np.arange(100))
    image = np.stack([x, y, np.full_like(x, 9)], 2).astype(np.uint8)
    factors = {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 55.0}
    spots = np.array([[100.0, 100.0], [300.0, 60.0], [10.0, 10.0]])  # in pixels of the full image, 1 µm each
    adata = ad.AnnData(np.ones((3, 2)), obsm={"spatial": spots})
    adata.uns["spatial"] = {"lib": {"images": {"hires": image}, "scalefactors": factors}}
    return adata


def test_a_patch_shows_the_tissue_around_its_spot_at_the_stated_size(section):
    infl.pp.cut_patches(section, size=40.0, pixels=20)  # 20 pixels of the hires image: no resampling
    patches = section.obsm["patches"].reshape(3, *section.uns["patch_shape"])
    np.testing.assert_array_equal(patches[0, 0, :, 0], np.arange(40, 60))  # around x = 50
    np.testing.assert_array_equal(patches[1, :, 0, 1], np.arange(20, 40))  # around y = 30
    assert not patches[2].any()  # not whole within the image
    infl.pp.cut_patches(section, size=40.0, pixels=10, key_added="small")
    small = section.obsm["small"].reshape(3, 10, 10, 3)
    assert abs(small[0, ..., 0].mean() - 49.5) < 0.5 and small[0, 0, 0, 0] < 43


def test_an_image_of_ones_own_and_floating_point(section):
    image = section.uns.pop("spatial")["lib"]["images"]["hires"]
    section.obsm["spatial"] = section.obsm["spatial"] / 2
    infl.pp.cut_patches(section, size=40.0, pixels=20, image=image / 255, microns_per_pixel=2.0)
    assert section.obsm["patches"].reshape(3, 20, 20, 3)[0, 0, 0, 0] == 40


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: a.uns.pop("spatial"), {}, "no image in uns"),
        (lambda a: a.uns["spatial"].update(other={}), {}, "2 sections: choose library="),
        (lambda a: None, {"library": "x"}, "has no 'x': it has lib"),
        (lambda a: a.uns["spatial"]["lib"].pop("scalefactors"), {}, "lacks an image with"),
        (lambda a: a.obsm.pop("spatial"), {}, "no coordinates"),
        (lambda a: a.obsm.update(spatial=a.obsm["spatial"] + 1e5), {}, "no patch of 40 µm lies within"),
        (lambda a: None, {"size": 1.0}, "give a larger size"),
        (lambda a: None, {"size": -1.0}, "above 0"),
        (lambda a: None, {"image": np.ones((9, 9, 3), np.uint8)}, "needs microns_per_pixel="),
        (lambda a: None, {"image": np.ones((3, 9, 9), np.uint8), "microns_per_pixel": 1.0}, "RGB last"),
        (lambda a: None, {"image": np.full((9, 9, 3), 300), "microns_per_pixel": 1.0}, "has type int64"),
        (lambda a: None, {"image": np.full((99, 99, 3), 1.5), "microns_per_pixel": 2.0}, "values from 1.5 to 1.5"),
    ],
)
def test_bad_input_is_one_line(section, change, options, message):
    change(section)
    with pytest.raises((DataError, SettingsError), match=message) as error:
        infl.pp.cut_patches(section, **{"size": 40.0} | options)
    assert "\n" not in str(error.value) and "patches" not in section.obsm


@pytest.fixture
def sdata(section):
    """The same section as SpatialData: the image in steps of 2 of the world's units, the spots in the world's, of 1 µm."""
    spatialdata = pytest.importorskip("spatialdata", reason="needs spatialdata: pip install 'infl[spatial]'")
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    picture = section.uns["spatial"]["lib"]["images"]["hires"]
    image = Image2DModel.parse(
        picture.transpose(2, 0, 1), dims=("c", "y", "x"), transformations={"global": Scale([2.0, 2.0], axes=("x", "y"))}
    )
    place = section.obsm["spatial"][::-1].copy()  # in another order than the table
    spots = ShapesModel.parse(
        place, geometry=0, radius=27.5, index=["c", "b", "a"], transformations={"global": Identity()}
    )
    table = ad.AnnData(np.ones((3, 2)), obs={"region": ["spots"] * 3, "spot": ["a", "b", "c"]})
    table.obs["region"] = table.obs["region"].astype("category")
    table = TableModel.parse(table, region="spots", region_key="region", instance_key="spot")
    return spatialdata.SpatialData(images={"he": image}, shapes={"spots": spots}, tables={"table": table})


def test_patches_of_spatialdata_are_those_of_the_same_section(section, sdata):
    infl.pp.cut_patches(section, size=40.0, pixels=20)
    infl.pp.cut_patches(sdata, size=40.0, pixels=20)
    np.testing.assert_array_equal(sdata["table"].obsm["patches"], section.obsm["patches"])
    infl.pp.cut_patches(sdata, size=40.0, pixels=20, microns_per_pixel=1.0, key_added="twice")
    assert 30 <= sdata["table"].obsm["twice"].reshape(3, 20, 20, 3)[0, 0, 0, 0] <= 31  # 40 pixels around x = 50


def test_patches_of_a_pyramid_come_from_its_finest_level(section, sdata):
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale

    infl.pp.cut_patches(section, size=40.0, pixels=20)
    finest = np.asarray(sdata.images["he"])
    scale = {"global": Scale([2.0, 2.0], axes=("x", "y"))}
    sdata.images["pyramid"] = Image2DModel.parse(finest, dims=("c", "y", "x"), scale_factors=[2], transformations=scale)
    infl.pp.cut_patches(sdata, image="pyramid", size=40.0, pixels=20)
    np.testing.assert_array_equal(sdata["table"].obsm["patches"], section.obsm["patches"])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda s: None, {"table": "x"}, "no table 'x': it has table"),
        (lambda s: None, {"image": "x"}, "no image 'x': it has he"),
        (lambda s: s.images.pop("he"), {}, "has 0 images"),
        (lambda s: None, {"coordinate_system": "x"}, "'he' is not in coordinate system 'x': it is in global"),
        (lambda s: s["table"].uns["spatialdata_attrs"].update(region=["a", "b"]), {}, "due is one element of shapes"),
        (lambda s: s.shapes["spots"].drop(columns="radius", inplace=True), {}, "no circles"),
    ],
)
def test_bad_spatialdata_is_one_line(sdata, change, options, message):
    change(sdata)
    with pytest.raises(DataError, match=message) as error:
        infl.pp.cut_patches(sdata, **{"size": 40.0} | options)
    assert "\n" not in str(error.value) and "patches" not in sdata["table"].obsm
