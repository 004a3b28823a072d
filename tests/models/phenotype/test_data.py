"""What a site did not measure has no part in anything: features that it lacks, and whole modalities."""

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mudata import MuData

import infl
from infl.errors import DataError
from infl.federation.run import FederatedRun
from infl.models.classifier import Classifier
from infl.models.phenotype.data import fused

OPTIONS = {
    "target": "label",
    "features": "union",
    "width": 8,
    "n_blocks": 1,
    "rounds": 3,
    "lock": None,
    "seal": "none",
    "progress": False,
}

pytestmark = pytest.mark.filterwarnings("ignore:seal='none'")


@pytest.fixture
def sites() -> dict[str, AnnData]:
    """Three sites of which the second lacks g1, g4 and g5."""
    rng = np.random.default_rng(0)
    centers = 2 * rng.normal(size=(3, 6))
    made = {}
    for i in range(3):
        y = np.arange(14 + i) % 3
        obs = pd.DataFrame({"label": np.array(list("abc"))[y]}, index=[f"{i}_{j}" for j in range(len(y))])
        x = (centers[y] + rng.normal(size=(len(y), 6))).astype(np.float32)
        made[f"site_{i + 1}"] = AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(6)]))
    made["site_2"] = made["site_2"][:, ["g3", "g0", "g2"]].copy()
    return made


def copies(sites: dict[str, AnnData]) -> dict[str, AnnData]:
    return {site: adata.copy() for site, adata in sites.items()}


def weights(run: FederatedRun) -> dict[str, torch.Tensor]:
    return run.model.effective(None)


def test_what_fills_the_gaps_makes_no_difference(sites: dict[str, AnnData]) -> None:
    """Sites that were united beforehand, with zeros or with nonsense in the gaps, and sites as they are."""
    runs = [infl.tl.fit_federated(copies(sites), **OPTIONS)]
    for filling in (0.0, 1e6):
        united = copies(sites)
        infl.pp.harmonise(united, features="union")
        united["site_2"].X[:, ~united["site_2"].var["infl_present"].to_numpy()] = filling
        runs.append(infl.tl.fit_federated(united, **OPTIONS))
    for other in runs[1:]:
        assert all(torch.equal(weights(other)[n], w) for n, w in weights(runs[0]).items())


def test_moments_count_what_was_measured(sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(copies(sites), validation=0.0, **OPTIONS)
    private = run.model.private_arrays(None)
    everywhere = pd.concat([a.to_df() for a in sites.values()])  # NaN where a site lacks a gene
    columns = list(run.model.header.panel["features"])
    np.testing.assert_allclose(private["center"], everywhere[columns].mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(private["scale"], everywhere[columns].std(), rtol=1e-4)
    np.testing.assert_array_equal(private["measured"], everywhere[columns].notna().sum())


def test_a_site_gives_no_gradient_to_what_it_lacks(sites: dict[str, AnnData]) -> None:
    task = Classifier(target="label", features="union", width=8, n_blocks=1, dropout=0.0)
    panel = task.agree(sites)
    data = task.read(sites["site_2"], panel, site="site_2", rng=np.random.default_rng(0))
    module = task.build(panel)
    task.loss(module, data.batch(data.train), None).backward()
    absent = ~np.isin(panel["features"], sites["site_2"].var_names)
    gradient = module.embed.weight.grad.numpy()
    assert absent.sum() == 3
    assert (gradient[:, absent] == 0).all()
    assert (np.abs(gradient[:, ~absent]).max(0) > 0).all()


def test_the_intersection_stays_the_default(sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(copies(sites), **{**OPTIONS, "features": "intersection"})
    assert set(run.model.header.panel["features"]) == {"g0", "g2", "g3"}


def test_predicting_takes_data_without_some_features_but_not_without_all(sites: dict[str, AnnData]) -> None:
    run = infl.tl.fit_federated(copies(sites), **OPTIONS)
    new = sites["site_1"][:, ["g5", "g3"]].copy()
    infl.tl.predict(new, run.model)
    assert np.isfinite(new.obsm["X_infl"]).all()
    none = AnnData(np.ones((2, 1), np.float32), var=pd.DataFrame(index=["other"]))
    with pytest.raises(DataError, match="the data has none of the model's 6 features"):
        infl.tl.predict(none, run.model)


@pytest.mark.parametrize("standardise", ["federated", "site", "sample", "none"])
def test_every_scaling_leaves_gaps_out(sites: dict[str, AnnData], standardise: str) -> None:
    task = Classifier(target="label", features="union", standardise=standardise)
    panel = task.agree(sites)
    data = task.read(sites["site_2"], panel, site="site_2", rng=np.random.default_rng(0))
    x, _ = data.batch(data.train)
    np.testing.assert_array_equal(x.isnan().all(0).numpy(), x.isnan().any(0).numpy())
    assert set(np.array(panel["features"])[x.isnan().any(0).numpy()]) == {"g1", "g4", "g5"}
    if standardise == "sample":
        np.testing.assert_allclose(np.nanmean(x.numpy(), 1), 0, atol=1e-5)


def test_a_site_without_a_shared_feature_is_refused(sites: dict[str, AnnData]) -> None:
    sites["site_2"].var_names = ["other_1", "other_2", "other_3"]
    with pytest.raises(DataError, match="site_2 has no feature in common with any other site"):
        infl.tl.fit_federated(sites, **OPTIONS)


@pytest.mark.parametrize("standardise", ["federated", "site", "rank", "sample"])
def test_constant_features_at_one_site_do_no_harm(sites: dict[str, AnnData], standardise: str) -> None:
    sites["site_1"].X[:, :2] = 3.0
    infl.tl.fit_federated(sites, standardise=standardise, **{**OPTIONS, "rounds": 20, "lr": 1e-2})
    assert np.isfinite(sites["site_1"].obsm["X_infl"]).all()
    assert sites["site_3"].obs["infl_prediction"].astype(str).eq(sites["site_3"].obs["label"]).mean() > 0.5


def test_a_modality_that_nobody_has_is_named() -> None:
    mdata = MuData({"rna": AnnData(np.ones((4, 2), np.float32))})
    mdata.obs["label"] = list("abab")
    with pytest.raises(DataError, match="site_1 has no modality 'atac': choose one of 'rna'"):
        infl.tl.fit_federated({"site_1": mdata}, **{**OPTIONS, "modality": "atac"})


@pytest.mark.data_dir
def test_a_site_without_a_modality_trains_the_others(breast: MuData) -> None:
    sites = infl.pp.split_sites(breast[breast.obs["published_split"] == "train"].copy(), 3, stratify="subtype")
    whole = sites["site_1"]
    sites["site_1"] = MuData({name: whole.mod[name].copy() for name in ("rna", "mirna")})
    sites["site_1"].obs["subtype"] = whole.obs["subtype"]
    options = {**OPTIONS, "target": "subtype", "features": "intersection", "rounds": 2}
    run = infl.tl.fit_federated(sites, **options)
    features = run.model.header.panel["features"]
    assert {name.split(":")[0] for name in features} == {"rna", "mirna", "protein"}
    private = run.model.private_arrays(None)
    is_protein = np.array([name.startswith("protein:") for name in features])
    n_without = private["n"] - private["measured"][is_protein].max()
    assert 0 < n_without <= sites["site_1"].n_obs
    assert private["measured"][~is_protein].min() == private["n"]
    assert sites["site_1"].obs["infl_prediction"].notna().all()
    x = fused(sites["site_1"])
    assert not any(name.startswith("protein:") for name in x.var_names)


def test_fused_has_gaps_where_an_observation_lacks_a_modality() -> None:
    def table(names: list[str], features: list[str], first: float) -> AnnData:
        x = first + np.arange(len(names) * len(features), dtype=np.float32).reshape(len(names), -1)
        return AnnData(x, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=features))

    mdata = MuData({"rna": table(["a", "b"], ["x", "y"], 0), "protein": table(["c", "b"], ["x"], 10)})
    joined = fused(mdata).to_df()
    expected = {"a": [0, 1, np.nan], "b": [2, 3, 11], "c": [np.nan, np.nan, 10]}
    for name, row in expected.items():
        np.testing.assert_array_equal(joined.loc[name, ["rna:x", "rna:y", "protein:x"]], row)
