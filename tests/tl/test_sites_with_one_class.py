"""Hospitals with one class, and with one or two observations: a warning, and everything takes them."""

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import infl
from infl.errors import DataError, InflWarning
from infl.privacy import DP
from infl.tl._compare import METHODS, OPTIONAL

SAID = "where class and site coincide, a model may learn the site"
FAST = {"target": "tumour_class", "rounds": 2, "progress": False}
BATCHES = {"1": (11, 0, 0), "2": (14, 4, 0), "3": (0, 4, 0), "4": (0, 0, 5), "5": (15, 0, 4)}
"""Cancers, normals and biopsies of 57 samples by batch: three of five batches have one class."""


def of_class(adata: AnnData, name: str, n: int | None = None) -> AnnData:
    return adata[adata.obs["tumour_class"] == name][:n].copy()


def bladder() -> AnnData:
    """Samples like those of the bladder cohort: a class adds to some genes, a batch to others."""
    rng = np.random.default_rng(0)
    rows = [(b, c) for b, sizes in BATCHES.items() for c, n in zip("cnb", sizes, strict=True) for _ in range(n)]
    obs = pd.DataFrame(rows, columns=["batch", "kind"], index=[f"sample_{i}" for i in range(len(rows))])
    of_kind, of_batch = (
        2 * rng.normal(size=(obs[name].nunique(), 200)) * (rng.random(200) < 0.3) for name in ("kind", "batch")
    )
    x = of_kind[obs["kind"].factorize()[0]] + of_batch[obs["batch"].factorize()[0]] + rng.normal(size=(len(obs), 200))
    return AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(200)]))


@pytest.fixture
def sites(khan_sites: dict[str, AnnData]) -> dict[str, AnnData]:
    """Five hospitals, every eighth gene: one with a single class, one with a single observation."""
    khan_sites = {site: adata[:, ::8].copy() for site, adata in khan_sites.items()}
    khan_sites["site_2"] = of_class(khan_sites["site_2"], "class_2")
    khan_sites["site_3"] = of_class(khan_sites["site_3"], "class_4", 1)
    return khan_sites


def test_a_cohort_by_batch_is_fitted_and_compared() -> None:
    adata = bladder()
    with pytest.warns(InflWarning, match=SAID) as said:
        run = infl.tl.fit_federated(adata, target="kind", site_key="batch", rounds=5, progress=False)
    [text] = [str(w.message) for w in said if SAID in str(w.message)]
    assert "'1 (c)', '3 (n)', '4 (b)'" in text and "holdout='site'" in text and "coordinate=" in text
    assert "\n" not in text
    assert run.model.header.panel["classes"] == ["b", "c", "n"]
    assert run.history["val_balanced_accuracy"].notna().all()
    assert adata.obs["infl_prediction"].notna().all()
    methods = [m for m in METHODS if "wrong" not in m]
    with pytest.warns(InflWarning):
        table = infl.tl.compare(
            adata, target="kind", site_key="batch", seeds=1, rounds=3, methods=methods, progress=False
        )
    assert set(table["method"]) == set(methods)
    assert table["mean"].notna().all()
    assert table.attrs["not_computed"] == {"1": ["auroc"], "3": ["auroc"], "4": ["auroc"]}
    assert "not computed: auroc at 1, 3, 4" in repr(table)


@pytest.mark.long
def test_every_method_takes_such_sites(sites: dict[str, AnnData]) -> None:
    with pytest.warns(InflWarning) as said:
        table = infl.tl.compare(sites, seeds=1, methods=[*METHODS, *OPTIONAL], **FAST)
    assert set(table["method"]) == {*METHODS, *OPTIONAL}
    assert table["mean"].notna().all() and table["worst_site"].notna().all()
    assert table.attrs["not_computed"] == {"site_2": ["auroc"], "site_3": all_metrics(table)}
    assert "auroc at site_2; anything at site_3" in repr(table)
    texts = [str(w.message) for w in said]
    for site in ("site_2", "site_3"):
        assert sum(f"'alone' is without {site}" in text for text in texts) == 1


def all_metrics(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["metric"]))


def test_a_site_with_one_class_is_left_out_in_its_turn(sites: dict[str, AnnData]) -> None:
    with pytest.warns(InflWarning):
        table = infl.tl.compare(sites, seeds=1, holdout="site", methods=["infl", "baseline"], **FAST)
    assert table["mean"].notna().all()
    values = pd.DataFrame(table.attrs["values"]).query("method == 'infl' and metric == 'balanced_accuracy'")
    assert set(values["site"]) == {"", *sites}
    assert table.attrs["not_computed"] == {"site_2": ["auroc"], "site_3": ["auroc"]}


def test_cases_at_one_hospital_and_controls_at_another(khan: AnnData) -> None:
    parts = {"cases": of_class(khan, "class_2"), "controls": of_class(khan, "class_3")}
    half = parts["cases"].n_obs // 2
    sites = {"a": parts["cases"][:half].copy(), "b": parts["cases"][half:].copy(), "c": parts["controls"]}
    with pytest.warns(InflWarning) as said:
        infl.tl.fit_federated(sites, **FAST)
    assert sum(SAID in str(w.message) for w in said) == 1
    for holdout in ("observations", "site"):
        with pytest.warns(InflWarning) as said:
            table = infl.tl.compare(sites, seeds=1, holdout=holdout, methods=["alone", "fedavg", "baseline"], **FAST)
        assert set(table["method"]) == {"fedavg", "baseline"}, "no site has a model of its own"
        assert sum("'alone' is without" in str(w.message) for w in said) >= 3
    with pytest.warns(InflWarning), pytest.raises(DataError, match="leave 'alone' out"):
        infl.tl.compare(sites, seeds=1, methods=["alone"], **FAST)


def test_a_single_class_everywhere_is_refused(khan: AnnData) -> None:
    adata = of_class(khan, "class_2")
    sites = infl.pp.split_sites(adata, 3)
    for f in (infl.tl.fit_federated, infl.tl.compare):
        with pytest.warns(InflWarning), pytest.raises(DataError, match="'class_2' is the only class") as error:
            f(sites, **FAST)
        assert "\n" not in str(error.value)
    assert all("infl" not in a.uns for a in sites.values())


@pytest.mark.parametrize(
    "options",
    [
        {"standardise": "site"},
        {"standardise": "rank", "width": 0},
        {"coordinate": 4},
        {"aggregation": "scaffold"},
        {"privacy": DP(epsilon=8.0, delta=1e-4, accountant="rdp"), "width": 8},
    ],
    ids=str,
)
def test_settings_that_use_a_sites_own_data(sites: dict[str, AnnData], options: dict[str, object]) -> None:
    with pytest.warns(InflWarning, match=SAID):
        infl.tl.fit_federated(sites, **FAST, **options)
    assert all(np.isfinite(a.obsm["X_infl"]).all() for a in sites.values())


def test_sums_over_sites_are_those_of_all_validation_parts(sites: dict[str, AnnData]) -> None:
    with pytest.warns(InflWarning, match=SAID):
        run = infl.tl.fit_federated(sites, calibrate=False, **FAST)
    by_site = infl.tl.site_metrics(run, sites)
    assert by_site.loc["site_3", "n_judged"] == 0 and np.isnan(by_site.loc["site_3", "accuracy"])
    assert by_site.loc["site_2", "n_judged"] > 0 and np.isfinite(by_site.loc["site_2", "balanced_accuracy"])
    judged = by_site[by_site["n_judged"] > 0]
    pooled = np.average(judged["accuracy"], weights=judged["n_judged"])
    best = run.history[run.history["best"]].iloc[0]
    assert np.isclose(pooled, best["val_accuracy"])


def test_a_site_with_one_class_keeps_the_global_model(sites: dict[str, AnnData]) -> None:
    with pytest.warns(InflWarning, match=SAID):
        run = infl.tl.fit_federated(sites, **FAST)
    own = infl.tl.personalise(run, sites, key=run.key, epochs=3)
    table = own.table.set_index("site")
    assert table.loc["site_2", "epochs"] == 0 and table.loc["site_2", "note"].startswith("one class only")
    assert table.loc["site_3", "epochs"] == 0 and table.loc["site_3", "note"].startswith("no validation data")
    assert (table.drop(index=["site_2", "site_3"])["note"] == "").all()
    kept, shared = (m.module(run.key).state_dict() for m in (own.models["site_2"], run.model))
    assert all(np.allclose(kept[name], shared[name], atol=1e-5) for name in shared)


def test_such_sites_can_be_audited(sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"N_REPEATS": 1, "STEPS": 5, "RESTARTS": 1}.items():
        monkeypatch.setattr(f"infl.attacks.gradient_inversion.{name}", value)
    with pytest.warns(InflWarning, match=SAID):
        run = infl.tl.fit_federated(sites, width=8, **FAST)
    table = infl.tl.audit(run, sites, attacks=["gradient_inversion", "analytic_leak", "wrong_key"], progress=False)
    assert table["value"].notna().all()


def test_one_observation_at_each_of_many_sites(khan: AnnData) -> None:
    sites = {f"s{i}": khan[[7 * i]].copy() for i in range(12)}
    with pytest.warns(InflWarning):
        run = infl.tl.fit_federated(sites, **FAST)
    assert run.history["val_loss"].isna().all()
    assert all(a.obs["infl_prediction"].notna().all() for a in sites.values())


def test_preprocessing_takes_a_single_observation(sites: dict[str, AnnData]) -> None:
    with pytest.warns(InflWarning, match=SAID):
        panel = infl.pp.harmonise(sites, target="tumour_class")
    assert panel.classes == ("class_1", "class_2", "class_3", "class_4") and panel.n_obs["site_3"] == 1
    for a in sites.values():
        a.X = a.X - a.X.min()
    infl.pp.normalize_total(sites, target_sum=1e4)
    infl.pp.scale(sites)
    infl.pp.pca(sites, n_comps=3)
    assert np.isfinite(sites["site_3"].obsm["X_pca"]).all()


def test_no_warning_where_all_sites_have_several_classes(khan_sites: dict[str, AnnData]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", InflWarning)
        infl.pp.panel_of(khan_sites, target="tumour_class")


@pytest.mark.data_dir
def test_studies_that_have_one_kind_of_cell() -> None:
    adata = infl.datasets.stemcells()
    sites = infl.pp.split_sites(adata, by="study")
    first, second, *_ = sites
    for name, kind in ((first, 0), (second, 1)):
        kinds = sorted(adata.obs["cell_type"].astype(str).unique())
        sites[name] = sites[name][(sites[name].obs["cell_type"] == kinds[kind]).to_numpy()].copy()
    with pytest.warns(InflWarning, match=SAID):
        infl.tl.fit_federated(sites, target="cell_type", rounds=2, progress=False)
    for holdout in ("observations", "site"):
        with pytest.warns(InflWarning):
            table = infl.tl.compare(
                sites, target="cell_type", seeds=1, rounds=2, holdout=holdout, progress=False, methods=["infl", "alone"]
            )
        assert table["mean"].notna().all()
