"""Perturbation regression: sums, the stack, the network, and what users get wrong."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from tests.models.perturbation.conftest import fit
from tests.models.perturbation.screen import CONDITIONS, GRAPH, cells, effect_of

import infl
from infl.errors import DataError, InflWarning, SettingsError
from infl.models.perturbation import Perturbation
from infl.models.perturbation.scoring import effect_metrics
from infl.sums.share import share_moments


def test_effects_are_those_within_sites_weighted_by_cells(sites):
    run = fit(sites, rounds=1)
    private = run.model.private_arrays(run.key)
    row = run.model.header.panel["conditions"].index("G3")
    parts, n = [], []
    for adata in sites.values():
        of = {name: adata.X[(adata.obs["perturbation"] == name).to_numpy()].astype(float) for name in ("G3", "control")}
        parts.append(of["G3"].mean(0) - of["control"].mean(0))
        n.append(len(of["G3"]))
    np.testing.assert_allclose(private["delta"][row], np.average(parts, axis=0, weights=n), atol=1e-5)
    assert private["n"][row] == sum(n)


def test_an_unseen_gene_is_predicted_from_its_neighbours_and_its_own_loss(sites):
    run = fit(sites)
    predicted = infl.tl.predict_perturbations(run.model, ["G2", "G5"], key=run.key)
    assert not predicted.obs["seen"].any()
    for gene, row in zip(("G2", "G5"), predicted.X, strict=True):
        metrics = effect_metrics(row, effect_of([gene]))
        assert metrics["pearson_delta"] > 0.8, gene
    blind = fit(sites, graph=())
    without = infl.tl.predict_perturbations(blind.model, ["G2"], key=blind.key).X[0]
    truth = effect_of(["G2"])
    assert effect_metrics(predicted.X[0], truth)["mse"] < effect_metrics(without, truth)["mse"] < (truth**2).mean()


def test_locked_and_sealed_equals_neither(sites):
    locked = fit(sites)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        open_ = fit(sites, lock=None, seal="none")
    a = infl.tl.predict_perturbations(locked.model, ["G2", "G7", "G1"], key=locked.key).X
    b = infl.tl.predict_perturbations(open_.model, ["G2", "G7", "G1"]).X
    np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())


def test_no_key_and_a_wrong_key_tell_nothing(sites):
    run = fit(sites)
    genes = ["G0", "G1", "G2", "G3", "G4", "G5"]
    truth = np.array([effect_of([gene]) for gene in genes])

    def value(key):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InflWarning)
            guess = infl.tl.predict_perturbations(run.model, genes, key=key, verify=key is run.key).X
        return np.mean([effect_metrics(g, t)["pearson_delta"] for g, t in zip(guess, truth, strict=True)])

    assert value(run.key) > 0.9
    assert abs(np.mean([value(infl.keys.Keyring.create()) for _ in range(10)])) < 0.3
    assert value(None) < 0.4
    with pytest.raises(infl.errors.KeyringError):
        infl.tl.predict_perturbations(run.model, genes, key=infl.keys.Keyring.create())


def test_results_are_written_and_survive_a_file(sites, tmp_path):
    fit(sites)
    adata = sites["site_1"]
    assert list(adata.varm["infl_effect"].columns) == CONDITIONS
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_allclose(np.asarray(back.varm["infl_effect"]), np.asarray(adata.varm["infl_effect"]))


def test_counts_are_normalised_on_request():
    rng = np.random.default_rng(0)
    sites = {}
    for i in range(3):
        adata = cells(i, CONDITIONS)
        adata.X = rng.poisson(np.expm1(adata.X)).astype(np.float32)
        sites[f"site_{i}"] = adata
    with pytest.raises(DataError, match="raw counts in X: run infl.pp.normalize_total"):
        fit(sites)
    run = fit(sites, target_sum=100.0)
    assert run.model.private_arrays(run.key)["control"].max() < np.log1p(100)
    sites["site_2"].X[7] = 0
    with pytest.raises(DataError, match="site_2 has 1 cells without a count"):
        fit(sites, target_sum=100.0)


def test_compare_knows_the_task(sites):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        table = infl.tl.compare(
            sites,
            "perturbation",
            seeds=1,
            rounds=2,
            methods=["infl", "pooled", "baseline"],
            progress=False,
            graph=GRAPH,
        )
    value = table[table["metric"] == "pearson_delta"].set_index("method")["mean"]
    assert abs(value["infl"] - value["pooled"]) < 0.05
    assert (
        abs(value["infl"] - value["baseline"]) < 0.05
    )  # the effect in training is all that there is to know of a seen one


def test_baseline_is_the_own_training_effect_of_a_seen_condition_and_the_mean_of_others(sites):
    task = infl.models.Perturbation(graph=GRAPH)
    panel = task.agree(sites)
    together = ad.concat(list(sites.values()), index_unique="-")
    train = together[together.obs["perturbation"] != "G6"].copy()
    found = task.baseline(train, panel, seed=0)(together)
    effects = dict(zip(found["conditions"], found["effects"], strict=True))
    x, labels = train.X, train.obs["perturbation"].to_numpy()
    np.testing.assert_allclose(effects["G0"], x[labels == "G0"].mean(0) - x[labels == "control"].mean(0), atol=1e-4)
    np.testing.assert_allclose(effects["G6"], np.mean([effects[c] for c in CONDITIONS if c != "G6"], axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda s: s["site_1"].obs.pop("perturbation"),
            {},
            "site_1 has no obs column 'perturbation'",
        ),
        (
            lambda s: s["site_2"].obs.replace("control", "NT", inplace=True),
            {},
            "site_2 has no control cells.*control='NT'",
        ),
        (lambda s: s.update(site_0=cells(0, [])), {}, None),
        (lambda s: s.update({n: cells(i, []) for i, n in enumerate(s)}), {}, "there is no perturbation to learn from"),
        (lambda s: None, {"graph": [("ENSG1", "ENSG2")]}, "graph= has no gene of the data"),
        (lambda s: None, {"graph": ["G0"] * 3 + [("A",)]}, "edges of two genes"),
        (lambda s: None, {"graph": [("G0", "G1", 1), ("G0", "G2", np.nan)]}, "edge 2 of graph= has no finite weight"),
        (lambda s: None, {"graph": [("G0", "G1", {"weight": np.inf})]}, "edge 1 of graph= has no finite weight"),
        (lambda s: None, {"graph": [("G0", "G1", "strong")]}, "edge 1 of graph= has no finite weight"),
        (lambda s: None, {"graph": pd.DataFrame({"a": ["G0"], "b": [None]})}, "edge 1 of graph= lacks a gene"),
        (lambda s: None, {"graph": [("G0", pd.NA)]}, "edge 1 of graph= lacks a gene"),
        (lambda s: None, {"graph": {"G0": ["G1"]}}, "edges of two genes.*not dict"),
        (lambda s: None, {"graph": ["AB", "CD"]}, "edges of two genes.*edge 1 is 'AB'"),
        (lambda s: None, {"validation": 1.5}, "validation=1.5"),
        (lambda s: setattr(s["site_0"], "X", s["site_0"].X - 3), {}, "site_0 has scaled values"),
        (lambda s: None, {"target_sum": 1e4}, "logarithms in X where counts are due"),
    ],
)
def test_bad_input_is_one_line(sites, change, options, message):
    change(sites)
    if message is None:
        fit(sites, **options)
        return
    before = {name: list(adata.varm) for name, adata in sites.items()}
    with pytest.raises((DataError, SettingsError), match=message) as error:
        fit(sites, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert {name: list(adata.varm) for name, adata in sites.items()} == before


def test_a_condition_at_one_site_and_a_strange_gene_are_warned_of(sites):
    sites["site_0"] = ad.concat([sites["site_0"], (c := cells(9, ["G7"]))[c.obs["perturbation"] == "G7"]])
    with pytest.warns(InflWarning, match=r"1 perturbations are at one site only \(G7 at site_0\)"):
        run = infl.tl.fit_federated(sites, model="perturbation", rounds=1, progress=False)
    with pytest.warns(InflWarning, match="nothing is known of 'TP53'"):
        infl.tl.predict_perturbations(run.model, ["TP53"], key=run.key)
    with pytest.raises(SettingsError, match="takes a list"):
        infl.tl.predict_perturbations(run.model, "G0", key=run.key)


def test_more_genes_than_a_covariance_allows_leaves_its_members_out(sites, monkeypatch):
    monkeypatch.setattr("infl.models.perturbation.data.MAX_COVARIANCE", 5)
    run = fit(sites)
    assert "covariance" not in run.model.private_arrays(run.key)
    assert np.isfinite(infl.tl.predict_perturbations(run.model, ["G2"], key=run.key).X).all()


def test_the_network_counts_for_what_it_surely_adds():
    def share(gains, rooms):
        moments = share_moments(gains, rooms)[None]
        helps = Perturbation().after({"features": [], "conditions": []})[0]
        return float(helps.combine({"moments": moments}, {})["share"])

    assert share([0.5, 0.5, 0.5], [1, 1, 1]) == pytest.approx(0.5)  # as much everywhere: no doubt
    assert share([1.5, 0.0, 0.0], [1, 1, 1]) < 0.1  # the same in the mean, from one condition
    assert share([-1, -1, -1], [1, 1, 1]) == 0 == share([0, 0], [0, 0])
    assert share([2, 2, 2], [1, 1, 1]) == 1


def test_held_out_conditions_do_not_train_the_network(sites):
    run = fit(sites, validation=0.4)
    panel = run.model.header.panel
    assert len(panel["held"]) == 2
    net = run.model.module(run.key)
    trained = {panel["nodes"][i] for i in torch.nonzero(net.seen).ravel().tolist()}
    assert trained == set(CONDITIONS) - set(panel["held"])
    assert 0 <= float(run.model.private_arrays(run.key)["share"]) <= 1


def test_counts_under_a_flag_left_over_are_counts(sites):
    for adata in sites.values():
        adata.X = np.rint(np.expm1(adata.X) + 1)
        adata.uns["log1p"] = {"base": None}
    with pytest.raises(DataError, match="has raw counts in X"):
        infl.tl.fit_federated(sites, model="perturbation", rounds=1, progress=False)
    run = infl.tl.fit_federated(sites, model="perturbation", target_sum=1e3, rounds=1, progress=False)
    query = next(iter(sites.values())).copy()
    query.X = np.log1p(query.X)
    with pytest.raises(DataError, match="has logarithms in X where counts are due"):
        infl.tl.predict(query, run)
    effects = infl.tl.predict_perturbations(run, run.model.header.panel["conditions"][:1])
    assert effects.uns["infl"]["opened_with_key"]


def test_edges_with_data_are_taken():
    class Graph:
        """As networkx has it."""

        def edges(self, data):
            return [("A", "B", {"weight": 0.5, "source": "x"}), ("B", "C", {})]

    for graph in (Graph(), Graph().edges(data=True), [("A", "B", 0.5), ("B", "C"), ("A", "C", 0)]):
        assert infl.models.Perturbation(graph=graph).graph == (("A", "B", 0.5), ("B", "C"))
    assert infl.models.Perturbation(graph=None).graph == ()
