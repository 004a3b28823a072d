"""A fit of scVI or scANVI begins with a model of other sites, donors, classes and genes: what both have does what it did."""

import warnings
from contextlib import nullcontext

import anndata as ad
import numpy as np
import pytest
import torch
from tests.models.scvi.conftest import SMALL as SMALL_OF_THREE
from tests.models.scvi.conftest import hospital

import infl
from infl.errors import DataError, InflWarning, SettingsError

SMALL = SMALL_OF_THREE | {"min_sites": 2}
STILL = {"optimiser": "sgd", "lr": 1e-20, "weight_decay": 0.0, "rounds": 1, "min_sites": 2, "progress": False}
"""Of a fit that moves no weight, so that its model is what it began with."""
EVERYTHING = {
    "dispersion": "gene-batch",
    "encode_covariates": True,
    "n_layers": 2,
    "categorical_covariates": ("donor",),
    "continuous_covariates": ("age",),
}


def cells(number: int, donors: tuple[str, ...] = ("d0", "d1"), labels: tuple[str, ...] = ("x", "y")) -> ad.AnnData:
    adata = hospital(number, np.arange(60) % 2)
    adata.obs["donor"] = np.array(donors)[np.arange(60) % len(donors)]
    adata.obs["age"] = np.linspace(-1, 1, 60).astype(np.float32)
    adata.obs["label"] = np.array(labels)[np.arange(60) % len(labels)]
    return adata


def with_gene(adata: ad.AnnData) -> ad.AnnData:
    """The same with one gene more, first, which says nothing."""
    more = ad.AnnData(np.zeros((adata.n_obs, 1), np.float32), obs=adata.obs[[]], var={"name": ["a_gene"]})
    more.var_names = more.var.pop("name")
    both = ad.concat([more, adata], axis=1)
    both.obs = adata.obs.copy()
    return both


def cold(model="scvi", **options):
    sites = {f"h{i}": cells(i) for i in range(2)}
    target = {"target": "label"} if model == "scanvi" else {}
    return infl.tl.fit_federated(sites, model, rounds=4, **SMALL | target | options)


def says(run, adata: ad.AnnData, site: str) -> dict[str, np.ndarray]:
    """What a model says of a site's cells: latent, expected shares and dispersion of its genes, probabilities by class."""
    task, panel = run.model.header.build_task(), run.model.header.panel
    model = run.site_models.get(site, run.model) if run.site_models else run.model
    module = model.module(run.key).eval()
    data = task.read(adata, panel, site=site)
    batch = data.batch(slice(None))
    with torch.no_grad():
        z = module.inference(**module._get_inference_input(batch))["qz"].loc
        px = module.generative(**module._get_generative_input(batch, {"z": z, "library": torch.zeros(len(z), 1)}))["px"]
        genes = [panel["features"].index(name) for name in hospital(0, np.zeros(2)).var_names]
        scale = px.scale[:, genes]
        found = {"latent": z, "share": scale / scale.sum(1, keepdim=True)}
        found["dispersion"] = px.theta.broadcast_to(px.scale.shape)[:, genes]
        if "classes" in panel:
            logits = module.classifier(z)[:, [panel["classes"].index(c) for c in ("x", "y")]]
            found["logits"] = logits
            u = torch.full((len(z), 1), panel["classes"].index("y"))
            found["of a class"] = module.encoder_z2_z1(z, u)[0].loc
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("model", ["scvi", "scanvi"])
@pytest.mark.parametrize("options", [{}, EVERYTHING, {"site_effect": "local"}], ids=["plain", "everything", "local"])
def test_what_both_have_does_what_it_did(model, options) -> None:
    run = cold(model, **options)
    sites = {"a_new": cells(5, ("d0", "c_new"), ("a new one", "x")), "h0": cells(0), "h1": cells(1)}
    wide = {site: with_gene(adata) for site, adata in sites.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", InflWarning)
        begun = infl.tl.fit_federated(wide, init=run, **STILL)
    panel = begun.model.header.panel
    assert panel["sites"] == ["a_new", "h0", "h1"] and panel["features"][0] == "a_gene"
    for number in range(2):
        before, after = says(run, cells(number), f"h{number}"), says(begun, with_gene(cells(number)), f"h{number}")
        for name in before:
            np.testing.assert_allclose(after[name], before[name], atol=1e-5, err_msg=name)
    # the control: sites are not alike, so that columns in another place would be noticed
    if options.get("encode_covariates"):
        swapped = says(run, cells(0), "h1")
        assert np.abs(swapped["latent"] - says(run, cells(0), "h0")["latent"]).max() > 1e-3


def test_a_new_site_begins_as_a_site_without_effect() -> None:
    run = cold(dispersion="gene-batch")
    begun = infl.tl.fit_federated({"a_new": cells(5), "h0": cells(0), "h1": cells(1)}, init=run, **STILL)
    weights, old = begun.model.effective(begun.key), run.model.effective(run.key)
    first = "decoder.px_decoder.fc_layers.Layer 0.0.weight"
    assert weights[first].shape[1] == old[first].shape[1] + 1
    assert weights[first][:, 4].abs().max() < 1e-5 and old[first][:, 4].abs().max() > 1e-2
    torch.testing.assert_close(weights["px_r"][:, 0], old["px_r"].mean(1), atol=1e-5, rtol=0)


def test_a_site_that_left_is_named_and_the_others_stay() -> None:
    run = infl.tl.fit_federated({f"h{i}": cells(i) for i in range(3)}, "scvi", rounds=3, **SMALL)
    with pytest.warns(InflWarning, match=r"this fit has no 'h0' of the 3 sites of init=: the new model is without$"):
        begun = infl.tl.fit_federated({"h1": cells(1), "h2": cells(2)}, init=run, **STILL)
    for number in (1, 2):
        before, after = (says(one, cells(number), f"h{number}") for one in (run, begun))
        np.testing.assert_allclose(after["share"], before["share"], atol=1e-5)


def test_sites_and_donors_may_all_be_new_but_genes_may_not() -> None:
    run = cold(categorical_covariates=("donor",))
    with pytest.warns(InflWarning) as caught:
        infl.tl.fit_federated(
            {"n0": cells(3, ("d7", "d8")), "n1": cells(4, ("d7", "d9"))}, init=run.model, key=run.key, **STILL
        )
    said = " ".join(str(w.message) for w in caught)
    assert "no 'h0' and 1 more of the 2 sites of init=" in said and "'d0' and 1 more of the 2 donor of init=" in said
    strangers = {site: cells(i) for i, site in enumerate(("h0", "h1"))}
    for adata in strangers.values():
        adata.var_names = [f"x{i}" for i in range(adata.n_vars)]
    with pytest.raises(DataError, match="have no name in common"):
        infl.tl.fit_federated(strangers, init=run, **STILL)


@pytest.mark.parametrize("option", [{"kl_warmup": 0.0}, {"dropout_rate": 0.2}, {"n_latent": 5}])
def test_options_of_training_may_change_and_those_of_weights_may_not(option) -> None:
    run, sites = cold(), {f"h{i}": cells(i) for i in range(2)}
    refused = pytest.raises(SettingsError, match="init= was fitted with n_latent=4")
    with refused if "n_latent" in option else nullcontext():
        begun = infl.tl.fit_federated(sites, init=run, **STILL | option)
        assert option.items() <= begun.model.header.options.items()


def test_a_warm_fit_with_a_new_site_goes_on_from_where_the_model_was() -> None:
    run = infl.tl.fit_federated({f"h{i}": cells(i) for i in range(2)}, "scvi", rounds=25, **SMALL)
    sites = {"a_new": cells(5), "h0": cells(0), "h1": cells(1)}
    begun = infl.tl.fit_federated(sites, init=run, rounds=2, kl_warmup=0.0, min_sites=2, progress=False)
    fresh = infl.tl.fit_federated(sites, "scvi", rounds=2, **SMALL | {"kl_warmup": 0.0})
    assert begun.history["val_loss"].iloc[0] < fresh.history["val_loss"].iloc[0] - 5
