"""What people bring: forty small inputs that came out wrong once, each as they typed it. Their kinds are tested where they belong."""

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from matplotlib import pyplot as plt
from scipy import sparse
from typer.testing import CliRunner

import infl
from infl.cli.app import app
from infl.errors import InflError, InflWarning

pytestmark = pytest.mark.filterwarnings("ignore")
Sites = dict[str, AnnData]


@pytest.fixture
def sites(khan_sites: Sites) -> Sites:
    return {name: khan_sites[name][:, :200].copy() for name in ("site_1", "site_2", "site_3")}


def fit(sites: Any, model: str = "classifier", **options: Any) -> Any:
    options = {"rounds": 1, "progress": False} | ({"target": "tumour_class"} if model == "classifier" else {}) | options
    return infl.tl.fit_federated(sites, model, **options)


def refused(call: Callable[[], Any], said: str = "") -> None:
    with pytest.raises(InflError) as error:
        call()
    assert "\n" not in str(error.value) and said in str(error.value)


def counts(n_obs: int = 40, n_vars: int = 30, seed: int = 0, name: str = "c") -> AnnData:
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(0.5, 4, (n_obs, n_vars))).astype(np.float32)
    x[:, 0] += 1
    obs = pd.DataFrame({"type": np.where(np.arange(n_obs) % 2, "x", "y")}, index=[f"{name}{i}" for i in range(n_obs)])
    return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_vars)]))


def multimodal(sites: Sites, renamed: bool = False) -> dict[str, Any]:
    found = {}
    for name, adata in sites.items():
        protein = adata[:, :50].copy()
        protein.var_names = "p_" + protein.var_names
        both = mudata.MuData({"rna": adata.copy(), "prot": protein})
        both.obs["tumour_class"] = adata.obs["tumour_class"]
        for table in both.mod.values() if renamed else ():
            table.obs_names = name + "_" + table.obs_names
        found[name] = both
    return found


def test_1_copy_on_write(sites: Sites) -> None:
    with pd.option_context("mode.copy_on_write", True):
        fit(sites)


def test_2_numbers_of_numpy(sites: Sites) -> None:
    assert fit(sites, seed=np.int64(0), rounds=np.int64(1)).history.equals(fit(sites, seed=0).history)


@pytest.mark.parametrize("options", [{"seal": False}, {"seal": 0}, {"lock": False}, {"lock": ""}], ids=str)
def test_3_switches(sites: Sites, options: dict[str, Any]) -> None:
    refused(lambda: fit(sites, **options), "give one of")


def test_4_features_twice_at_predict(sites: Sites) -> None:
    run, query = fit(sites), sites["site_1"].copy()
    query.var_names = [*query.var_names[:-1], query.var_names[0]]
    refused(lambda: infl.tl.predict(query, run), "var_names_make_unique")


@pytest.mark.parametrize("word", ["Unknown", "nan", ""])
def test_5_cells_without_a_label(word: str) -> None:
    pytest.importorskip("scvi", reason="needs the extra infl[scvi]")
    cells = {name: counts(seed=i, name=name) for i, name in enumerate("abc")}
    for adata in cells.values():
        adata.obs.loc[adata.obs_names[:5], "type"] = word
    run = fit(cells, "scanvi", target="type")
    assert word not in run.model.header.panel["classes"] and len(run.model.header.panel["classes"]) == 2


def test_6_a_flag_left_over() -> None:
    """Counts are counts, whatever ``uns`` says: the model's own logarithms are taken of them."""
    screen = {name: counts(60, seed=i, name=name) for i, name in enumerate("abc")}
    for adata in screen.values():
        adata.obs["perturbation"] = np.resize(["control", "g1", "g2"], 60)
    plain = fit({n: a.copy() for n, a in screen.items()}, "perturbation", control="control", target_sum=1e4)
    for adata in screen.values():
        adata.uns["log1p"] = {"base": None}
    flagged = fit(screen, "perturbation", control="control", target_sum=1e4)
    assert flagged.history.equals(plain.history)


def test_7_modalities_renamed_behind_their_object(sites: Sites) -> None:
    refused(lambda: fit(multimodal(sites, renamed=True)), ".update()")


def test_8_views_of_files_on_disk(sites: Sites, tmp_path: Path) -> None:
    sites["site_2"].write_h5ad(tmp_path / "b.h5ad")
    sites["site_2"] = ad.read_h5ad(tmp_path / "b.h5ad", backed="r")[:10]
    refused(lambda: fit(sites), "to_memory")
    assert "infl" not in sites["site_1"].uns


def shell(command: str, columns: int = 80) -> str:
    """Return what a command says."""
    done = CliRunner().invoke(app, command.split(), env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_9_a_panel_of_every_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    adata = counts(60)
    adata.obs["perturbation"] = np.resize(["control", "g1", "g2"], 60)
    adata.write_h5ad(tmp_path / "a.h5ad")
    model = "--model perturbation"
    shell(f"run panel a.h5ad {model} --option control=control --option target_sum=10000")
    shell(f"run panel panel.json panel.json {model} --out both.json")
    assert (tmp_path / "both.json").exists()


def test_10_the_same_barcodes_at_all_hospitals(sites: Sites) -> None:
    both = multimodal(sites)
    for one in both.values():
        names = [f"AAAC{i}-1" for i in range(one.n_obs)]
        for table in one.mod.values():
            table.obs_names = names
        one.obs_names = names
    assert len(infl.tl.compare(both, target="tumour_class", rounds=1, seeds=[0], methods=["pooled"]))


def test_11_sections_of_one_name_stay_apart() -> None:
    from infl.models.neighbours import sections_of
    from infl.models.pooling import pool

    slides = {}
    for i, name in enumerate("abc"):
        slides[name] = counts(25, seed=i, name="s")
        slides[name].obsm["spatial"] = np.indices((5, 5)).reshape(2, -1).T * 100.0
        slides[name].obs["section"] = "s1"
    pooled = pool(slides)
    rows = sections_of(pooled, spatial_key="spatial", section_key="section", site="pooled").rows
    assert sorted(map(len, rows.values())) == [25, 25, 25]


def test_12_zero_and_zero_are_one_class(sites: Sites) -> None:
    for i, adata in enumerate(sites.values()):
        codes = np.arange(adata.n_obs) % 2
        adata.obs["arm"] = pd.Categorical(codes.astype(float) if i else codes)
    assert fit(sites, target="arm").model.header.panel["classes"] in (["0", "1"], ("0", "1"))


def test_13_repeated_entries_are_left_alone() -> None:
    c = sparse.csr_matrix((np.array([1, 1, 4.0], "f4"), np.array([0, 0, 1]), np.array([0, 2, 3])), shape=(2, 2))
    a, b = AnnData(c.copy()), AnnData(c.toarray(), obs=pd.DataFrame(index=["x", "y"]))
    infl.pp.moments({"a": a, "b": b}, inplace=False)
    np.testing.assert_array_equal(a.X.data, [1, 1, 4])


@pytest.mark.long
def test_14_an_adapter_under_differential_privacy(khan_sites: Sites, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the extra infl[trex]")
    from tests.models.adapter.conftest import write_base
    from tests.models.adapter.test_task import OPTIONS

    private = infl.privacy.DP(epsilon=8, delta=1e-3, sample_rate=0.5)
    base = write_base(tmp_path / "a base")
    run = fit(khan_sites, "adapter", target="tumour_class", base=base, privacy=private, **OPTIONS)
    assert 0 < run.privacy["epsilon"] <= 8


def test_15_names_that_are_paths(sites: Sites, tmp_path: Path) -> None:
    refused(lambda: fit(sites, key_added="a/b"), "key_added='a/b'")
    fit({"ward/1" if name == "site_1" else name: adata for name, adata in sites.items()}, checkpoint=tmp_path / "run")
    assert {path.parent for path in tmp_path.rglob("*.ledger")} == {tmp_path / "run" / "ledgers"}


def test_16_half_precision() -> None:
    cells = {
        j: AnnData(np.full((4, 10), 9000, np.float16), obs=pd.DataFrame(index=[f"{j}{i}" for i in range(4)]))
        for j in "abc"
    }
    infl.pp.normalize_total(cells, target_sum=1e4)
    np.testing.assert_allclose(cells["a"].X, 1000, rtol=1e-2)


def test_17_one_answer_however_stored() -> None:
    dense = {name: counts(seed=i, name=name) for i, name in enumerate("ab")}
    for adata in dense.values():
        adata.X[:3] = 0
    stored = {name: adata.copy() for name, adata in dense.items()}
    for adata in stored.values():
        adata.X = sparse.csr_matrix(adata.X)
    for cells in (dense, stored):
        infl.pp.normalize_total(cells)
    np.testing.assert_array_equal(stored["a"].X.toarray(), dense["a"].X)


def test_18_torchs_default_type(sites: Sites) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        fit(sites)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_19_tables_in_varm(sites: Sites) -> None:
    for adata in sites.values():
        adata.varm["loadings"] = pd.DataFrame({"a": np.arange(adata.n_vars)}, index=adata.var_names)
    sites["site_1"] = sites["site_1"][:, :150].copy()
    infl.pp.harmonise(sites, features="union")
    assert sites["site_1"].n_vars == 200 and sites["site_1"].varm["loadings"]["a"].isna().sum() == 50


def test_20_an_edge_without_a_weight() -> None:
    screen = {name: counts(60, seed=i, name=name) for i, name in enumerate("abc")}
    for adata in screen.values():
        adata.obs["perturbation"] = np.resize(["control", "g1", "g2"], 60)
    refused(lambda: fit(screen, "perturbation", control="control", graph=[("g1", "g2", np.nan)]), "no finite weight")


def test_21_a_task_twice() -> None:
    refused(lambda: fit({n: counts(name=n) for n in "abc"}, "adapter", target=["a", "a"]), "each of them once")


def test_22_a_hospital_with_one_class(sites: Sites) -> None:
    one = sites["site_2"]
    sites["site_2"] = one[one.obs["tumour_class"] == one.obs["tumour_class"].iloc[0]].copy()
    with pytest.warns(InflWarning, match="one class only"):
        fit(sites)


def test_23_few_negatives_are_no_counts() -> None:
    from infl.models import Mosaic

    rng = np.random.default_rng(0)
    values = rng.normal(4, 1.5, (40, 10)).astype(np.float32)
    assert (values < 0).any()
    table = AnnData(values, obs=pd.DataFrame(index=[f"c{i}" for i in range(40)]))
    both = {n: mudata.MuData({"rna": table.copy(), "prot": counts()[:, :10].copy()}) for n in "abc"}
    for one in both.values():
        one["prot"].var_names = [f"p{i}" for i in range(10)]
        one.update()
    assert dict(Mosaic().agree(both)["kinds"])["rna"] == "values"


def test_24_a_class_of_four() -> None:
    """Cross-validation has folds that fit it: no strength's loss is NaN, so the smallest is not always chosen."""
    from infl.models.logistic import logistic_regression

    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [30, 30, 4])
    x = rng.normal(size=(64, 200)) + 2 * (y[:, None] == np.resize([0, 1, 2], 200))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probabilities = logistic_regression(x, y, 3, strengths=(1e-6, 1.0))(x)
    assert (probabilities.argmax(1) == y).mean() > 0.95


def test_25_missing_features_are_masked_and_counted(sites: Sites) -> None:
    run = fit(sites)
    with pytest.warns(InflWarning, match=r"20 of 200"):
        infl.tl.predict(sites["site_1"][:, :180].copy(), run)
    refused(lambda: infl.tl.predict(sites["site_1"][:, :60].copy(), run))


def test_26_counts_for_a_model_of_logarithms() -> None:
    raw = {name: counts(60, seed=i, name=name) for i, name in enumerate("abc")}
    logs = {name: adata.copy() for name, adata in raw.items()}
    infl.pp.normalize_total(logs, target_sum=1e4)
    infl.pp.log1p(logs)
    run = fit(logs, target="type")
    refused(lambda: infl.tl.predict(raw["a"], run), "logarithms")


def test_27_a_run_brings_its_key(sites: Sites) -> None:
    run = fit(sites)
    a, b = sites["site_1"].copy(), sites["site_1"].copy()
    infl.tl.predict(a, run)
    infl.tl.predict(b, run.model, key=run.key)
    np.testing.assert_array_equal(a.obsm["X_infl"], b.obsm["X_infl"])


def test_28_a_layer_that_is_not_there(sites: Sites) -> None:
    for adata in sites.values():
        adata.layers["log"] = adata.X.copy()
    run = fit(sites, layer="log")
    del sites["site_1"].layers["log"]
    refused(lambda: infl.tl.predict(sites["site_1"], run), "'log'")


def test_29_settings_and_history_stay(sites: Sites) -> None:
    run = fit(sites)
    infl.tl.predict(sites["site_1"], run.model, key=run.key)
    assert {"settings", "history"} <= set(sites["site_1"].uns["infl"])


def test_30_labels_of_truth(sites: Sites) -> None:
    for adata in sites.values():
        adata.obs["b"] = np.arange(adata.n_obs) % 2 == 0
    fit(sites, target="b")
    assert sites["site_1"].obs["infl_prediction"].dtype == bool


def test_31_components_of_a_united_panel(sites: Sites) -> None:
    sites["site_1"] = sites["site_1"][:, :150].copy()
    infl.pp.harmonise(sites, features="union")
    infl.pp.pca(sites, n_comps=5)
    assert all(np.isfinite(adata.obsm["X_pca"]).all() for adata in sites.values())


def test_32_a_checkpoint_of_other_data(sites: Sites, tmp_path: Path) -> None:
    run = fit(sites, checkpoint=tmp_path / "run")
    sites["site_2"].X = sites["site_2"].X + 1
    refused(lambda: fit(sites, key=run.key, checkpoint=tmp_path / "run", resume=True), "site_2")


def test_33_and_34_personalising(sites: Sites) -> None:
    run = fit(sites, rounds=3)
    found = infl.tl.personalise(run, sites, epochs=1)
    assert {model.header.fingerprint for model in found.models.values()} == {run.key.fingerprint()}
    assert any("balanced_accuracy" in column for column in map(str, found.table.columns))


@pytest.mark.parametrize(
    "options",
    [{"lr": -1}, {"lr": "a"}, {"batch_size": 0}, {"width": -5}, {"dropout": 2}, {"privacy": 8}, {"key": "c.key"}, {"target": ["a"]}],
    ids=str,
)  # fmt: skip
def test_35_settings_that_cannot_be(sites: Sites, options: dict[str, Any]) -> None:
    refused(lambda: fit(sites, **options), next(iter(options)))


def test_35_other_things_that_cannot_be(sites: Sites) -> None:
    run = fit(sites)
    refused(lambda: infl.tl.predict("x.h5ad", run))
    refused(lambda: fit(sites, run.model), "model=")
    refused(lambda: infl.tl.compare(sites, target="tumour_class", test_share=0), "test_share=0")


def test_36_and_37_hints() -> None:
    cells = {n: counts(name=n) for n in "abc"}
    refused(lambda: fit(cells, "scvi", target="type"), "takes no target=")
    refused(lambda: fit(cells, target="type", init=3), "init= takes run.model")
    assert fit(cells, target="type", optimizer="sgd", learning_rate=0.1).settings["options"]["optimiser"] == "sgd"


@pytest.mark.parametrize("name", [3, ""])
def test_38_names_of_fields(sites: Sites, name: Any) -> None:
    refused(lambda: fit(sites, key_added=name), "key_added=")


def test_39_the_shell_reads_zarr(sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = ad.concat(sites, label="site", index_unique="-")
    whole.write_zarr(tmp_path / "a.zarr")
    command = "compare a.zarr --target tumour_class --site-key site --rounds 1 --seeds 1 --method baseline"
    assert max(map(len, shell(command).splitlines())) <= 80


def test_40_long_names_in_pictures(sites: Sites, tmp_path: Path) -> None:
    names = [f"a rather long name of a tumour class, number {i}" for i in range(10)]
    obs = pd.DataFrame({"known": np.resize(names, 100), "infl_domain": np.resize(names[::-1], 100)})
    ax = infl.pl.confusion(AnnData(obs=obs.set_index(obs.index.astype(str))), "known")
    figure = ax.figure
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(not a.overlaps(b) for a, b in pairwise(boxes))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    plt.close("all")
