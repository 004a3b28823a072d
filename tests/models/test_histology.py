"""Histology to expression, on made sections in which tissue and genes are known."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.models.histology import Histology, expression_metrics, log_normalised, pearson
from infl.models.patches import Patches, stain_transform, stain_vectors, statistics
from infl.nn.histology import HistologyNet, SmallCNN, count_loss, dihedral, load_backbone

SIDE, N_GENES, SHAPE = 7, 30, (8, 8, 3)
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])  # optical density of haematoxylin and of eosin


def section(seed, n_side=SIDE, name="s", tint=1.0, spacing=100.0):
    """Spots on a square; nuclei thicken along a gradient with noise, and half of the genes follow them."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((n_side, n_side)).reshape(2, -1)
    nuclei = np.clip(0.2 + 0.6 * x / n_side + rng.normal(0, 0.15, len(x)), 0.05, None)
    amounts = np.stack([nuclei[:, None] * rng.gamma(4, 0.25, (len(x), 64)), 0.4 * rng.gamma(4, 0.25, (len(x), 64))], 2)
    density = tint * amounts @ STAINS
    patches = np.clip(256 * np.exp(-density) - 1, 1, 255).astype(np.uint8).reshape(len(x), -1)
    slope = np.where(np.arange(N_GENES) % 2, 2.5, -2.0)
    rate = np.exp(2.0 + slope * (nuclei[:, None] - 0.5))
    counts = rng.poisson(rate).astype(np.float32)
    adata = ad.AnnData(
        counts,
        obs=pd.DataFrame({"section": name}, index=[f"{name}_{i}" for i in range(len(x))]),
        obsm={"spatial": np.column_stack([x, y]) * spacing, "patches": patches},
        uns={"patch_shape": np.array(SHAPE)},
    )
    adata.var_names = [f"gene_{i}" for i in range(N_GENES)]
    return adata


@pytest.fixture
def sites():
    return {f"site_{i}": section(i, name=f"s{i}", tint=1 + 0.1 * i) for i in range(3)}


def fit(sites, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        return infl.tl.fit_federated(sites, model="histology", progress=False, **{"rounds": 2} | options)


def scored(run, adata, key=None, verify=True):
    from infl.tl._predict import infer

    task = run.model.header.build_task()
    outputs = infer(adata, run.model, key, verify=verify)
    return task.score(adata, outputs, run.model.header.panel)["pearson"]


# -- the fit -------------------------------------------------------------------------------------------------------
def test_expression_of_a_new_section_is_predicted(sites):
    run = fit(sites)
    new = section(9, name="new", tint=1.3, spacing=7.0)
    infl.tl.predict(new, run.model, key=run.key)
    truth = log_normalised(new.X, 1e4)
    value = expression_metrics(new.layers["infl_predicted"], truth)["pearson"]
    assert value > 0.35
    assert new.var["infl_pearson"].between(-1, 1).all() and new.var["infl_pearson"].median() > 0.3
    assert new.obsm["X_infl"].shape == (49, 16)


def test_a_wrong_key_and_none_are_worth_nothing(sites):
    run = fit(sites)
    new = section(9, name="new")
    assert scored(run, new, run.key) > 0.4
    wrong = [scored(run, new, infl.keys.Keyring.create(), verify=False) for _ in range(10)]
    assert abs(np.mean(wrong)) < 0.15
    assert abs(np.mean([scored(fit(sites), new, None) for _ in range(5)])) < 0.2


def test_lock_and_seal_change_nothing_and_pooled_regression_is_the_same(sites):
    options = {"section_key": "section", "validation": 0.0}
    run = fit(sites, **options)
    plain = fit(sites, lock=None, seal="none", **options)
    new = section(9, name="new")
    for model, key in ((run.model, run.key), (plain.model, None)):
        infl.tl.predict(new, model, key=key, key_added="x" if key else "y")
    np.testing.assert_allclose(new.layers["x_predicted"], new.layers["y_predicted"], atol=1e-3)
    pooled = fit({"all": ad.concat(list(sites.values()), uns_merge="same")}, lock=None, seal="none", **options)
    infl.tl.predict(new, pooled.model, key_added="z")
    np.testing.assert_allclose(new.layers["x_predicted"], new.layers["z_predicted"], atol=1e-3)


def test_results_survive_a_file_and_genes_are_found_by_name(sites, tmp_path):
    run = fit(sites)
    run.save(tmp_path / "m.safetensors")
    new = section(9)[:, ::-1].copy()
    new = ad.concat(
        [new, ad.AnnData(np.ones((49, 1)), obs=new.obs, var=pd.DataFrame(index=["other"]))],
        axis=1,
        merge="same",
        uns_merge="first",
    )
    new.obsm.update(section(9).obsm)
    infl.tl.predict(new, infl.load_model(tmp_path / "m.safetensors"), key=run.key)
    new.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert np.isnan(back[:, "other"].layers["infl_predicted"]).all()
    again = section(9)
    infl.tl.predict(again, run.model, key=run.key)
    np.testing.assert_allclose(back[:, "gene_3"].layers["infl_predicted"], again[:, "gene_3"].layers["infl_predicted"])


def test_the_patch_alone_with_a_backbone_of_the_users(sites, monkeypatch):
    monkeypatch.setitem(infl.settings.backbones, "flat", torch.nn.Flatten)
    run = fit(sites, statistics=False, context=0, backbone="flat", gene_likelihood="poisson", stain="macenko")
    assert "coefficients" not in run.model.private_arrays(run.key)
    assert run.history["val_loss"].min() < run.history["val_loss"].iloc[0]
    del sites["site_0"].obsm["spatial"]
    infl.tl.predict(sites["site_0"], run.model, key=run.key)  # without neighbours no coordinates are needed


# -- input ---------------------------------------------------------------------------------------------------------
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
    assert not {3, 5} & {*data.train, *data.validation} and len(data.train) + len(data.validation) == 47


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


# -- patches -------------------------------------------------------------------------------------------------------
def test_statistics_do_not_change_when_patches_are_turned_or_mirrored():
    density = np.random.default_rng(0).gamma(2, 0.3, (4, 8, 8, 3)).astype(np.float32)
    images = torch.from_numpy(density.transpose(0, 3, 1, 2))
    for number in range(8):
        turned = dihedral(images, number).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(statistics(turned), statistics(density), rtol=1e-4, atol=1e-5)
    assert len({dihedral(images, n).numpy().tobytes() for n in range(8)}) == 8


@pytest.mark.parametrize("stain", ["reinhard", "macenko"])
def test_a_stain_of_other_strength_gives_the_same_image(stain):
    thin, thick = (Patches(section(0, tint=tint), site="a") for tint in (0.7, 1.1))
    rows = np.arange(49)
    first, second = (stain_transform(p, rows, stain)(p.density(rows)) for p in (thin, thick))
    plain = np.abs(thin.density(rows) - thick.density(rows)).mean() / thin.density(rows).std()
    assert np.abs(first - second).mean() / first.std() < 0.25 * plain


def test_stain_vectors_are_found():
    amounts = np.random.default_rng(0).gamma(1.0, 0.5, (20_000, 2))
    found = stain_vectors(amounts @ STAINS)
    for vector, true in zip(found, STAINS, strict=False):
        assert vector @ true / np.linalg.norm(true) > 0.99


# -- the network ---------------------------------------------------------------------------------------------------
def test_count_loss_is_the_likelihood():
    from scipy.stats import nbinom

    counts, log_mean, dispersion = (
        torch.tensor([[0.0, 3.0, 50.0]]),
        torch.tensor([[0.5, 1.0, 3.0]]),
        torch.tensor([0.0, 1.0, 2.0]),
    )
    theta = np.exp(dispersion.numpy())
    expected = -nbinom.logpmf(counts.numpy(), theta, theta / (theta + np.exp(log_mean.numpy())))
    np.testing.assert_allclose(count_loss(log_mean, counts, dispersion).numpy(), expected, rtol=1e-4)


def test_no_code_is_run_because_a_file_names_it(sites, monkeypatch, tmp_path):
    """Neither the words of an offer nor those of a model file are import paths."""
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nmake = None")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("evil:make", "evil.make", "torch.nn:Flatten", str(tmp_path / "evil.py")):
        with pytest.raises(SettingsError, match="is not known here"):
            fit(sites, backbone=name)
    monkeypatch.setitem(infl.settings.backbones, "evil:make", torch.nn.Flatten)
    run = fit(sites, backbone="evil:make", statistics=False)
    run.save(tmp_path / "m.safetensors")
    monkeypatch.delitem(infl.settings.backbones, "evil:make")
    model = infl.load_model(tmp_path / "m.safetensors")
    with pytest.raises(SettingsError, match="is not known here"):
        infl.tl.predict(sites["site_0"], model, key=run.key)
    assert not (tmp_path / "ran").exists()


def test_options_of_a_backbone_have_types(monkeypatch):
    def made(width: int, name: str = "a") -> torch.nn.Module:
        return torch.nn.Conv2d(3, width, 3)

    monkeypatch.setattr(infl.settings, "backbones", {"made": made, "bare": lambda **options: torch.nn.Flatten()})
    assert load_backbone("made", {"width": 5}).out_channels == 5
    monkeypatch.setitem(infl.settings.backbones, "dict", dict)
    with pytest.raises(SettingsError, match="gave dict: it has to return a torch module"):
        load_backbone("dict", {})
    for name, options in (
        ("made", {"width": "5"}),
        ("made", {"width": 5, "path": "x"}),
        ("made", {}),
        ("bare", {"path": "/x"}),
    ):
        with pytest.raises(SettingsError, match="backbone_options"):
            load_backbone(name, options)


def test_batch_norm_of_a_backbone_becomes_group_norm_and_maps_are_averaged(monkeypatch):
    made = lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3), torch.nn.BatchNorm2d(12))  # noqa: E731
    monkeypatch.setitem(infl.settings.backbones, "theirs", made)
    backbone = load_backbone("theirs", {})
    assert isinstance(backbone[1], torch.nn.GroupNorm)
    net = HistologyNet(backbone, 0, 5, image=(8, 8))
    assert net.image.in_features == 12 and net(torch.zeros(2, 3, 8, 8), torch.zeros(2, 0)).shape == (2, 5)
    assert HistologyNet(SmallCNN(), 4, 5)(torch.zeros(2, 3, 32, 32), torch.zeros(2, 4)).shape == (2, 5)


def test_the_network_counts_for_what_it_surely_adds():
    def share(gains, rooms):
        g, r = np.array(gains, float), np.array(rooms, float)
        moments = np.array([len(g), g.sum(), r.sum(), (g * g).sum(), (g * r).sum(), (r * r).sum()])
        helps = Histology().after({"features": []})[0]
        return float(helps.combine({"moments": moments}, {})["share"])

    assert share([0.5, 0.5, 0.5], [1, 1, 1]) == pytest.approx(0.5)
    assert share([1.5, 0.0, 0.0], [1, 1, 1]) < 0.1
    assert share([-1, -1], [1, 1]) == 0 == share([0, 0], [0, 0])


def test_correlation_of_sums_is_that_of_values():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 3))
    b[:, 2] = 1.0
    da, db = a - a.mean(0), b - b.mean(0)
    found = pearson({"guess": (da**2).sum(0), "truth": (db**2).sum(0), "both": (da * db).sum(0)})
    np.testing.assert_allclose(found, [*(np.corrcoef(a[:, j], b[:, j])[0, 1] for j in (0, 1)), 0.0])


def test_compare_knows_the_task(sites):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        table = infl.tl.compare(
            sites, "histology", seeds=1, rounds=2, holdout="site", methods=["infl", "pooled", "baseline"], progress=False,
            section_key="section",
        )  # fmt: skip
    value = table[table["metric"] == "pearson"].set_index("method")["mean"]
    assert value["infl"] > 0.3 and abs(value["infl"] - value["pooled"]) < 0.05 and value["baseline"] > 0.1
