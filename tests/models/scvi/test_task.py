"""scVI over sites: the same numbers as scvi-tools, as plain training, and as without lock and seal."""

import numpy as np
import pytest
import torch
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors
from tests.models.scvi.conftest import N_CELLS, SMALL, cells_of_three_fitted

import infl
from infl.errors import InflWarning
from infl.federation.agreement import Agreement
from infl.federation.initial import build_flat_model
from infl.federation.run import FederatedRun
from infl.federation.seeds import derive, generator
from infl.models.locked.outputs import infer
from infl.models.pooling import pool
from infl.models.scvi import Scvi
from infl.models.task import ADAM_EPS, Step

pytestmark = pytest.mark.needs("scvi")


@pytest.fixture(scope="module")
def fitted() -> tuple[AnnData, FederatedRun]:
    return cells_of_three_fitted()


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
    module = build_flat_model(task, agreement).module.train()
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


def test_local_site_effect_stays_at_the_site(hospitals: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(hospitals, "scvi", rounds=2, site_effect="local", **SMALL)
    assert not any("embedding" in name for name in run.model.stored)
    assert not run.model.module(run.key).get_parameter("_embeddings_dict.batch.weight").any()


def test_what_is_judged_is_the_bound_with_each_cells_own_site(fitted: tuple) -> None:
    cells, run = fitted
    panel, module = run.model.header.panel, run.model.module(run.key)
    task = run.model.header.build_task()
    parts = {site: cells[cells.obs["hospital"] == site] for site in panel["sites"]}
    own = [infer(part, run.model, run.key, name=site, for_scoring=True)["loss"] for site, part in parts.items()]
    data = task.read(parts["h1"], panel, site="h1")
    assert own[1].mean() == pytest.approx(task.summarise(task.evaluate(module, data, np.arange(N_CELLS)))["loss"])
    together = pool(parts)
    assert together.obs["infl_site"].tolist() == cells.obs["hospital"].tolist()
    joined = infer(together, run.model, run.key, for_scoring=True)["loss"]
    assert joined.mean() == pytest.approx(np.concatenate(own).mean(), rel=0.01)
    as_first = infer(parts["h1"], run.model, run.key, name="h0", for_scoring=True)["loss"]
    assert own[1].mean() < as_first.mean()
