"""A fit that begins with a model: its weights, its record, and what it cannot begin with."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from anndata import AnnData
from tests.tl.conftest import cohort, fit, refused

import infl
from infl.errors import InflWarning
from infl.federation.agreement import Agreement
from infl.federation.replica import Replica
from infl.models.carried import check_carried
from infl.models.locked import lock_model

STILL = {"optimiser": "sgd", "lr": 1e-20, "weight_decay": 0.0}
"""Of a fit that moves no weight, so that its model is what it began with."""


def warm(sites, init, **options):
    return infl.tl.fit_federated(sites, init=init, **{"rounds": 1, "progress": False} | options)


def measured(sites: dict[str, AnnData]) -> dict[str, AnnData]:
    for adata in sites.values():
        adata.obs["age"] = 3.0 * adata.X[:, 0] + adata.X[:, 1]
        adata.obs["months"], adata.obs["died"] = 1 + np.arange(adata.n_obs) % 17, np.arange(adata.n_obs) % 3 > 0
    return sites


def wider(sites: dict[str, AnnData]) -> dict[str, AnnData]:
    """The same with two features more, in another order."""
    import anndata

    found = {}
    for site, adata in sites.items():
        more = AnnData(adata.X[:, :2] + 1, obs=adata.obs[[]], var={"name": ["h0", "h1"]})
        more.var_names = more.var.pop("name")
        both = anndata.concat([more, adata[:, ::-1]], axis=1)
        both.obs = adata.obs.copy()
        found[site] = both
    return found


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("classifier", {"target": "label"}),
        ("regressor", {"target": "age"}),
        ("survival", {"time": "months", "event": "died", "proportional": False}),
        ("classifier", {"target": "label", "width": 0}),
    ],
)
def test_a_fit_begins_with_the_weights_of_the_model(model, options) -> None:
    sites = measured(cohort())
    known = {"width": 8, "n_blocks": 1} | options
    run = infl.tl.fit_federated(sites, model, rounds=2, progress=False, **known)
    before = run.model.effective(run.key)
    same = warm(sites, run, **STILL)
    for name, weight in same.model.effective(run.key).items():
        assert torch.allclose(weight, before[name], atol=1e-5), name
    assert same.model.header.options["width"] == known["width"] and same.model.header.task == model
    more = warm(wider(cohort() if model == "classifier" else measured(cohort())), run, **STILL)
    first = "embed.weight" if known["width"] else "head.weight"
    features = more.model.header.panel["features"]
    weights = dict(zip(features, more.model.effective(run.key)[first].T, strict=True))
    old = dict(zip(run.model.header.panel["features"], before[first].T, strict=True))
    assert {*features} - {*old} == {"h0", "h1"}
    assert all(torch.allclose(weights[name], old.get(name, torch.zeros(())), atol=1e-5) for name in features)


def test_steps_may_be_others_and_those_of_one_rule_are_not_taken_for_another() -> None:
    sites = measured(cohort())
    run = infl.tl.fit_federated(sites, "regressor", target="age", rounds=2, progress=False)
    assert run.model.header.options["lr"] == 1.0
    assert warm(sites, run, min_steps=1).model.header.options["min_steps"] == 1
    options = warm(sites, run, optimiser="adamw").model.header.options
    assert (options["lr"], options["weight_decay"], options["min_steps"]) == (1e-3, 1e-4, 1)
    assert warm(sites, run, optimiser="adamw", lr=0.01).model.header.options["lr"] == 0.01
    assert warm(sites, run, optimiser="sgd").model.header.options["lr"] == 1.0


def test_a_warm_fit_does_not_begin_at_the_beginning() -> None:
    cold, long = (fit(cohort(), rounds=rounds, lr=0.01) for rounds in (1, 6))
    begun = warm(cohort(), long)
    assert begun.history["val_loss"].iloc[0] < 0.6 * cold.history["val_loss"].iloc[0]


def test_new_classes_and_sites_come_in(run) -> None:
    sites = cohort()
    sites["site_4"] = sites.pop("site_1")
    for site in ("site_3", "site_4"):
        sites[site].obs.loc[sites[site].obs_names[:20], "label"] = "c"
    begun = warm(sites, run.model, key=run.key, **STILL)
    assert begun.model.header.panel["classes"] == ["a", "b", "c"] and "site_4" in begun.model.header.sites
    head, old = begun.model.effective(run.key)["head.weight"], run.model.effective(run.key)["head.weight"]
    assert torch.allclose(head[:2], old, atol=1e-5) and head[2].abs().min() > 0


def test_the_record_says_where_a_model_came_from(run, tmp_path) -> None:
    sites, digest = cohort(), run.model.header.digest
    path = run.save(tmp_path / "before.infl.safetensors")
    begun = warm(sites, path, key=run.key)
    assert begun.settings["init"] == begun.model.header.init == digest
    assert sites["site_1"].uns["infl"]["settings"]["init"] == digest
    assert f"began with: model {digest[:16]}" in begun.summary() and "began with" not in run.summary()
    again = infl.load_model(begun.save(tmp_path / "after.infl.safetensors"))
    assert again.header.init == digest and "before" not in json.dumps(again.header.facts())
    assert (
        "init" not in run.model.header.facts()
        and '"init"'
        not in Agreement.new(run.model.header.build_task(), run.model.header.panel, sites, run.key).to_json()
    )  # runs and files without it are as they were


def test_tensors_that_do_not_move_keep_their_salts(run) -> None:
    still, moved = warm(cohort(), run, **STILL), warm(cohort(), run)
    assert still.model.header.salts == run.model.header.salts
    for name, stored in still.model.stored.items():
        assert torch.allclose(stored, run.model.stored[name], atol=1e-5), name
    assert not {*moved.model.header.salts.values()} & {*run.model.header.salts.values()}


def test_the_key_that_opens_it(run) -> None:
    assert warm(cohort(), run).key is run.key
    assert "init= is locked with key" in refused(warm, cohort(), run.model)
    other = infl.keys.Keyring.create()
    assert "key" in refused(lambda: warm(cohort(), run.model, key=other))
    under_other = warm(cohort(), run, key=other, **STILL)  # a run opens itself; the new one has its own ring
    assert under_other.key is other and under_other.model.header.fingerprint == other.fingerprint()
    h = run.model.header
    for name, weight in under_other.model.effective(other).items():
        assert torch.allclose(weight, run.model.effective(run.key)[name], atol=1e-5)
    unlocked = lock_model(
        replace(h, lock="none", strength=0.0, key_version=0, fingerprint=""),
        run.model.effective(run.key),
        run.model.private_arrays(run.key),
        None,
    )
    with pytest.warns(InflWarning, match="seal='none'"):
        assert warm(cohort(), unlocked, lock=None, seal="none", **STILL).model.header.lock == "none"


def test_a_rotated_ring_goes_on_under_its_new_version() -> None:
    ring = infl.keys.Keyring.create()
    run = fit(cohort(), key=ring)
    ring.rotate()
    begun = warm(cohort(), run.model, key=ring)
    assert (run.model.header.key_version, begun.model.header.key_version) == (1, 2)


def renamed(sites: dict[str, AnnData]) -> dict[str, AnnData]:
    for adata in sites.values():
        adata.var_names = [f"ENSG{i}" for i in range(adata.n_vars)]
    return sites


def relabelled(sites: dict[str, AnnData]) -> dict[str, AnnData]:
    for adata in sites.values():
        adata.obs["label"] = adata.obs["label"].map({"a": "A", "b": "B"})
    return sites


@pytest.mark.parametrize(
    ("sites", "options", "said"),
    [
        (
            cohort,
            {"model": "survival", "time": "t", "event": "e"},
            "init= is a model of 'classifier', and 'survival' is fitted",
        ),
        (cohort, {"target": ["label"]}, "init= is a model of 'classifier', and 'labels' is fitted"),
        (cohort, {"width": 16}, "init= was fitted with width=8, and this fit has width=16: leave width= out"),
        (cohort, {"layer": "log"}, "init= was fitted with layer=None, and this fit has layer='log'"),
        (cohort, {"model": infl.models.Classifier(target="label")}, "init= was fitted with width=8"),
        (lambda: cohort("counts"), {}, "the sites have raw counts, and init= was fitted on logarithms"),
        (
            lambda: renamed(cohort()),
            {},
            "features of init=, such as 'g0', and of the sites, such as 'ENSG0', have no name in common",
        ),
        (
            lambda: relabelled(cohort()),
            {},
            "classes of init=, such as 'a', and of the sites, such as 'A', have no name in common",
        ),
        (
            cohort,
            {"lock": None},
            "init= is locked, and lock=None would leave what it learned in the clear",
        ),
        (cohort, {"lock": "published"}, "init= goes with lock='field'"),
        (cohort, {"aggregation": "partial", "init": "partial"}, "init= has no head.weight, which this fit shares"),
        (cohort, {"privacy": infl.privacy.DP(epsilon=8, delta=1e-3)}, "site_1 was in the fit of init="),
        (cohort, {"init": 3}, "init= takes run.model"),
        (cohort, {"engine": object()}, "init= goes without engine="),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_fit_cannot_begin_with(run, sites, options, said) -> None:
    options = {"init": run} | options
    if options["init"] == "partial":
        options = {"init": fit(cohort(), rounds=1, aggregation="partial")}
    data = sites()
    assert said in refused(lambda: infl.tl.fit_federated(data, rounds=1, progress=False, **options))
    assert all("infl" not in adata.uns for adata in data.values())


def test_what_no_site_has_any_more_is_named(run) -> None:
    sites = cohort()
    for adata in sites.values():
        adata.obs["label"] = adata.obs["label"].map({"a": "a", "b": "B cell"})
    with pytest.warns(InflWarning, match="no site has 'b' of the 2 classes of init=.* same as 'B cell', which is new"):
        begun = warm(sites, run, **STILL)
    assert begun.model.header.panel["classes"] == ["B cell", "a"]
    fewer = {site: adata[:, 3:].copy() for site, adata in cohort().items()}
    with pytest.warns(InflWarning, match="no site has 'g0' and 2 more of the 12 features"):
        warm(fewer, run)


def test_a_task_that_names_no_units_goes_on_with_the_same_names_only(run) -> None:
    class Unnamed(infl.models.Classifier):
        units = infl.models.Task.units

    header = run.model.header
    task = Unnamed(**header.options)
    check_carried(header, task, header.panel)
    others = header.panel | {"features": [*header.panel["features"][1:], "another"]}
    said = refused(lambda: check_carried(header, task, others))  # as many, so that no size would tell
    assert "init= was fitted with other features, and a model of 'classifier' goes on only with the same" in said


def test_the_same_records_are_held_out() -> None:
    run = fit(cohort(), seed=7)
    assert warm(cohort(), run).settings["seed"] == 7
    with pytest.warns(InflWarning, match="seed=8 holds out other records"):
        warm(cohort(), run, seed=8)


def test_a_warm_run_is_resumed_to_the_same_bits(run, tmp_path) -> None:
    whole = warm(cohort(), run, rounds=4, checkpoint=tmp_path / "whole")

    interrupted(tmp_path / "part", run)
    again = warm(cohort(), run, rounds=4, checkpoint=tmp_path / "part", resume=True)
    assert again.history.equals(whole.history)
    for name, weight in whole.model.effective(run.key).items():
        assert torch.equal(weight, again.model.effective(run.key)[name])
    said = refused(lambda: fit(cohort(), rounds=4, key=run.key, checkpoint=tmp_path / "whole", resume=True))
    assert "init differs" in said


def interrupted(folder, run) -> None:
    from infl.federation.coordinator import Coordinator

    original = Coordinator.run

    def some(self):
        for number, exchange in enumerate(original(self)):
            yield exchange
            if number == 4:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Coordinator, "run", some)
        warm(cohort(), run, rounds=4, checkpoint=folder)


def test_weights_that_stay_at_sites_go_on_there() -> None:
    run = fit(cohort(), rounds=3, aggregation="partial")
    begun = warm(cohort(), run, aggregation="partial", **STILL)
    for site, model in run.site_models.items():
        own, before = begun.site_models[site].effective(run.key), model.effective(run.key)
        assert torch.allclose(own["head.weight"], before["head.weight"], atol=1e-5)
    assert not torch.equal(*(run.site_models[s].effective(run.key)["head.weight"] for s in ("site_1", "site_2")))


def test_a_warm_run_is_audited_from_where_it_began(run) -> None:
    begun = warm(cohort(), run, rounds=2)
    table = infl.tl.audit(begun, cohort(), attacks=["wrong_key"], progress=False)
    assert len(table)
    assert "data of the run" in refused(
        lambda: infl.tl.audit(replace(begun, origin=None), cohort(), attacks=["wrong_key"])
    )


def test_a_run_that_names_a_model_does_not_begin_without_it(run) -> None:
    h = run.model.header
    agreement = Agreement.new(h.build_task(), h.panel, h.sites, run.key, init=h.digest)
    assert "the run begins with model" in refused(lambda: Replica(agreement, run.key))
    assert Agreement.from_json(agreement.to_json()) == agreement


def test_a_comparison_begins_with_fresh_weights(run) -> None:
    said = refused(lambda: infl.tl.compare(cohort(), target="label", init=run))
    assert "infl.tl.fit_federated alone begins with a fitted model" in said
