"""A fit as a step of a study: what one process fits, killed or not, under the site's policy and its rules of disclosure."""

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from tests.deploy.study.rehearsal import Killed
from tests.deploy.study.test_steps import make_sites
from tests.deploy.study.test_study import KEY, make, said_once

import infl
from infl.deploy.policy import Policy
from infl.deploy.study.channel import StudyChannel
from infl.deploy.study.consent import check_policy
from infl.deploy.study.specification import Study
from infl.deploy.study.steps import Step
from infl.errors import DataError, FederationError, SettingsError
from infl.federation.wire import decode
from infl.privacy import Disclosure, DisclosureRules

pytestmark = pytest.mark.filterwarnings("ignore::infl.errors.InflWarning")
LOGS = [Step.read("pp.normalize_total", {"target_sum": 100}), Step.read("pp.log1p", {})]
FIT = {"target": "donor", "rounds": 2, "width": 8}
STEPS = [*LOGS, Step.read("tl.fit_federated", FIT), Step.read("tl.cluster", {"n_clusters": 2, "n_init": 1})]


def expected(seed: int) -> dict[str, AnnData]:
    """Return what one process fits with a seed."""
    sites = make_sites()
    for step in LOGS:
        step.run(sites)
    infl.tl.fit_federated(sites, **FIT, seed=seed, key=KEY, progress=False)
    return sites


def test_a_fit_between_sites_is_the_fit_of_one_process_and_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    rehearsal = make(tmp_path, STEPS)
    left = [("s1", "heard", 2, 5), ("desk", "told", 2, 7), ("s0", "keeps", 2, 0)]

    def fault(*place: Any) -> None:
        if place in left:
            left.remove(place)
            raise Killed

    while left:
        assert {type(error) for error in rehearsal.attempt(fault).values()} == {Killed}
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    assert said_once(rehearsal)
    together = expected(rehearsal.result("s0").uns["infl"]["settings"]["seed"])
    for site, adata in together.items():
        found = rehearsal.result(site)
        assert found.obs["infl_prediction"].equals(adata.obs["infl_prediction"])
        np.testing.assert_allclose(found.obsm["X_infl"], adata.obsm["X_infl"], atol=1e-5)
        assert "infl_cluster" in found.obs  # by the latent that the fit wrote
        model = infl.load_model(tmp_path / site / "model_0003.infl.safetensors")
        del found.obsm["X_infl"]
        infl.tl.predict(found, model, key=KEY)
        np.testing.assert_allclose(found.obsm["X_infl"], adata.obsm["X_infl"], atol=1e-5)


def test_two_fits_of_one_study_train_with_different_seeds(tmp_path: Path) -> None:
    again = Step.read("tl.fit_federated", FIT | {"rounds": 1, "key_added": "again"})
    rehearsal = make(tmp_path, [Step.read("tl.fit_federated", FIT | {"rounds": 1}), again])
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    uns = rehearsal.result("s0").uns
    assert uns["infl"]["settings"]["seed"] != uns["again"]["settings"]["seed"]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("scvi", {"n_latent": 2, "n_hidden": 4, "site_effect": "local"}),
        ("perturbation", {"target": "guide"}),
        ("regressor", {"target": ["age", "months"], "width": 4}),
        ("survival", {"time": "months", "event": "chosen", "width": 4}),
        ("labels", {"target": ["donor", "guide"], "width": 4}),
    ],
)
def test_other_models_run_between_sites(tmp_path: Path, model: str, options: dict[str, Any]) -> None:
    before = LOGS if model == "perturbation" else []
    step = Step.read("tl.fit_federated", {"model": model, "rounds": 1} | options)
    rehearsal = make(tmp_path, [*before, step])
    own = {(slot, name) for slot in ("obs", "obsm", "varm", "uns") for name in getattr(make_sites()["s2"], slot)}
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    found = rehearsal.result("s2")
    assert found.uns["infl"]["task"] == model
    assert all(name in getattr(found, slot) for slot, name in step.writes)
    written = {(slot, name) for slot in ("obs", "obsm", "varm") for name in getattr(found, slot)} - own
    assert {field for field in written if "infl" in field[1]} == {f for f in step.writes if f[0] != "uns"}


def test_a_class_of_few_records_is_not_named_to_others(tmp_path: Path) -> None:
    sites = make_sites()
    sites["s1"].obs.loc[sites["s1"].obs_names[:3], "donor"] = "secret"
    rehearsal = make(tmp_path, STEPS[2:3], sites)
    ended = rehearsal.attempt()
    assert type(ended["s1"]) is DataError and "'secret' has 3 observations" in str(ended["s1"])
    sent = b"".join(content for contents in rehearsal.sent.values() for content in contents)
    assert b"secret" not in sent


def test_a_site_whose_policy_refuses_the_fit_ends_the_step(tmp_path: Path) -> None:
    def refuse(fit: Any) -> int:
        raise FederationError(f"refused: {fit.task}, {fit.rounds} rounds, seal {fit.seal}")

    rehearsal = make(tmp_path, STEPS[2:3])
    ended = rehearsal.attempt(admit=refuse)
    assert any(str(error) == "refused: classifier, 2 rounds, seal group" for error in ended.values())
    assert not any("infl" in rehearsal.result(site).uns for site in rehearsal.study.sites)


RULES = DisclosureRules(features_per_record=float("inf"))


@pytest.mark.parametrize("on", [False, True], ids=["control", "rules"])
@pytest.mark.parametrize(
    ("differ", "fit"),
    [
        ("a record", FIT),
        ("donor", FIT),
        ("donor", {"model": "scvi", "rounds": 1, "n_latent": 2, "n_hidden": 4, "categorical_covariates": ["donor"]}),
        ("guide", {"model": "perturbation", "rounds": 1, "target": "guide", "target_sum": 100}),
    ],
    ids=["record", "class", "covariate", "perturbation"],
)
def test_two_fits_that_differ_by_one_record_tell_of_it(on: bool, differ: str, fit: dict[str, Any]) -> None:
    """Of a model with one step of gradient descent on all records, the weights of two fits give the gradient of one record."""
    sites, later = make_sites(), make_sites()
    if differ == "a record":
        later["s1"] = later["s1"][1:].copy()
    else:
        first, second = later["s1"].obs_names[1:3]
        later["s1"].obs.loc[first, differ] = later["s1"].obs.loc[second, differ]
    with Disclosure(RULES) if on else nullcontext():
        infl.tl.fit_federated(sites, **fit, progress=False)
        with pytest.raises(DataError, match="nothing is opened") if on else nullcontext():
            infl.tl.fit_federated(later, **fit, progress=False)
        assert on is not ("infl" in later["s0"].uns)


def test_a_fit_on_more_features_than_records_bear_is_refused_under_rules() -> None:
    sites = make_sites()
    with Disclosure(), pytest.raises(DataError, match="nothing is opened"):
        infl.tl.fit_federated({**sites, "s1": sites["s1"][:20].copy()}, **FIT, progress=False)
    with Disclosure(DisclosureRules(groups=())), pytest.raises(SettingsError, match="'donor'"):
        infl.tl.fit_federated(sites, **FIT, progress=False)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"model": "clasifier"}, "model 'clasifier' is no step of a study; classifier, labels, perturbation"),
        ({"model": "mosaic"}, "model 'mosaic' is no step of a study"),
        ({}, "model 'classifier' needs target="),
        ({"model": "perturbation"}, "model 'perturbation' needs target="),
        ({"model": "regressor"}, "model 'regressor' needs target="),
        ({"model": "labels"}, "model 'labels' needs target="),
        ({"model": "labels", "target": ["donor", "donor"]}, "target="),
        ({"model": "survival", "time": "months"}, "model 'survival' needs time= and event="),
        ({"target": "donor", "widht": 8}, "widht is not known; did you mean width?"),
        ({"target": "donor", "batch_size": 0}, "batch_size=0"),
        (
            {"target": "donor", "init": "a.safetensors"},
            "init= goes with no fit between machines, which begins with fresh",
        ),
        ({"target": "donor", "seed": 1}, "seed is not known"),
        ({"target": "donor", "seal": "pairwise"}, "seal is not known"),
        ({"target": "donor", "rounds": 0}, "rounds=0"),
        ({"target": "donor", "aggregation": "fedavgg"}, "fedavgg"),
        ({"target": "donor", "aggregation": "fedprox", "aggregation_options": {"nu": 1}}, "nu"),
    ],
)
def test_a_fit_that_cannot_be_a_step_is_refused_in_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError, match=line.replace("(", r"\(").replace("?", r"\?")) as error:
        Step.read("tl.fit_federated", given)
    assert "\n" not in str(error.value)


def test_columns_that_a_fit_reads_are_those_of_its_model() -> None:
    step = Step.read("tl.fit_federated", {"model": "scvi", "continuous_covariates": ["age"]})
    assert "age" in step.columns
    assert Step.read("tl.fit_federated", {"target": "donor"}).columns == {"donor"}


def test_a_list_of_columns_is_a_step_of_several_labels_that_a_site_may_lack() -> None:
    step = Step.read("tl.fit_federated", {"target": ["donor", "grade"], "covariates": ["age"]})
    assert step.columns == {"donor", "grade", "age"} and step.needs == [("obs", "age")]
    assert ("obs", "infl_prediction_grade") in step.writes and ("obsm", "infl_probabilities_donor") in step.writes


def test_a_policy_that_lists_tasks_refuses_other_fits_before_any_work() -> None:
    fits = [Step.read("tl.fit_federated", {"target": "donor"}), Step.read("pp.log1p", {})]
    study = Study.new("first", ["a", "b", "c"], fits, 1, "abcd")
    check_policy(Policy(tasks=["classifier"], seals=["group"]), study, "a")
    check_policy(Policy(seals=["group"]), study, "a")
    with pytest.raises(FederationError, match="does not accept model 'classifier'"):
        check_policy(Policy(tasks=["scvi"], seals=["group"]), study, "a")


def test_a_coordinator_cannot_try_guesses_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sum is bound to follows from the panel, and all else of it the coordinator knows: a plain digest would confirm a guess."""
    kinds, exchange = set[str](), StudyChannel._exchange

    def spied(self: StudyChannel, kind: str, *rest: Any) -> Any:
        kinds.add(kind)
        return exchange(self, kind, *rest)

    monkeypatch.setattr(StudyChannel, "_exchange", spied)
    rehearsal = make(tmp_path, STEPS[2:3])
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    assert any(kind.startswith("fit: ") for kind in kinds)
    sent = [decode(content) for contents in rehearsal.sent.values() for content in contents]
    assert not {said.kind for said in sent} & {hashlib.sha256(kind.encode()).hexdigest() for kind in kinds}
    assert len({said.kind for said in sent}) == len({(said.step, said.number) for said in sent})


def test_no_name_of_few_records_and_no_unused_category_leaves_a_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a digest by which another site could try names: left out of the data, a category is still in its column's dtype."""
    said, agree = list[str](), StudyChannel.agree

    def spied(self: StudyChannel, kind: str, names: Any) -> Any:
        said.append(json.dumps([kind, names]))
        return agree(self, kind, names)

    monkeypatch.setattr(StudyChannel, "agree", spied)
    sites = make_sites()
    for site, adata in sites.items():
        order = ["y", "secret", "x"] if site == "s1" else ["y", "x"]
        adata.obs["donor"] = pd.Categorical(adata.obs["donor"], categories=order, ordered=True)
    rehearsal = make(tmp_path, [STEPS[2], Step.read("tl.de", {"design": "~ donor", "method": "voom"})], sites)
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    digest = hashlib.sha256(b"y\nsecret\nx").hexdigest()
    assert said and not any("secret" in names or digest in names for names in said)
    assert rehearsal.result("s1").obs["infl_prediction"].cat.categories.tolist() == ["y", "x"]


def test_a_perturbation_of_few_cells_is_not_named_to_others_however_it_is_spelt(tmp_path: Path) -> None:
    sites = make_sites()
    sites["s1"].obs.loc[sites["s1"].obs_names[:2], "guide"] = "g7, g3"
    step = Step.read("tl.fit_federated", {"model": "perturbation", "rounds": 1, "target": "guide"})
    rehearsal = make(tmp_path, [*LOGS, step], sites)
    ended = rehearsal.attempt()
    assert type(ended["s1"]) is DataError and "'g3+g7' has 2 observations" in str(ended["s1"])


def test_all_sites_are_in_every_sum_of_a_fit_and_a_refusal_comes_before_any(tmp_path: Path) -> None:
    sites = make_sites()
    sites["s3"] = sites["s0"].copy()
    rehearsal, offered = make(tmp_path, STEPS[2:3], sites), []

    def refuse(fit: Any) -> int:
        offered.append(fit.min_sites)
        raise FederationError("refused")

    ended = rehearsal.attempt(admit=refuse)
    assert any(str(error) == "refused" for error in ended.values()) and set(offered) == {4}
    sent = [decode(content) for contents in rehearsal.sent.values() for content in contents]
    assert sent and not any(sum(said.words.lanes) for said in sent)


@pytest.mark.parametrize(
    ("given", "limits", "message"),
    [
        ({"rounds": 6}, {"max_rounds": 5}, "6 rounds (at most 5) (step 2, tl.fit_federated)"),
        ({"local_epochs": 3}, {"max_local_epochs": 2}, "3 local epochs (at most 2)"),
        ({"lock": None}, {}, "lock 'none'"),
        ({"lock": "published"}, {}, "lock 'published'"),
        ({"strength": 0.5}, {}, "strength 0.5 (at least 1)"),
    ],
)
def test_settings_of_a_fit_are_refused_where_the_study_is_offered(
    given: dict[str, Any], limits: dict[str, Any], message: str
) -> None:
    def offer(**arguments: Any) -> Study:
        fit = Step.read("tl.fit_federated", {"model": "classifier", "target": "kind", **arguments})
        return Study.new("first", ["a", "b", "c"], [Step.read("pp.log1p", {}), fit], 1, "abcd")

    policy = Policy(seals=["group"], **limits)
    check_policy(policy, offer(rounds=5, local_epochs=2), "a")
    with pytest.raises(FederationError) as error:
        check_policy(policy, offer(**given), "a")
    assert message in str(error.value)


JUDGED = Step.read("tl.feature_importance", {"validation_only": False, "n_repeats": 3})
LINEAR = Step.read("tl.fit_federated", {"target": "donor", "rounds": 2, "width": 0})


def test_importance_of_a_fit_before_it_is_that_of_one_process(tmp_path: Path) -> None:
    rehearsal = make(tmp_path, [*LOGS, LINEAR, JUDGED])
    left = [("s1", "heard", 3, 3)]

    def fault(*place: Any) -> None:
        if place in left:
            left.remove(place)
            raise Killed

    assert {type(error) for error in rehearsal.attempt(fault).values()} == {Killed}
    assert rehearsal.attempt() == dict.fromkeys(rehearsal.study.sites)
    assert said_once(rehearsal) and not left
    sites, model = make_sites(), infl.load_model(tmp_path / "s0" / "model_0003.infl.safetensors")
    for step in LOGS:
        step.run(sites)
    table = infl.tl.feature_importance(model, sites, validation_only=False, n_repeats=3, key=KEY)
    for site, adata in sites.items():
        found = rehearsal.result(site).var["infl_importance"]
        np.testing.assert_array_equal(found, adata.var["infl_importance"])
        np.testing.assert_array_equal(found, table["importance"].reindex(adata.var_names))


@pytest.mark.parametrize("few", [False, True], ids=["all", "few"])
def test_importance_is_under_the_rules_of_the_sites(tmp_path: Path, few: bool) -> None:
    judged = Step.read("tl.feature_importance", {"validation_only": False} | ({"max_obs": 4} if few else {}))
    rehearsal = make(tmp_path, [*LOGS, LINEAR, judged])
    ended = rehearsal.attempt(rules=lambda site: Disclosure(RULES, tmp_path / f"rules of {site}"))
    if few:
        assert any("nothing is opened" in str(error) and "\n" not in str(error) for error in ended.values())
        assert "infl_importance" not in rehearsal.result("s0").var
        return
    assert ended == dict.fromkeys(rehearsal.study.sites)
    assert rehearsal.result("s0").var["infl_importance"].notna().all()


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ([("tl.feature_importance", {})], "step 1 .* takes the model of a tl.fit_federated with key_added='infl': put"),
        ([("tl.fit_federated", FIT), ("tl.feature_importance", {"model": "mine"})], "key_added='mine'"),
        ([("tl.fit_federated", {"model": "scvi"}), ("tl.feature_importance", {})], "model 'scvi' has no importance"),
        (
            [("tl.fit_federated", FIT | {"aggregation": "fedbn"}), ("tl.feature_importance", {})],
            "step 2 .* cannot take the model of step 1: aggregation='fedbn' leaves weights at the sites",
        ),
        ([("tl.fit_federated", FIT | {"coordinate": 2}), ("tl.feature_importance", {})], "coordinate= leaves weights"),
    ],
)
def test_importance_without_a_fit_that_it_can_judge_is_refused_before_the_study(steps: Any, line: str) -> None:
    with pytest.raises(SettingsError, match=line) as error:
        Study.new("first", ["a", "b", "c"], [Step.read(*step) for step in steps], 1, "abcd")
    assert "\n" not in str(error.value)
