"""scVI over sites: the same numbers as scvi-tools, as plain training, and as without lock and seal."""

import sys
from collections.abc import Callable

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scipy.stats import poisson
from sklearn.neighbors import NearestNeighbors

import infl
from infl.errors import DataError, InflError, InflWarning, MissingExtraError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.replica import build_bench
from infl.federation.run import FederatedRun
from infl.federation.seeds import derive, generator
from infl.models.pooling import pool
from infl.models.scvi import Scvi
from infl.models.task import ADAM_EPS, Step
from infl.tl._predict import infer

scvi = pytest.importorskip("scvi", reason="needs scvi-tools: pip install 'infl[scvi]'")

N_GENES, N_CELLS = 60, 120
SMALL = {"n_hidden": 32, "n_latent": 4, "batch_size": 32, "lr": 5e-3, "progress": False}


def hospital(number: int, group: np.ndarray) -> AnnData:
    """Cells of two groups, in which a third of the genes is tripled or not; each hospital loses its own genes."""
    rng = np.random.default_rng(number)
    rate = np.random.default_rng(99).gamma(1.0, 2.0, N_GENES) + 0.2
    effect = np.where(np.arange(N_GENES) % 3 == 0, 3.0, 1.0)
    depth = rng.lognormal(0, 0.8, (len(group), 1))
    counts = rng.poisson(rate * np.where(group[:, None] == 1, effect, 1.0) * depth * rng.gamma(20, 1 / 20, N_GENES))
    counts[:, 0] += 1
    obs = pd.DataFrame({"group": pd.Categorical(group.astype(str)), "hospital": f"h{number}"})
    obs.index = [f"h{number}_{i}" for i in range(len(group))]
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=genes()))


def genes() -> list[str]:
    return [f"gene_{i}" for i in range(N_GENES)]


@pytest.fixture
def hospitals() -> dict[str, AnnData]:
    return {f"h{i}": hospital(i, np.arange(N_CELLS) % 2) for i in range(3)}


@pytest.fixture(scope="module")
def fitted() -> tuple[AnnData, FederatedRun]:
    cells = ad.concat([hospital(i, np.arange(N_CELLS) % 2) for i in range(3)])
    return cells, infl.tl.fit_federated(cells, "scvi", site_key="hospital", rounds=80, kl_warmup=1.0, **SMALL)


def purity(latent: np.ndarray, labels: np.ndarray) -> float:
    """Share of the ten nearest neighbours that have a cell's own label."""
    near = NearestNeighbors(n_neighbors=11).fit(latent).kneighbors(return_distance=False)[:, :10]
    return float((labels[near] == labels[:, None]).mean())


def test_sealed_and_locked_fit_is_the_open_one(hospitals: dict[str, AnnData]) -> None:
    sealed = infl.tl.fit_federated(hospitals, "scvi", rounds=4, **SMALL)
    latent = {name: adata.obsm["X_infl"] for name, adata in hospitals.items()}
    with pytest.warns(InflWarning, match="seal='none'"):
        plain = infl.tl.fit_federated(hospitals, "scvi", rounds=4, lock=None, seal="none", **SMALL)
    opened = sealed.model.effective(sealed.key)
    for name, weight in plain.model.stored.items():
        torch.testing.assert_close(opened[name], weight, rtol=0, atol=1e-3)
    for name, adata in hospitals.items():
        np.testing.assert_allclose(adata.obsm["X_infl"], latent[name], atol=1e-3)
        assert np.ptp(latent[name]) > 0.1
    assert plain.history["val_loss"].iloc[-1] < plain.history["val_loss"].iloc[0]


def test_one_site_is_plain_training(hospitals: dict[str, AnnData]) -> None:
    """A loop in plain torch on the same batches: what the engine adds for a single site is nothing."""
    sites = {"h0": hospitals["h0"]}
    rounds, options = 3, {"n_hidden": 32, "n_latent": 4, "batch_size": 32, "kl_warmup": 0.5}
    with pytest.warns(InflWarning, match="seal='none'"):
        run = infl.tl.fit_federated(sites, "scvi", rounds=rounds, lock=None, seal="none", progress=False, **options)
    task = Scvi(**options)  # type: ignore[arg-type]
    panel = task.agree(sites)
    agreement = Agreement.new(task, panel, sites, None, rounds=rounds, lock=None, seal="none", seed=0)
    module = build_bench(task, agreement).module.train()
    data = task.read(sites["h0"], panel, site="h0", rng=generator(0, "validation part", "h0"))
    for number in range(1, rounds + 1):
        optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3, eps=ADAM_EPS, weight_decay=1e-6)
        order = generator(0, "batches", "h0", number).permutation(data.train)
        torch.manual_seed(derive(0, "dropout", "h0", number))
        batches = np.array_split(order, round(len(order) / 32))
        for i, index in enumerate(batches):
            optimiser.zero_grad()
            weight = min(1.0, (number - 1 + i / len(batches)) / (0.5 * rounds))
            _, _, output = module(data.batch(index), loss_kwargs={"kl_weight": weight})
            output.loss.backward()
            optimiser.step()
    latent = task.infer(module.eval(), task.read(sites["h0"], panel, site="h0"), {})["latent"]
    assert run.history["best"].iloc[-1]
    np.testing.assert_allclose(sites["h0"].obsm["X_infl"], latent, atol=1e-4)


def test_kl_weight_rises_with_federated_steps() -> None:
    task = Scvi(kl_warmup=0.5)
    assert task.kl_weight(Step(1, 4, 0, 10)) == 0
    assert task.kl_weight(Step(1, 4, 5, 10)) == 0.25
    assert task.kl_weight(Step(2, 4, 5, 10)) == 0.75
    assert task.kl_weight(Step(3, 4, 0, 10)) == task.kl_weight(Step(4, 4, 9, 10)) == 1
    assert Scvi(kl_warmup=0).kl_weight(Step(1, 4, 0, 10)) == 1


def test_validation_loss_is_the_elbo_of_scvi_tools(fitted: tuple) -> None:
    cells, run = fitted
    theirs = infl.tl.to_scvi(run.model, cells, key=run.key, site_key="hospital")
    task, panel = run.model.header.build_task(), run.model.header.panel
    sums = []
    for site in panel["sites"]:
        part = cells[cells.obs["hospital"] == site]
        data = task.read(part, panel, site=site)
        sums.append(task.evaluate(run.model.module(run.key), data, np.arange(part.n_obs)))
    ours = task.summarise({name: sum(s[name] for s in sums) for name in sums[0]})
    assert ours["loss"] == pytest.approx(-float(theirs.get_elbo()), rel=0.01)
    assert ours["loss"] == ours["reconstruction"] + ours["kl"]


def test_to_scvi_gives_the_same_latent(fitted: tuple) -> None:
    cells, run = fitted
    theirs = infl.tl.to_scvi(run.model, cells, key=run.key, site_key="hospital")
    assert type(theirs) is scvi.model.SCVI
    np.testing.assert_allclose(theirs.get_latent_representation(), cells.obsm["X_infl"], atol=1e-4)
    table = theirs.differential_expression(groupby="group", group1="1", group2="0", mode="change", silent=True)
    changed = [name for i, name in enumerate(genes()) if i % 3 == 0]
    assert table.loc[changed, "lfc_mean"].mean() > table.drop(changed)["lfc_mean"].mean() + 0.3
    assert "infl_site" not in cells.obs and "_scvi_batch" not in cells.obs


def test_denoised_expression_is_that_of_scvi_tools(fitted: tuple) -> None:
    cells, run = fitted
    infl.tl.denoise(cells, run.model, key=run.key, site="h1", target_sum=100)
    theirs = infl.tl.to_scvi(run.model, cells, key=run.key, site_key="hospital")
    expected = theirs.get_normalized_expression(transform_batch="h1", n_samples=50, library_size=100).to_numpy()
    ours = cells.obsm["infl_denoised"]
    assert list(ours.columns) == genes()
    np.testing.assert_allclose(ours.sum(axis=1), 100, rtol=1e-4)
    assert np.corrcoef(ours.to_numpy().ravel(), expected.ravel())[0, 1] > 0.98
    everywhere = infl.tl.denoise(cells, run.model, key=run.key, copy=True).obsm["infl_denoised"]
    parts = [
        infl.tl.denoise(cells, run.model, key=run.key, site=s, copy=True).obsm["infl_denoised"]
        for s in ("h0", "h1", "h2")
    ]
    np.testing.assert_allclose(everywhere, sum(parts) / 3, rtol=1e-3, atol=1e-3)
    with pytest.raises(SettingsError, match="site='h9' is not one of the model's: h0, h1, h2"):
        infl.tl.denoise(cells, run.model, key=run.key, site="h9")


def test_wrong_key_knows_no_more_than_an_untrained_network(fitted: tuple) -> None:
    cells, run = fitted
    labels = cells.obs["group"].to_numpy()
    task, panel = run.model.header.build_task(), run.model.header.panel
    data = task.read(cells, panel, site="the data")
    fresh = [purity(task.infer(task.build(panel).eval(), data, {})["latent"], labels) for _ in range(8)]
    keys = [infl.keys.Keyring.create() for _ in range(8)]
    wrong = [purity(infer(cells, run.model, key, verify=False)["latent"], labels) for key in keys]
    right = purity(cells.obsm["X_infl"], labels)
    assert right > 0.9
    assert np.mean(wrong) < np.mean(fresh) + 0.05
    assert np.mean(wrong) < right - 0.2


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_model_trained_elsewhere_goes_under_lock_and_back(
    hospitals: dict[str, AnnData], norm: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cells = ad.concat(hospitals.values())
    cells.obs["donor"] = np.where(np.arange(cells.n_obs) % 2, "a", "b")
    scvi.model.SCVI.setup_anndata(cells, batch_key="hospital", categorical_covariate_keys=["donor"])
    norms = {} if norm == "batch" else {"use_batch_norm": "none", "use_layer_norm": "both"}
    theirs = scvi.model.SCVI(cells, n_hidden=16, n_latent=3, **norms)
    theirs.train(max_epochs=1, enable_progress_bar=False, logger=False, accelerator="cpu")
    key = infl.keys.Keyring.create()
    file = infl.tl.from_scvi(theirs, key=key).save(tmp_path_factory.mktemp("models") / "m.infl.safetensors")
    locked = infl.load_model(file)
    expected = theirs.get_latent_representation()
    np.testing.assert_allclose(infer(cells, locked, key)["latent"], expected, atol=1e-4)
    back = infl.tl.to_scvi(locked, cells, key=key, site_key="hospital")
    np.testing.assert_allclose(back.get_latent_representation(), expected, atol=1e-4)
    states = theirs.module.state_dict(), back.module.state_dict()
    for name in locked.stored:
        torch.testing.assert_close(states[1][name], states[0][name], rtol=1e-5, atol=1e-6)
    with pytest.warns(InflWarning, match="no key"):
        infl.tl.predict(cells, locked)
    assert np.abs(cells.obsm["X_infl"] - expected).mean() > 0.1
    assert not any("running" in name for name in locked.stored)


def test_local_site_effect_stays_at_the_site(hospitals: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(hospitals, "scvi", rounds=2, site_effect="local", **SMALL)
    assert not any("embedding" in name for name in run.model.stored)
    assert not run.model.module(run.key).get_parameter("_embeddings_dict.batch.weight").any()


def test_covariates_and_size_factors_reach_the_module(hospitals: dict[str, AnnData]) -> None:
    for number, adata in enumerate(hospitals.values()):
        adata.obs["donor"] = ["b", "a" if number else "b"] * (N_CELLS // 2)
        adata.obs["age"] = np.arange(N_CELLS) / N_CELLS
        adata.obs["factor"] = 2.0
    task = Scvi(categorical_covariates=("donor",), continuous_covariates=("age",), size_factor="factor")
    panel = task.agree(hospitals)
    assert panel["covariates"] == {"donor": ["a", "b"]}
    batch = task.read(hospitals["h2"], panel, site="h2").batch(np.array([1, 4]))
    assert batch["batch"].tolist() == [[2], [2]]
    assert batch["extra_categorical_covs"].tolist() == [[0], [1]]
    np.testing.assert_allclose(batch["extra_continuous_covs"], [[1 / N_CELLS], [4 / N_CELLS]], rtol=1e-6)
    assert batch["size_factor"].tolist() == [[2.0], [2.0]]
    module = task.build(panel)
    assert module.decoder.px_decoder.fc_layers[0][0].in_features == task.n_latent + 1 + 3 + 2
    assert torch.isfinite(task.loss(module, batch, Step(1, 1, 0, 1)))


def test_modality_of_a_mudata(hospitals: dict[str, AnnData]) -> None:
    cells = hospitals["h0"]
    one = {"h0": MuData({"rna": cells, "other": cells[:50, :2].copy()})}
    with pytest.warns(InflWarning, match="seal='none'"):
        infl.tl.fit_federated(one, "scvi", modality="rna", rounds=1, lock=None, seal="none", **SMALL)
    assert one["h0"].obsm["X_infl"].shape == (N_CELLS, 4)


def _logged(adata: AnnData) -> None:
    adata.X = adata.X.log1p()


def _emptied(adata: AnnData) -> None:
    adata.X = sparse.diags((np.arange(N_CELLS) >= 2).astype(np.float32)) @ adata.X


def _negative(adata: AnnData) -> None:
    adata.X = -adata.X.toarray()


def _column(name: str, values: object) -> Callable[[AnnData], None]:
    def change(adata: AnnData) -> None:
        adata.obs[name] = values

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (_logged, {}, r"h0 has \d.\d+ in X, which is no count: raw counts are due"),
        (_negative, {}, r"h0 has -\d+ in X, which is no count"),
        (_emptied, {}, "h0 has 2 cells without any count in the 60 features of the panel, first 'h0_0'"),
        (
            _column("x", 1),
            {"categorical_covariates": "donor"},
            "categorical_covariates 'donor' is missing in obs of h0",
        ),
        (_column("s", 0.0), {"size_factor": "s"}, r"h0 has size factors of 0 or less in obs\['s'\]"),
        (_column("s", "x"), {"continuous_covariates": "s"}, r"h0 has text in obs\['s'\], where numbers are due"),
        (_column("x", 1), {"norm": "batch"}, "norm='batch' cannot be fitted over sites"),
        (_column("x", 1), {"norm": "both"}, "norm='both': give one of 'layer', 'batch'"),
        (_column("x", 1), {"kl_warmup": 3}, "kl_warmup=3: give a number from 0 up to 1"),
        (_column("x", 1), {"n_latents": 3}, "did you mean 'n_latent'"),
        (_column("x", 1), {"privacy": infl.privacy.DP(epsilon=1, delta=1e-5)}, "cannot be fitted with privacy= yet"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    hospitals: dict[str, AnnData], change: Callable[[AnnData], None], options: dict, message: str
) -> None:
    for adata in hospitals.values():
        change(adata)
    with pytest.raises(InflError, match=message) as error:
        infl.tl.fit_federated(hospitals, "scvi", rounds=1, progress=False, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert not any(adata.obsm for adata in hospitals.values())


def test_without_scvi_tools_the_line_to_install_it(
    hospitals: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scvi.module", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'infl\[scvi\]'"):
        infl.tl.fit_federated(hospitals, "scvi", rounds=1, progress=False)


def test_a_category_that_the_model_does_not_know(hospitals: dict[str, AnnData]) -> None:
    for adata in hospitals.values():
        adata.obs["donor"] = "a"
    task = Scvi(categorical_covariates=("donor",))
    panel = task.agree(hospitals)
    hospitals["h0"].obs["donor"] = "c"
    with pytest.raises(DataError, match=r"h0 has 'c' in obs\['donor'\], which the model does not know: it has 'a'"):
        task.read(hospitals["h0"], panel, site="h0")


def test_features_that_were_not_measured_are_no_zeros(hospitals: dict[str, AnnData]) -> None:
    panel = Scvi().agree(hospitals)
    hospitals["h1"].var["infl_present"] = np.arange(N_GENES) > 3
    with pytest.raises(DataError, match="h1 did not measure 4 of the model's 60 features"):
        Scvi().read(hospitals["h1"], panel, site="h1")
    assert set(Scvi().agree(hospitals)["features"]) == set(genes()[4:])


def test_published_lock_reaches_layers_with_covariates(hospitals: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(hospitals, "scvi", rounds=1, lock="published", **SMALL)
    latent = infer(hospitals["h0"], run.model, run.key)["latent"]
    assert np.abs(latent - infer(hospitals["h0"], run.model, None)["latent"]).max() > 0.1
    with pytest.raises(SettingsError, match="no place for the layers of lock='published'"):
        infl.tl.to_scvi(run.model, hospitals["h0"], key=run.key, site="h0")


def test_what_scvi_tools_cannot_take_or_give(fitted: tuple) -> None:
    cells, run = fitted
    with pytest.raises(SettingsError, match="say where the cells are from: site=, one of h0, h1, h2"):
        infl.tl.to_scvi(run.model, cells, key=run.key)
    with pytest.raises(DataError, match="'h7' is not a site of the model"):
        infl.tl.to_scvi(run.model, cells, key=run.key, site="h7")
    theirs = infl.tl.to_scvi(run.model, cells, key=run.key, site="h0")
    with pytest.raises(SettingsError, match="from_scvi locks with lock='field' and key="):
        infl.tl.from_scvi(theirs, key=None)
    other = scvi.model.SCVI(theirs.adata, use_observed_lib_size=False)
    with pytest.raises(SettingsError, match="use_observed_lib_size=False cannot be locked, only with True"):
        infl.tl.from_scvi(other, key=run.key)
    both = scvi.model.SCVI(theirs.adata, use_layer_norm="both")
    with pytest.raises(SettingsError, match="cannot be locked: have 'both' of one"):
        infl.tl.from_scvi(both, key=run.key)
    with pytest.raises(SettingsError, match="from_scvi takes a scvi.model.SCVI, not str"):
        infl.tl.from_scvi("model.pt", key=run.key)


# -- compared ------------------------------------------------------------------------------------------------------
def test_compare_has_the_bound_of_held_out_cells(hospitals: dict[str, AnnData]) -> None:
    methods = ["pooled", "infl", "infl_no_key", "baseline"]
    table = infl.tl.compare(hospitals, "scvi", seeds=1, rounds=60, methods=methods, **SMALL | {"lr": 2e-2})
    value = table[table["metric"] == "loss"].set_index("method")["mean"]
    assert abs(value["infl"] / value["pooled"] - 1) < 0.05
    assert value["infl"] < value["baseline"] < value["infl_no_key"]


def test_what_is_judged_is_the_bound_with_each_cells_own_site(fitted: tuple) -> None:
    cells, run = fitted
    panel, module = run.model.header.panel, run.model.module(run.key)
    task = run.model.header.build_task()
    parts = {site: cells[cells.obs["hospital"] == site] for site in panel["sites"]}
    own = [infer(part, run.model, run.key, name=site, judged=True)["loss"] for site, part in parts.items()]
    data = task.read(parts["h1"], panel, site="h1")
    assert own[1].mean() == pytest.approx(task.summarise(task.evaluate(module, data, np.arange(N_CELLS)))["loss"])
    together = pool(parts)
    assert together.obs["infl_site"].tolist() == cells.obs["hospital"].tolist()
    joined = infer(together, run.model, run.key, judged=True)["loss"]
    assert joined.mean() == pytest.approx(np.concatenate(own).mean(), rel=0.01)
    as_first = infer(parts["h1"], run.model, run.key, name="h0", judged=True)["loss"]
    assert own[1].mean() < as_first.mean()


def test_the_baseline_is_the_likelihood_of_counts_that_depth_alone_moves() -> None:
    rng = np.random.default_rng(0)
    rate = rng.gamma(1.0, 2.0, N_GENES) + 0.5
    cells = AnnData(rng.poisson(rate * rng.lognormal(0, 0.3, (400, 1))).astype(np.float32))
    panel = {"features": list(cells.var_names), "sites": ["a"], "covariates": {}}
    loss = Scvi().baseline(cells[:300], panel, seed=0)(cells[300:])["loss"]
    mean = cells.X[300:].sum(1, keepdims=True) * rate / rate.sum()
    assert loss.shape == (100,)
    assert loss.mean() == pytest.approx(-poisson.logpmf(cells.X[300:], mean).sum(1).mean(), rel=0.01)
