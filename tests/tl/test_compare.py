"""Comparing methods: what is held out, what a site left out sees, and how the worst site is told."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from threadpoolctl import threadpool_limits

import infl
from infl.errors import InflWarning, SettingsError
from infl.federation.settings import RunSettings
from infl.tl._fold import Fold

FAST = {"target": "tumour_class", "rounds": 2, "seeds": 2, "progress": False}


@pytest.fixture
def khan_sites(khan_sites: dict[str, AnnData]) -> dict[str, AnnData]:
    """Every eighth gene: who is judged on what does not hang on their number."""
    return {site: adata[:, ::8].copy() for site, adata in khan_sites.items()}


def test_a_site_left_out_is_judged_by_a_model_of_the_others(khan_sites: dict[str, AnnData]) -> None:
    table = infl.tl.compare(khan_sites, methods=["baseline"], holdout="site", **FAST)
    values = pd.DataFrame(table.attrs["values"]).query("metric == 'balanced_accuracy'")
    at = values[values["site"] != ""].set_index(["seed", "site"])["value"]
    assert sorted(at.index.unique("site")) == sorted(khan_sites)
    others = {site: a for site, a in khan_sites.items() if site != "site_2"}
    task = infl.models.Classifier(target="tumour_class")
    panel = task.agree(khan_sites)
    import anndata

    outputs = task.baseline(anndata.concat(others.values()), panel, seed=1)(khan_sites["site_2"])
    assert at[1, "site_2"] == task.score(khan_sites["site_2"], outputs, panel)["balanced_accuracy"]
    row = table.set_index("metric").loc["balanced_accuracy"]
    assert np.isclose(row["mean"], at.mean())
    assert np.isclose(row["worst_site"], at.groupby("seed").min().mean())
    assert row["worst_site"] <= row["mean"]


def test_a_site_alone_is_told_by_its_own_observations(khan_sites: dict[str, AnnData]) -> None:
    table = infl.tl.compare(khan_sites, methods=["alone", "fedavg"], **FAST)
    values = pd.DataFrame(table.attrs["values"])
    assert set(values["site"]) == {"", *khan_sites}
    assert len(values) == 2 * 2 * 6 * 5  # methods, seeds, five sites and all, metrics
    assert {"method", "metric", "mean", "sd", "worst_site", "n_seeds", "seconds"} == set(table)


def test_a_pooled_fit_is_judged_on_the_records_that_the_sites_held_back(khan_sites: dict[str, AnnData]) -> None:
    """With one step per round nothing is left that federated and pooled fits could differ in."""
    for adata in khan_sites.values():
        adata.obs["first"] = adata.X[:, 0].astype(float)
    options = {
        "target": "first",
        "methods": ["fedavg", "pooled"],
        "seeds": 2,
        "batch_size": 1000,
        "min_steps": 1,
        "rounds": 8,
    }
    table = infl.tl.compare(khan_sites, "regressor", progress=False, **options)
    by_method = table.pivot(index="metric", columns="method", values="mean")
    np.testing.assert_allclose(by_method["fedavg"], by_method["pooled"], rtol=1e-4)


def values_of(table: pd.DataFrame, metric: str = "balanced_accuracy") -> pd.DataFrame:
    values = pd.DataFrame(table.attrs["values"]).query("metric == @metric")
    return values.set_index(["method", "seed", "site"])["value"]


def test_a_site_alone_is_judged_on_its_own_and_on_others_patients(khan_sites: dict[str, AnnData]) -> None:
    methods = ["alone", "alone_own", "alone_others"]
    options = FAST | {"methods": methods, "seeds": [0]}
    values = values_of(infl.tl.compare(khan_sites, **options))
    own = [values["alone", 0, site] for site in khan_sites]  # of a site, "alone" is on its own patients
    assert values["alone_own", 0, ""] == pytest.approx(np.mean(own))
    assert [values["alone_own", 0, site] for site in khan_sites] == own
    others = [values["alone_others", 0, site] for site in khan_sites]
    assert values["alone_others", 0, ""] == pytest.approx(np.mean(others))
    assert others != own


def test_others_patients_are_those_of_the_other_sites() -> None:
    """By hand: models of a and b, judged at a, b and c."""
    bench = object.__new__(Fold)
    bench.test = {"a": None, "b": None, "c": None}
    at = {"a": {"a": 0.9, "b": 0.5, "c": 0.3}, "b": {"a": 0.2, "b": 0.8, "c": 0.6}}
    bench.by_themselves = {m: ({"acc": 0.0}, {s: {"acc": v} for s, v in row.items()}) for m, row in at.items()}
    together, by_model = bench.measure("alone_others")
    assert by_model == {"a": {"acc": pytest.approx(0.4)}, "b": {"acc": pytest.approx(0.4)}}
    assert together == {"acc": pytest.approx(0.4)}
    together, by_site = bench.measure("alone_own")
    assert (together, by_site) == ({"acc": pytest.approx(0.85)}, {"a": {"acc": 0.9}, "b": {"acc": 0.8}})


def test_no_own_patients_of_a_site_left_out(khan_sites: dict[str, AnnData]) -> None:
    three = dict(list(khan_sites.items())[:3])
    options = FAST | {"methods": ["alone_own", "alone_others"], "seeds": [0], "holdout": "site"}
    assert set(infl.tl.compare(three, **options)["method"]) == {"alone_others"}


def test_keys_come_from_their_seed(khan_sites: dict[str, AnnData]) -> None:
    methods = ["published", "published_wrong_key", "infl_wrong_key"]
    options = FAST | {"methods": methods, "seeds": [0]}
    one, again, other = (
        values_of(infl.tl.compare(khan_sites, key_seed=k, **options), "calibration_error") for k in (0, 0, 1)
    )
    pd.testing.assert_series_equal(one, again)
    assert (one.xs("", level="site") != other.xs("", level="site")).all()


def test_the_published_method_is_fitted_as_it_prescribes(
    khan_sites: dict[str, AnnData], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its own strength whatever ours is, with as many epochs as we have, or with its own."""
    fitted = []
    real = Fold._fit

    def spied(self, tables, lock, seal, settings=None):
        fitted.append((lock, (settings or self.settings).strength, (settings or self.settings).local_epochs))
        return real(self, tables, lock, seal, settings)

    monkeypatch.setattr(Fold, "_fit", spied)
    monkeypatch.setattr("infl.tl._fold.LOCAL_EPOCHS", {"classification": 3})
    methods = ["infl", "published", "published_own_epochs", "published_own_epochs_wrong_key"]
    options = FAST | {"methods": methods, "seeds": [0], "rounds": 1, "local_epochs": 2}
    infl.tl.compare(khan_sites, strength=0.5, **options)
    assert fitted == [("field", 0.5, 2), ("published", 1.0, 2), ("published", 1.0, 3)]


@pytest.mark.parametrize(("task", "k"), [("classifier", 20), ("perturbation", 5), ("spatial", 1), ("mosaic", 1)])
def test_published_strength_by_task(task: str, k: float, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = object.__new__(Fold)
    bench.task, bench.settings, bench.train = SimpleNamespace(name=task), RunSettings(strength=0.3), {}
    monkeypatch.setattr(Fold, "_fit", lambda self, tables, lock, seal, settings: settings)
    assert bench._fit_locked("published").strength * 20 == pytest.approx(k)
    assert bench._fit_locked("published_own_epochs").local_epochs == {20: 50, 5: 2}.get(k, 1)
    assert bench._fit_locked("infl").strength == 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"holdout": "hospital"}, "holdout='hospital': give one of 'observations', 'site'"),
        ({"holdout": "site"}, "needs at least 3 sites; there are 2"),
        ({"split": "sites"}, "has no option 'split': did you mean 'holdout'?"),
    ],
)
def test_what_cannot_be_held_out(khan_sites: dict[str, AnnData], options: dict[str, str], said: str) -> None:
    two = {site: khan_sites[site] for site in ("site_1", "site_2")}
    with pytest.raises(SettingsError, match=said):
        infl.tl.compare(two, **FAST, **options)


def test_seeds_in_processes_of_their_own_give_the_same_table(khan_sites: dict[str, AnnData]) -> None:
    one, two = (infl.tl.compare(khan_sites, n_jobs=n, methods=["fedavg", "baseline"], **FAST) for n in (1, 2))
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"), rtol=1e-4)
    records = [[{k: v for k, v in r.items() if k != "value"} for r in t.attrs["values"]] for t in (one, two)]
    assert records[0] == records[1]


def test_figures_do_not_depend_on_the_number_of_threads(khan_sites: dict[str, AnnData]) -> None:
    found = []
    for n in (1, 2):
        with threadpool_limits(n):
            table = infl.tl.compare(khan_sites, methods=["fedavg", "baseline"], **FAST)
        found.append([record["value"] for record in table.attrs["values"]])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    "seeds",
    [np.array([3, 4]), range(3, 5), (np.int64(3), np.int32(4)), iter([3, 4])],
    ids=["array", "range", "tuple", "iterator"],
)
def test_seeds_of_any_kind_of_sequence(khan_sites: dict[str, AnnData], seeds: object) -> None:
    options = FAST | {"methods": ["baseline"]}
    table = infl.tl.compare(khan_sites, **(options | {"seeds": seeds}))
    assert {type(r["seed"]) for r in table.attrs["values"]} == {int}
    assert {r["seed"] for r in table.attrs["values"]} == {3, 4}


@pytest.mark.parametrize("seeds", [np.int64(1), np.array(1)], ids=repr)
def test_number_of_seeds_of_any_kind(khan_sites: dict[str, AnnData], seeds: object) -> None:
    table = infl.tl.compare(khan_sites, **(FAST | {"methods": ["baseline"], "seeds": seeds}))
    assert {r["seed"] for r in table.attrs["values"]} == {0}


@pytest.mark.parametrize("seeds", ["0", [0.5], 1.5, None])
def test_what_is_no_seed(khan_sites: dict[str, AnnData], seeds: object) -> None:
    with pytest.raises(
        SettingsError,
        match=r"^seeds=.*: give how many \(at least 1\), or at least one whole number from 0, each of them once$",
    ):
        infl.tl.compare(khan_sites, **(FAST | {"seeds": seeds}))


def test_hospitals_may_have_the_same_barcodes(khan_sites: dict[str, AnnData]) -> None:
    from mudata import MuData

    tables = {}
    for same in (False, True):
        sites = {}
        for name, adata in list(khan_sites.items())[:3]:
            parts = {"rna": adata[:, :30].copy(), "protein": adata[:, 30:50].copy()}
            parts["protein"].var_names = "p_" + parts["protein"].var_names
            barcodes = [f"AAAC{i}-1" if same else f"{name}_{i}" for i in range(adata.n_obs)]
            for part in parts.values():
                part.obs_names = barcodes
            sites[name] = MuData(parts)
            sites[name].obs["tumour_class"] = adata.obs["tumour_class"].to_numpy()
        tables[same] = infl.tl.compare(
            sites, target="tumour_class", rounds=1, seeds=[0], methods=["pooled", "baseline"], progress=False
        )
    assert (
        tables[True]
        .drop(columns="seconds", errors="ignore")
        .equals(tables[False].drop(columns="seconds", errors="ignore"))
    )


def test_what_every_fit_warns_of_is_said_once(khan_sites: dict[str, AnnData], capsys: pytest.CaptureFixture) -> None:
    some = khan_sites["site_1"]
    some.obs["tumour_class"] = some.obs["tumour_class"].astype(str)
    some.obs.loc[some.obs_names[:4], "tumour_class"] = "rare"
    options = {"target": "tumour_class", "rounds": 1, "progress": False}
    with pytest.warns(InflWarning, match="one site alone has"):
        infl.tl.compare(khan_sites, methods=["fedavg", "infl"], seeds=2, **options)
    assert capsys.readouterr().err.count("class 'rare': one site alone has it") == 1
    with pytest.warns(InflWarning, match="one site alone has"):
        infl.tl.tune(khan_sites, space={"lr": [1e-3, 1e-2]}, **(options | {"rounds": 2}))
    assert capsys.readouterr().err.count("class 'rare': one site alone has it") == 1
    with pytest.warns(InflWarning, match="one site alone has"):
        infl.tl.fit_federated(khan_sites, **options)
    assert "class 'rare': one site alone has it" in capsys.readouterr().err
