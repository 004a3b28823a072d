"""Comparing methods: what is held out, what a site left out sees, and how the worst site is told."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from threadpoolctl import threadpool_limits

import infl
from infl.errors import SettingsError

FAST = {"target": "tumour_class", "rounds": 2, "seeds": 2, "progress": False}


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"holdout": "hospital"}, "holdout='hospital': give one of 'observations', 'site'"),
        ({"holdout": "site"}, "needs at least 3 sites; there are 2"),
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
