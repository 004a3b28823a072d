"""Label transfer over sites to one that has no labels."""

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.models.scanvi import Scanvi
from infl.models.task import Step
from infl.tl._predict import infer

pytest.importorskip("scvi", reason="needs scvi-tools: pip install 'infl[scvi]'")

SMALL = {"n_hidden": 32, "n_latent": 4, "batch_size": 32, "lr": 5e-3, "progress": False}
N = 90


def hospital(number: int) -> AnnData:
    """Cells of three types, each with twenty genes of its own."""
    rng = np.random.default_rng(number)
    kind = np.arange(N) % 3
    rate = np.full((N, 60), 1.0) * rng.gamma(20, 1 / 20, 60)
    rate[np.arange(60)[None, :] // 20 == kind[:, None]] *= 2.5
    counts = rng.poisson(rate * rng.lognormal(0, 0.5, (N, 1)))
    counts[:, 0] += 1
    adata = AnnData(counts.astype(np.float32))
    adata.obs_names = [f"h{number}_{i}" for i in range(N)]
    adata.obs["cell_type"] = np.array(["B", "NK", "T"])[kind]
    return adata


@pytest.fixture
def hospitals() -> dict[str, AnnData]:
    """The third has no labels; the first lacks some."""
    sites = {f"h{i}": hospital(i) for i in range(3)}
    sites["h0"].obs.loc[sites["h0"].obs_names[:6], "cell_type"] = ["unknown", np.nan] * 3
    sites["h2"].obs = sites["h2"].obs.drop(columns="cell_type")
    return sites


def test_labels_reach_the_site_that_has_none(hospitals: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(hospitals, "scanvi", target="cell_type", rounds=25, **SMALL)
    truth = hospital(2).obs["cell_type"].to_numpy()
    assert (hospitals["h2"].obs["infl_prediction"].to_numpy() == truth).mean() > 0.9
    assert hospitals["h2"].obsm["infl_probabilities"].shape == (N, 3)
    assert hospitals["h2"].obsm["X_infl"].shape == (N, 4)
    assert run.model.header.panel["classes"] == ["B", "NK", "T"]
    assert run.history["val_balanced_accuracy"].iloc[-1] > 0.8
    keys = [infl.keys.Keyring.create() for _ in range(20)]
    stolen = [infer(hospitals["h2"], run.model, key, verify=False)["probability"].argmax(1) for key in keys]
    right = np.mean([(np.array(["B", "NK", "T"])[guess] == truth).mean() for guess in stolen])
    assert right < 1 / 3 + 0.15


def test_loss_is_that_of_scvi_tools_with_labelled_cells_only(hospitals: dict[str, AnnData]) -> None:
    task = Scanvi(target="cell_type", classification_ratio=7.0)
    panel = task.agree(hospitals)
    module = task.build(panel).eval()
    data = task.read(hospitals["h0"], panel, site="h0")
    batch, step = data.batch(np.arange(12)), Step(1, 1, 0, 1)
    torch.manual_seed(0)
    whole = task.loss(module, batch, step)
    torch.manual_seed(0)
    without = task.loss(module, batch | {"labels": torch.full((12, 1), -1)}, step)
    labelled = data.batch(np.arange(6, 12))
    logits = module.classify(labelled["X"], batch_index=labelled["batch"])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert float((whole - without).detach() / 7) == pytest.approx(float(expected), rel=1e-3)


def test_metrics_by_hand() -> None:
    task = Scanvi(target="t", classification_ratio=10.0)
    sums = {
        "n": np.array(4.0),
        "reconstruction": np.array(40.0),
        "kl": np.array(8.0),
        "cross_entropy": np.array(3.0),
        "confusion": np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    }
    metrics = task.summarise(sums)
    assert metrics["loss"] == 10 + 2 + 10 * 1
    assert metrics["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    nobody = task.summarise(sums | {"confusion": np.zeros((3, 3)), "cross_entropy": np.array(0.0)})
    assert nobody["loss"] == 12 and np.isnan(nobody["balanced_accuracy"])


def test_what_a_user_can_mend(hospitals: dict[str, AnnData]) -> None:
    with pytest.raises(SettingsError, match="model='scanvi' needs target="):
        Scanvi().agree(hospitals)
    with pytest.raises(DataError, match=r"obs\['kind'\] has 0 classes over all sites"):
        Scanvi(target="kind").agree(hospitals)


def test_compare_has_the_accuracy_of_held_out_labels(hospitals: dict[str, AnnData]) -> None:
    methods = ["infl", "infl_wrong_key", "baseline"]
    table = infl.tl.compare(hospitals, "scanvi", target="cell_type", seeds=1, rounds=25, methods=methods, **SMALL)
    value = table[table["metric"] == "balanced_accuracy"].set_index("method")["mean"]
    assert value["infl"] > 0.85 and value["baseline"] > 0.85
    assert value["infl_wrong_key"] < 0.55
    assert table.attrs["chance"] == 1 / 3


def test_a_hospital_with_one_class_of_labels(hospitals: dict[str, AnnData]) -> None:
    name = next(iter(hospitals))
    adata = hospitals[name]
    first = sorted(set(adata.obs["cell_type"].dropna().astype(str)) - {"unknown"})[0]
    hospitals[name] = adata[(adata.obs["cell_type"].astype(str) == first).to_numpy()].copy()
    hospitals["tiny"] = hospitals[name][:1].copy()
    hospitals["tiny"].obs_names = ["one more"]
    methods = ["alone", "infl", "infl_personal", "baseline"]
    with pytest.warns(InflWarning) as said:
        table = infl.tl.compare(hospitals, "scanvi", target="cell_type", seeds=1, rounds=1, methods=methods, **SMALL)
    assert table["mean"].notna().all()
    texts = [str(w.message) for w in said]
    assert any(f"'{name} ({first})', 'tiny ({first})'" in text and "learn the site" in text for text in texts)
    assert any(f"'alone' is without {name}" in text for text in texts)
    with pytest.raises(DataError, match=r"is the only class"), pytest.warns(InflWarning):
        infl.tl.fit_federated({name: hospitals[name]}, "scanvi", target="cell_type", rounds=1, min_sites=1)


@pytest.mark.parametrize("none", ["unknown", "Unknown", " UNKNOWN ", "nan", "", "NaN", None])
@pytest.mark.parametrize("kind", [object, "category"])
def test_what_means_no_label_is_no_class(hospitals: dict[str, AnnData], none: str | None, kind: object) -> None:
    labels = hospitals["h1"].obs["cell_type"].astype(object)
    labels.iloc[:5] = none
    hospitals["h1"].obs["cell_type"] = labels.astype(kind)
    task = Scanvi(target="cell_type")
    panel = task.agree(hospitals)
    assert panel["classes"] == ["B", "NK", "T"]
    assert task.labels(hospitals["h1"], panel)[:6].tolist() == [-1] * 5 + [2]


@pytest.mark.parametrize("as_categories", [False, True])
def test_minus_one_is_no_label(hospitals: dict[str, AnnData], as_categories: bool) -> None:
    for site in ("h0", "h1"):
        numbers = np.arange(N) % 3
        numbers[:5] = -1
        hospitals[site].obs["cell_type"] = pd.Categorical(numbers) if as_categories else numbers
    task = Scanvi(target="cell_type")
    with pytest.warns(InflWarning, match="−1 in .* is taken for no label"):
        panel = task.agree(hospitals)
    assert panel["classes"] == ["0", "1", "2"]
    assert task.labels(hospitals["h1"], panel)[:6].tolist() == [-1] * 5 + [2]


@pytest.mark.parametrize("doubtful", ["Unassigned", "NA", "None", "-1"])
def test_what_may_mean_no_label_is_asked_about(hospitals: dict[str, AnnData], doubtful: str) -> None:
    hospitals["h0"].obs["cell_type"] = hospitals["h0"].obs["cell_type"].replace("unknown", None)
    hospitals["h1"].obs.loc[hospitals["h1"].obs_names[:5], "cell_type"] = doubtful
    with pytest.warns(InflWarning, match=f"{doubtful!r} in .* is learned as a class: .* set unlabelled={doubtful!r}"):
        Scanvi(target="cell_type").agree(hospitals)
    assert Scanvi(target="cell_type", unlabelled=doubtful).agree(hospitals)["classes"][0] == "B"


def test_ages_are_no_classes_and_whole_numbers_come_back(hospitals: dict[str, AnnData]) -> None:
    hospitals["h1"].obs["age"] = np.linspace(0, 90, N)
    with pytest.raises(DataError, match="'age' is numeric at h1"):
        Scanvi(target="age").agree(hospitals)
    for site in ("h0", "h1"):
        hospitals[site].obs["type"] = np.where(np.arange(N) < 5, np.nan, np.arange(N) % 3)
    infl.tl.fit_federated(hospitals, "scanvi", target="type", rounds=1, **SMALL)
    assert hospitals["h2"].obs["infl_prediction"].dtype == np.int64
