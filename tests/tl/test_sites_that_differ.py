"""Models for sites that differ: their own moments, their own coordinate, and training that goes on at the site."""

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import infl
from infl.errors import SettingsError
from infl.models.classifier import Classifier
from infl.models.locked.outputs import infer

OPTIONS = {"target": "label", "width": 8, "n_blocks": 1, "rounds": 20, "lr": 1e-2, "progress": False}


def cohort(n_sites: int = 4, n_obs: int = 40, seed: int = 0) -> dict[str, AnnData]:
    """Two classes that differ by less than the sites do: each site adds a shift and a gain of its own to each gene."""
    rng = np.random.default_rng(seed)
    difference = rng.normal(size=10)
    sites = {}
    for i in range(n_sites):
        y = rng.random(n_obs) < 0.3 + 0.4 * (i % 2)  # the classes' shares differ too
        x = np.where(y[:, None], difference, -difference) / 2 + 0.5 * rng.normal(size=(n_obs, 10))
        x = x * rng.uniform(0.5, 2, 10) + 6 * rng.normal(size=10)
        obs = pd.DataFrame({"label": np.where(y, "a", "b")}, index=[f"{i}_{j}" for j in range(n_obs)])
        sites[f"site_{i + 1}"] = AnnData(
            x.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(10)])
        )
    return sites


@pytest.fixture
def sites() -> dict[str, AnnData]:
    return cohort()


def accuracy(adata: AnnData, model: object, key: object) -> float:
    outputs = infer(adata, model, key)
    classes = np.array(model.header.panel["classes"])
    return float((classes[outputs["probability"].argmax(1)] == adata.obs["label"].astype(str)).mean())


# -- a site that was not in the fit ------------------------------------------------------------------------------------
def test_a_new_site_is_scaled_by_its_own_moments(sites: dict[str, AnnData]) -> None:
    new = sites.pop("site_4")
    shared = infl.tl.fit_federated(sites, standardise="federated", **OPTIONS)
    own = infl.tl.fit_federated(sites, standardise="site", **OPTIONS)
    assert accuracy(new, own.model, own.key) > 0.05 + accuracy(new, shared.model, shared.key)


def test_ranks_do_not_depend_on_a_samples_scale(sites: dict[str, AnnData]) -> None:
    task = Classifier(target="label", standardise="rank")
    panel = task.agree(sites)
    other = sites["site_1"].copy()
    other.X = np.exp(other.X / 4)
    rows = [task.read(a, panel, site="site_1").rows(slice(None)) for a in (sites["site_1"], other)]
    np.testing.assert_array_equal(*rows)
    np.testing.assert_allclose(rows[0].mean(0), 0, atol=1e-5)


def test_moments_weight_classes_alike_and_are_found_without_labels(sites: dict[str, AnnData]) -> None:
    new = sites.pop("site_4")
    run = infl.tl.fit_federated(sites, standardise="site", **OPTIONS)
    task, panel = run.model.header.build_task(), run.model.header.panel
    x, y = new.X.astype(float), new.obs["label"].to_numpy()
    balanced = np.mean([x[y == c].mean(0) for c in ("a", "b")], axis=0)
    labelled = task.read(new, panel, site="new", rng=np.random.default_rng(0))
    labelled.train = np.arange(len(x))
    np.testing.assert_allclose(labelled.own_moments[0], balanced, rtol=1e-4)
    data = task.read(new, panel, site="new")
    plain = data.own_moments[0]
    task.infer(run.model.module(run.key), data, run.model.private_arrays(run.key))
    assert np.abs(data.own_moments[0] - balanced).mean() < 0.3 * np.abs(plain - balanced).mean()


def test_plain_moments_count_samples_alike_at_old_and_new_sites(sites: dict[str, AnnData]) -> None:
    new = sites.pop("site_4")
    run = infl.tl.fit_federated(sites, standardise="site", balance_moments=False, **OPTIONS)
    task, panel = run.model.header.build_task(), run.model.header.panel
    x = new[:, list(panel["features"])].X
    labelled, data = (task.read(new, panel, site="new", rng=r) for r in (np.random.default_rng(0), None))
    task.infer(run.model.module(run.key), data, run.model.private_arrays(run.key))
    np.testing.assert_allclose(data.own_moments[0], x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(labelled.own_moments[0], x[labelled.train].mean(0), rtol=1e-4)


def test_a_site_of_the_fit_keeps_the_moments_of_its_training_data(sites: dict[str, AnnData]) -> None:
    """A few new samples at a known site are scaled as the site was, not by themselves."""
    fresh = cohort()
    run = infl.tl.fit_federated(sites, standardise="site", **OPTIONS)
    before = sites["site_2"].obsm["infl_probabilities"]
    one = infl.tl.predict(fresh["site_2"][:1], run.site_models["site_2"], key=run.key, copy=True)
    np.testing.assert_allclose(one.obsm["infl_probabilities"], before[:1], atol=1e-4)
    alone = infl.tl.predict(fresh["site_2"][:1], run.model, key=run.key, copy=True)
    assert not np.allclose(alone.obsm["infl_probabilities"], before[:1], atol=1e-2)


def test_own_moments_are_not_in_the_model_that_is_shared(sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(sites, standardise="site", **OPTIONS)
    assert "own_center" not in run.model.private_arrays(run.key)
    assert "own_center" in run.site_models["site_1"].private_arrays(run.key)
    assert run.site_models["site_1"].private != run.model.private


# -- a site's own coordinate -------------------------------------------------------------------------------------------
def test_the_coordinate_is_learned_and_stays(sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(sites, coordinate=4, **OPTIONS)
    assert "site" not in run.model.stored
    assert "film.modulation.weight" in run.model.stored
    own = [model.effective(run.key)["site"] for model in run.site_models.values()]
    assert all(o.norm() > 1e-4 for o in own)
    assert all(not torch.allclose(own[0], o, atol=1e-4) for o in own[1:])


def test_a_new_sites_coordinate_brings_the_latents_moments_nearer(sites: dict[str, AnnData]) -> None:
    new = sites.pop("site_4")
    run = infl.tl.fit_federated(sites, coordinate=4, **OPTIONS)
    task, private = run.model.header.build_task(), run.model.private_arrays(run.key)
    module = run.model.module(run.key)
    data = task.read(new, run.model.header.panel, site="new")

    def distance() -> float:
        z = task.infer(module, data, private)["latent"].astype(float)
        deviation = np.sqrt(np.clip(private["latent_square"] - private["latent_sum"] ** 2, 0, None))
        return float(((z.mean(0) - private["latent_sum"]) ** 2).mean() + ((z.std(0) - deviation) ** 2).mean())

    before = distance()
    task.adapt(module, data, private)
    assert module.site.norm() > 1e-3
    assert distance() < 0.98 * before
    infl.tl.predict(new, run.model, key=run.key)  # does the same by itself
    np.testing.assert_allclose(new.obsm["X_infl"], task.infer(module, data, private)["latent"], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"coordinate": 4, "width": 0}, "coordinate=4: give the size of a code, and a width= above 0"),
        ({"standardise": "sites"}, "standardise='sites': give one of"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Classifier(target="label", **options)


def test_a_new_site_has_no_head_where_heads_stay_at_the_sites(sites: dict[str, AnnData]) -> None:
    new = sites.pop("site_4")
    run = infl.tl.fit_federated(sites, aggregation="partial", **OPTIONS)
    with pytest.raises(SettingsError, match=r"leaves head\.weight to each site"):
        infl.tl.predict(new, run.model, key=run.key)


# -- a linear model ----------------------------------------------------------------------------------------------------
def test_width_0_is_logistic_regression(sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(sites, **{**OPTIONS, "width": 0})
    assert {*run.model.stored} == {"head.weight", "head.bias"}
    adata, weights = sites["site_1"], run.model.effective(run.key)
    private = run.model.private_arrays(run.key)
    z = ((adata.X - private["center"]) / private["scale"]).clip(-10, 10)
    order = [list(run.model.header.panel["features"]).index(f) for f in adata.var_names]
    logits = z @ weights["head.weight"].numpy()[:, order].T + weights["head.bias"].numpy()
    logits /= private["temperature"]
    np.testing.assert_allclose(adata.obsm["X_infl"], logits, rtol=1e-3, atol=1e-3)


def test_plain_steps_of_a_linear_model_are_gradient_descent_on_the_pooled_loss(sites: dict[str, AnnData]) -> None:
    settings = {"width": 0, "optimiser": "sgd", "lr": 1.0, "weight_decay": 0.0, "validation": 0.0, "batch_size": 999}
    run = infl.tl.fit_federated(sites, balance=False, **{**OPTIONS, "rounds": 5, **settings})
    weights, private = run.model.effective(run.key), run.model.private_arrays(run.key)
    features, classes = run.model.header.panel["features"], run.model.header.panel["classes"]
    x = np.concatenate([a[:, list(features)].X for a in sites.values()])
    z = ((x - private["center"]) / private["scale"]).clip(-10, 10) / np.sqrt(len(features))
    y = np.concatenate([a.obs["label"] for a in sites.values()])[:, None] == np.array(classes)
    w, b = np.zeros((len(classes), len(features))), np.zeros(len(classes))
    for _ in range(5):
        logits = np.exp(z @ w.T + b)
        error = (y - logits / logits.sum(1, keepdims=True)) / len(z)
        w, b = w + error.T @ z, b + error.sum(0)
    np.testing.assert_allclose(weights["head.weight"], w, atol=2e-3)  # it begins within 1e-4 · 3 of zero
    np.testing.assert_allclose(weights["head.bias"], b, atol=2e-3)
    own = infl.tl.personalise(run, sites, key=run.key, epochs=1)
    assert (own.table["epochs"] == 0).all()  # without validation data


def test_an_optimiser_that_is_not_known(sites: dict[str, AnnData]) -> None:
    with pytest.raises(SettingsError, match="optimiser='adam': give one of 'adamw', 'sgd'"):
        infl.tl.fit_federated(sites, **OPTIONS, optimiser="adam")


# -- training that goes on at the site -----------------------------------------------------------------------------------
def test_personal_models_are_better_where_labels_mean_something_else(sites: dict[str, AnnData]) -> None:
    """At one site the two labels are the other way round: the global model fails there, its own does not."""
    odd = sites["site_4"]
    odd.obs["label"] = odd.obs["label"].map({"a": "b", "b": "a"})
    run = infl.tl.fit_federated(sites, standardise="site", **OPTIONS)
    own = infl.tl.personalise(run, sites, key=run.key)
    table = own.table.set_index("site")
    assert (table["loss_after"] <= table["loss_before"]).all()
    assert table.loc["site_4", "epochs"] > 0
    fresh = cohort()["site_4"]
    fresh.obs["label"] = fresh.obs["label"].map({"a": "b", "b": "a"})
    shared, personal = (accuracy(fresh, m, run.key) for m in (run.site_models["site_4"], own.models["site_4"]))
    assert personal > shared + 0.3


def test_a_personal_model_is_locked_and_stays_global_when_nothing_is_gained(sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(sites, **OPTIONS)
    own = infl.tl.personalise(run.model, sites, key=run.key, epochs=1, patience=1)
    for site, model in own.models.items():
        assert model.header.fingerprint == run.model.header.fingerprint
        salts, before = model.header.salts, run.model.header.salts
        assert salts.keys() == before.keys()
        same = all(
            torch.allclose(w, model.effective(run.key)[n], atol=1e-5) for n, w in run.model.effective(run.key).items()
        )
        assert same == (own.table.set_index("site").loc[site, "epochs"] == 0)
        assert same == (salts == before)  # one salt for one content, and for no other
    without = infl.tl.fit_federated(sites, validation=0.0, **OPTIONS)
    table = infl.tl.personalise(without, sites, key=without.key).table
    assert (table["epochs"] == 0).all() and (table["n_validation"] == 0).all()


@pytest.mark.parametrize("name", ["epochs", "patience"])
def test_personalise_needs_whole_numbers(sites: dict[str, AnnData], name: str) -> None:
    run = infl.tl.fit_federated(sites, **{**OPTIONS, "rounds": 1})
    with pytest.raises(SettingsError, match=f"{name}=0: give a whole number"):
        infl.tl.personalise(run, sites, key=run.key, **{name: 0})


def test_compare_measures_personal_models_on_other_observations(sites: dict[str, AnnData]) -> None:
    options = {**OPTIONS, "rounds": 2, "seeds": 1, "methods": ["infl", "infl_personal"]}
    table = infl.tl.compare(sites, **options)
    assert set(table["method"]) == {"infl", "infl_personal"}
    with pytest.raises(SettingsError, match="not with holdout='site'"):
        infl.tl.compare(sites, holdout="site", **options)
