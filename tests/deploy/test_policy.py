"""What a site accepts, and what it says when it does not."""

from dataclasses import replace
from pathlib import Path

import pytest
from anndata import AnnData

from infl.deploy.policy import TEMPLATE, Policy
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
    path.write_text(TEMPLATE)
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
    fits = DP(epsilon=8.0, delta=1e-5).resolve(20)[0].noise_multiplier
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
        return replace(agreement, seal=seal, privacy=privacy)

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
        ("\n\nmin_sites = 0", r"line 3: min_sites: .*greater than or equal to 1"),
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
