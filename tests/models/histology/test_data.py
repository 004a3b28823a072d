"""What the histology model reads from sites, and what it refuses."""

import warnings

import anndata as ad
import numpy as np
import pytest
from tests.models.histology.conftest import SHAPE, fit, section

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.models.histology import Histology


def test_spots_without_counts_or_patches_are_told_of_and_not_trained_on(sites):
    a = sites["site_1"]
    a.X[3] = 0
    a.obsm["patches"][5] = 0
    with pytest.warns(InflWarning, match="site_1 has 1 spots without a patch and 1 spots without a count"):
        run = infl.tl.fit_federated(sites, model="histology", rounds=1, progress=False)
    predicted = a.layers["infl_predicted"]
    assert np.isnan(predicted[5]).all() and np.isfinite(np.delete(predicted, 5, 0)).all()
    task = run.model.header.build_task()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        data = task.read(a, run.model.header.panel, site="site_1", rng=np.random.default_rng(0))
    assert not {3, 5} & {*data.train, *data.validation} and len(data.usable) == 47 and 5 <= len(data.validation) <= 7


def test_held_out_spots_are_regions_and_no_training_spot_lies_beside_them():
    a = section(1, n_side=12, name="left")
    b = section(2, n_side=10, name="right")
    site = ad.concat([a, b], uns_merge="same")  # both begin at the same coordinates: sections are apart all the same
    task = Histology(section_key="section", validation=0.25)
    data = task.read(site, task.agree({"site": site}), site="site", rng=np.random.default_rng(0))
    xy, section_of = site.obsm["spatial"], site.obs["section"].to_numpy()
    for name, n in (("left", 36), ("right", 25)):
        own = data.validation[section_of[data.validation] == name]
        assert len(own) == n
        near = np.abs(xy[own][:, None] - xy[own][None]).max(2) == 100.0
        assert near.sum(1).mean() > 3  # of eight neighbours; of spots that are drawn, two would be held out too
        beside = xy[data.train[section_of[data.train] == name]]
        distance = np.abs(xy[own][:, None] - beside[None]).max(2)
        assert distance.min() == 200.0  # eight neighbours are a step away
        lost = np.setdiff1d(np.flatnonzero(section_of == name), [*own, *data.train])
        assert (
            np.abs(xy[own][:, None] - xy[lost][None]).max(2).min(0) <= 200.0
        ).all()  # at an edge, eight neighbours reach further


def test_without_neighbourhoods_spots_are_drawn_and_a_section_may_be_a_single_spot():
    site = ad.concat([section(1, name="left"), section(2, name="right")[:1]], uns_merge="same")
    task = Histology(section_key="section", context=0, validation=0.2)
    data = task.read(site, task.agree({"site": site}), site="site", rng=np.random.default_rng(0))
    assert len(data.validation) == 10 and len(data.train) == 40


def test_a_spot_that_cannot_be_trained_on_changes_nothing_for_the_others():
    site = section(1, n_side=12)
    lost = site.copy()
    lost.X[40] = 0
    task, parts = Histology(), []
    for table in (site, lost):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InflWarning)
            data = task.read(table, task.agree({"site": site}), site="site", rng=np.random.default_rng(3))
        parts.append((set(data.train), set(data.validation)))
    assert [before - after for before, after in zip(*parts, strict=True)] in (
        [{40}, set()],
        [set(), {40}],
        [set(), set()],
    )
    assert 40 not in parts[1][0] | parts[1][1]


def test_a_section_without_room_trains_beside_what_is_held_out(sites):
    site = section(0, n_side=4)
    task = Histology()
    data = task.read(site, task.agree({"site": site}), site="site", rng=np.random.default_rng(0))
    assert len(data.validation) == 2 and len(data.train) == 14


def test_other_units_and_other_channels_are_told_of(sites):
    sites["site_2"].obsm["spatial"] = sites["site_2"].obsm["spatial"] / 1000
    with pytest.warns(InflWarning, match="different units"):
        infl.tl.fit_federated(sites, model="histology", rounds=1, progress=False)
    sites["site_2"].obsm["spatial"] = sites["site_0"].obsm["spatial"]
    rgb = sites["site_0"].obsm["patches"].reshape(-1, *SHAPE)
    sites["site_0"].obsm["patches"] = rgb[..., [0, 2, 1]].reshape(len(rgb), -1)
    with pytest.warns(InflWarning, match="site_0 let blue through least, not green"):
        infl.tl.fit_federated(sites, model="histology", rounds=1, progress=False)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: a.obsm.pop("patches"), {}, "site_1 has no patches in obsm.'patches'.*cut_patches"),
        (lambda a: a.obsm.update(patches=a.obsm["patches"] / 255), {}, "site_1 has type float64: patches are uint8"),
        (lambda a: a.uns.pop("patch_shape"), {}, "no uns.'patch_shape'.: set it"),
        (lambda a: a.uns.update(patch_shape=[3, 8, 8]), {}, "due are .height, width, 3., RGB last"),
        (lambda a: a.uns.update(patch_shape=[16, 16, 3]), {}, "are .192,. numbers"),
        (lambda a: a.obsm.update(patches=a.obsm["patches"] * 0), {}, "are missing .zeros only."),
        (lambda a: a.obsm.update(patches=np.ones((49, 4, 4, 3), np.uint8)), {}, "at least 8 × 8"),
        (lambda a: a.obsm.update(patches=np.full((49, 16, 16, 3), 200, np.uint8)), {}, "8 × 8 pixels, those of site_1 16"),
        (lambda a: a.obsm.pop("spatial"), {}, "site_1 has no coordinates"),
        (lambda a: setattr(a, "X", np.log1p(a.X)), {}, "site_1 has .* which is no count"),
        (lambda a: a.X.fill(0), {}, "site_1 has no spot with both a patch and counts"),
        (lambda a: None, {"n_neighbors": 60}, "too few for n_neighbors=60"),
        (lambda a: None, {"section_key": "slide"}, "no obs column 'slide'"),
        (lambda a: None, {"stain": "vahadane"}, "stain='vahadane': give one of"),
        (lambda a: None, {"validation": 2.0}, "validation=2.0"),
        (lambda a: None, {"context": -1}, "context=-1: give a whole number"),
        (lambda a: None, {"backbone": "resnet18"}, "backbone='resnet18' is not known here"),
        (lambda a: None, {"privacy": infl.privacy.DP(epsilon=8.0, delta=1e-5)}, "no noise"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_objects_alone(sites, change, options, message):
    change(sites["site_1"])
    with pytest.raises((DataError, SettingsError), match=message) as error:
        fit(sites, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert not any("infl" in adata.uns or adata.layers for adata in sites.values())
