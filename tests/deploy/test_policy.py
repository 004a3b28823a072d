"""What a site accepts, and what it says when it does not."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anndata import AnnData
from pydantic import ValidationError

from infl.deploy.policy import POLICY_TEMPLATE, Policy, columns_of, weights_of
from infl.errors import FederationError, SettingsError
from infl.federation.agreement import Agreement
from infl.keys import Keyring
from infl.models import Classifier
from infl.privacy import DP


@pytest.fixture
def agreement(small_sites: dict[str, AnnData]) -> Agreement:
    task = Classifier(target="label", width=8, n_blocks=1)
    return Agreement.new(task, task.agree(small_sites), small_sites, Keyring.create(), rounds=20, seal="pairwise")


def test_template_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY_TEMPLATE)
    assert Policy.read(path) == Policy() == Policy.read(tmp_path / "missing.toml")


def test_an_ordinary_run_is_accepted(agreement: Agreement) -> None:
    Policy().check(agreement, "site_1")
    Policy(tasks=["classifier"], targets=["label"], key_versions=[1], max_rounds=20).check(agreement, "site_1")


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"tasks": ["scvi"]}, "task 'classifier'"),
        ({"targets": ["stage"]}, "column 'label'"),
        ({"min_sites": 4}, r"min_sites 3 \(at least 4\)"),
        ({"max_rounds": 19}, r"20 rounds \(at most 19\)"),
        ({"seals": ["group"]}, "seal 'pairwise'"),
        ({"locks": []}, "lock 'field'"),
        ({"max_features": 2}, r"\d+ features \(at most 2\)"),
        ({"key_versions": [2, 3]}, "key version 1"),
        ({"max_epsilon": 8.0}, "what exceeds epsilon 8 at delta 1e-05"),
    ],
)
def test_refusals_name_what_is_not_accepted(agreement: Agreement, policy: dict[str, object], why: str) -> None:
    with pytest.raises(FederationError, match=f"site_1 refuses: its policy does not accept {why}"):
        Policy(**policy).check(agreement, "site_1")


def test_defaults_take_no_run_without_protection(agreement: Agreement) -> None:
    assert Policy().ask
    for changes, why in (
        ({"seal": "none"}, "seal 'none'"),
        ({"seal": "group"}, "seal 'group'"),
        ({"lock": "none", "strength": 0.0}, "lock 'none'"),
        ({"lock": "published"}, "lock 'published'"),
        ({"strength": 0.0}, "strength 0"),
        ({"local_epochs": 101}, "101 local epochs"),
    ):
        with pytest.raises(FederationError, match=why):
            Policy().check(replace(agreement, **changes), "site_1")


def test_epsilon_is_what_the_site_computes(agreement: Agreement) -> None:
    """A declared epsilon counts for nothing: noise and rounds do."""

    def run(rounds: int = 20, **settings: float) -> Agreement:
        return replace(
            agreement, rounds=rounds, privacy=DP(**({"delta": 1e-5, "sample_rate": 0.2} | settings)).to_json()
        )

    agreement = replace(agreement, seal="pairwise")
    fits = DP(epsilon=8.0, delta=1e-5, sample_rate=0.2).resolve(20)[0].noise_multiplier
    Policy(max_epsilon=8.0).check(run(epsilon=8.0, noise_multiplier=fits), "site_1")
    Policy(max_epsilon=8.0).check(run(noise_multiplier=fits), "site_1")
    for much in (
        run(noise_multiplier=1e-6),
        run(noise_multiplier=fits * 0.9),
        run(noise_multiplier=fits, rounds=40),
        run(epsilon=8.0, noise_multiplier=fits, delta=1e-2),
        replace(agreement, privacy=None),
    ):
        with pytest.raises(FederationError, match="what exceeds epsilon 8 at delta 1e-05"):
            Policy(max_epsilon=8.0).check(much, "site_1")
    for lie in (
        run(epsilon=1.0, noise_multiplier=1e-6),
        run(epsilon=1.0, noise_multiplier=fits * 0.9),
        run(epsilon=8.0, noise_multiplier=fits, rounds=40),
    ):
        with pytest.raises(FederationError, match="an epsilon that is not what its noise and rounds give"):
            Policy().check(lie, "site_1")
    with pytest.raises(SettingsError, match="needs noise_multiplier="):
        run(epsilon=8.0)


def test_shares_of_noise_are_for_the_pairwise_seal(agreement: Agreement) -> None:
    """Under the group seal one conspirator opens a part with its share alone, whatever budget the site names or not."""

    def run(seal: str, **settings: object) -> Agreement:
        privacy = DP(noise_multiplier=4.0, delta=1e-5, **settings).to_json()  # type: ignore[arg-type]
        return Agreement.from_json(replace(agreement, seal=seal, privacy=privacy).to_json())  # as it is offered

    policy = Policy(seals=["group", "pairwise"])
    with pytest.raises(FederationError, match="a share of noise under seal 'group'"):
        policy.check(run("group"), "site_1")
    policy.check(run("pairwise"), "site_1")
    policy.check(run("group", noise="local"), "site_1")


def test_a_site_says_how_many_may_conspire(agreement: Agreement) -> None:
    """Noise that was chosen for members who keep their share to themselves is too little for one who does not."""
    fits = DP(epsilon=8.0, delta=1e-5).resolve(20)[0].noise_multiplier

    def run(colluders: int) -> Agreement:
        privacy = DP(noise_multiplier=fits, delta=1e-5, colluders=colluders).to_json()
        return replace(agreement, seal="pairwise", privacy=privacy)

    for policy, ran in ((0, 0), (1, 1), (1, 2), (2, 2)):
        Policy(max_epsilon=8.0, colluders=policy).check(run(ran), "site_1")
    for policy, ran in ((1, 0), (2, 1), (3, 2)):
        with pytest.raises(FederationError, match="what exceeds epsilon 8"):
            Policy(max_epsilon=8.0, colluders=policy).check(run(ran), "site_1")
    with pytest.raises(SettingsError, match="no noise would be left that the colluders do not know"):
        run(3)


def test_the_donors_column_is_one_that_the_policy_names(agreement: Agreement) -> None:
    privacy = DP(noise_multiplier=4.0, delta=1e-5, unit="donor", donor_key="patient").to_json()
    run = replace(agreement, seal="pairwise", privacy=privacy)
    with pytest.raises(FederationError, match="column 'patient'"):
        Policy(targets=["label"]).check(run, "site_1")
    Policy(targets=["label", "patient"]).check(run, "site_1")


def test_without_a_persons_yes_the_policy_names_the_columns(agreement: Agreement) -> None:
    """Offers of one column after the other would list the classes of all."""
    with pytest.raises(FederationError, match="just any column: it names no targets"):
        Policy(ask=False).check(agreement, "site_1", consented=False)
    Policy(ask=False, targets=["label"]).check(agreement, "site_1", consented=False)
    Policy(ask=False).check(agreement, "site_1", consented=True)


def test_a_model_that_no_memory_holds_is_refused_before_it_is_made(agreement: Agreement) -> None:
    large = replace(agreement, options={**agreement.options, "width": 10**7})
    with pytest.raises(FederationError, match="does not accept a model of more than 100,000,000 weights"):
        Policy().check(large, "site_1")
    Policy().check(agreement, "site_1")
    with pytest.raises(FederationError, match="a model of more than 10 weights"):
        Policy(max_weights=10).check(agreement, "site_1")


def test_without_a_persons_yes_the_policy_names_the_panel(agreement: Agreement) -> None:
    """Yes and no to one panel after the other would tell which classes and features a site has."""
    assert Policy(ask=False, targets=["label"]).asks(agreement)
    listed = Policy(ask=False, targets=["label"], panels=[agreement.panel_digest])
    assert not listed.asks(agreement)
    assert listed.asks(replace(agreement, panel={**agreement.panel, "classes": ["a", "b", "rare"]}))
    assert Policy(ask=True, panels=["*"]).asks(agreement)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tasks = []\nmax_round = 3", r"policy\.toml, line 2: max_round: is not known"),
        ("\n\nmin_sites = 0", r"line 3: min_sites: give at least 1"),
        ("ask = maybe", r"policy\.toml: .*line 1"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=why):
        Policy.read(path)


def test_every_option_that_names_a_column_is_looked_at(agreement: Agreement) -> None:
    run = replace(
        agreement, task="scvi", options={"categorical_covariates": ["hiv"], "continuous_covariates": ["label"]}
    )
    with pytest.raises(FederationError, match="column 'hiv'"):
        Policy(targets=["label"]).check(run, "site_1", consented=False)
    Policy(targets=["label", "hiv"]).check(run, "site_1", consented=False)


def test_all_sites_take_part_and_what_takes_work_is_looked_at_last(
    agreement: Agreement, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(agreement, sites=("site_1", "b", "c", "d", "e"), participation=0.6)
    with pytest.raises(FederationError, match="participation 0.6"):
        Policy().check(run, "site_1")
    monkeypatch.setattr("infl.privacy.dp.epsilon_of", lambda *_: pytest.fail("computed"))
    private = DP(noise_multiplier=1.0, delta=1e-5).to_json()
    with pytest.raises(FederationError, match="1000000000 rounds"):
        Policy(max_epsilon=1.0).check(replace(agreement, seal="pairwise", rounds=10**9, privacy=private), "site_1")


@pytest.mark.parametrize(
    ("name", "fits", "does_not"),
    [
        ("min_sites", [1, 2], [0]),
        ("max_rounds", [1], [0]),
        ("max_local_epochs", [1], [0]),
        ("max_features", [1], [0]),
        ("max_weights", [1], [0]),
        ("max_runs", [1], [0]),
        ("min_holders", [1, 2], [0]),
        ("min_strength", [0, 0.5, 1], [-0.01, 1.01]),
        ("max_epsilon", [0, 0.5], [-0.01]),
        ("max_delta", [1e-9, 0.99], [0, 1]),
        ("lifetime_epsilon", [0, 0.5], [-0.01]),
        ("lifetime_delta", [1e-9, 0.99], [0, 1]),
        ("colluders", [0, 1], [-1]),
    ],
)
def test_numbers_of_a_policy_have_bounds(name: str, fits: list[float], does_not: list[float]) -> None:
    for value in fits:
        assert getattr(Policy(**{name: value}), name) == value
    for value in does_not:
        with pytest.raises(ValidationError, match=name):
            Policy(**{name: value})


def test_a_policy_is_not_altered_once_it_was_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Policy().ask = False  # type: ignore[misc]


def test_the_last_value_that_is_accepted(agreement: Agreement) -> None:
    """What a policy names as its bound is within it."""
    features = sum(map(len, agreement.panel.values()))
    exact = Policy(
        min_sites=3, max_rounds=20, max_local_epochs=1, max_features=features, max_weights=weights_of(agreement)
    )
    exact.check(agreement, "site_1")
    for bound in ({"max_features": features - 1}, {"max_weights": weights_of(agreement) - 1}):
        with pytest.raises(FederationError, match="its policy does not accept"):
            exact.model_copy(update=bound).check(agreement, "site_1")
    Policy(min_strength=0.5).check(replace(agreement, strength=0.5), "site_1")
    with pytest.raises(FederationError, match=r"strength 0\.49 \(at least 0\.5\)"):
        Policy(min_strength=0.5).check(replace(agreement, strength=0.49), "site_1")


def test_features_of_all_modalities_count(agreement: Agreement) -> None:
    panel = {"features": {"rna": ["g1", "g2"], "protein": ("p1",)}, "classes": ["a", "b"], "size": 7}
    run = replace(agreement, panel=panel)
    with pytest.raises(FederationError, match=r"5 features \(at most 4\)"):
        Policy(max_features=4).check(run, "site_1")


def test_a_limit_for_life_takes_no_run_without_privacy(agreement: Agreement) -> None:
    with pytest.raises(FederationError, match="no differential privacy, without which lifetime_epsilon cannot be kept"):
        Policy(lifetime_epsilon=0.5).check(agreement, "site_1")
    Policy(lifetime_epsilon=0.0).check(agreement, "site_1")


@pytest.mark.parametrize(("budget", "accepted"), [(1.0, True), (1.0005, True), (0.9995, True), (0.99, False)])
def test_a_budget_is_kept_to_a_thousandth(
    agreement: Agreement, monkeypatch: pytest.MonkeyPatch, budget: float, accepted: bool
) -> None:
    """Accountants agree on a loss to less than that; the loss here is 1."""
    asked: list[Any] = []
    monkeypatch.setattr("infl.privacy.dp.epsilon_of", lambda *what: asked.append(what) or 1.0)
    privacy = DP(noise_multiplier=4.0, delta=1e-6, sample_rate=0.2, accountant="rdp", colluders=0).to_json()
    run, told = replace(agreement, privacy=privacy), replace(agreement, privacy={**privacy, "epsilon": budget})
    for policy, offered in ((Policy(max_epsilon=budget, colluders=0), run), (Policy(colluders=0), told)):
        with nullcontext() if accepted else pytest.raises(FederationError):
            policy.check(offered, "site_1")
    monkeypatch.setattr("infl.privacy.dp.epsilon_of", lambda *what: budget * (1 + 1e-3))  # a thousandth itself is in it
    Policy(max_epsilon=budget, colluders=0).check(run, "site_1")
    noise = DP(**privacy).least_noise(3, "pairwise", 0)
    assert asked == [([(noise, 0.2, 20)], 1e-6, "rdp")] * 2


def test_the_largest_delta_is_accepted(agreement: Agreement) -> None:
    privacy = DP(noise_multiplier=50.0, delta=1e-5, accountant="rdp").to_json()
    policy = Policy(max_epsilon=8.0, max_delta=1e-5)
    policy.check(replace(agreement, privacy=privacy), "site_1")
    with pytest.raises(FederationError, match="what exceeds epsilon 8 at delta 1e-05"):
        policy.check(replace(agreement, privacy={**privacy, "delta": 1.1e-5}), "site_1")


def test_a_model_that_cannot_be_made_has_no_weights_to_count(agreement: Agreement) -> None:
    """What is wrong with it is said where it is made."""
    assert weights_of(replace(agreement, options={**agreement.options, "width": "wide"})) == 0


def test_columns_are_those_given_or_those_by_default() -> None:
    def columns(**options: object) -> set[str]:
        return columns_of(SimpleNamespace(task="scvi", options=options, panel={}, dp=None))  # type: ignore[arg-type]

    assert columns() == columns(categorical_covariates=None) == columns(categorical_covariates=[""]) == set()
    assert columns(categorical_covariates=["hiv", "sex"], continuous_covariates=["age"]) == {"hiv", "sex", "age"}


def test_a_column_that_the_panel_names_is_looked_for_too(agreement: Agreement) -> None:
    """Perturbations are in the column that the sites agreed on; an offer could name any other."""
    offered = replace(agreement, task="perturbation", options={}, panel={"column": "hiv", "features": []})
    assert columns_of(offered) == {"hiv"}
    with pytest.raises(FederationError, match="column 'hiv'"):
        Policy(targets=["perturbation"]).check(offered, "site_1")


def test_rules_of_disclosure_are_read_and_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[disclosure]\nk = 10\ngroups = ["cell_type"]\ndonor_key = "patient"\n')
    rules = Policy.read(path).disclosure
    assert (rules.k, rules.groups, rules.donor_key, rules.colluders) == (10, ("cell_type",), "patient", 1)
    path.write_text("[disclosure]\nk = 0\n")
    with pytest.raises(SettingsError, match=r"policy.toml.*line 2.*k=0: give a whole number of at least 1"):
        Policy.read(path)
