"""What a site accepts, and what it says when it does not."""

from dataclasses import replace
from pathlib import Path

import pytest
from anndata import AnnData

from infl.errors import FederationError, SettingsError
from infl.federation.agreement import Agreement
from infl.federation.policy import TEMPLATE, Policy
from infl.keys import Keyring
from infl.models import Classifier
from infl.privacy import DP


@pytest.fixture
def agreement(small_sites: dict[str, AnnData]) -> Agreement:
    task = Classifier(target="label", width=8, n_blocks=1)
    return Agreement.new(task, task.agree(small_sites), small_sites, Keyring.create(), rounds=20)


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
        ({"targets": ["stage"]}, "target 'label'"),
        ({"min_sites": 4}, r"min_sites 3 \(at least 4\)"),
        ({"max_rounds": 19}, r"20 rounds \(at most 19\)"),
        ({"seals": ["pairwise"]}, "seal 'group'"),
        ({"locks": []}, "lock 'field'"),
        ({"key_versions": [2, 3]}, "key version 1"),
        ({"max_epsilon": 8.0}, "no differential privacy of epsilon 8 or less"),
    ],
)
def test_refusals_name_what_is_not_accepted(agreement: Agreement, policy: dict[str, object], why: str) -> None:
    with pytest.raises(FederationError, match=f"site_1 refuses: its policy does not accept {why}"):
        Policy(**policy).check(agreement, "site_1")


def test_epsilon_within_the_budget_is_accepted(agreement: Agreement) -> None:
    for epsilon, accepted in ((8.0, True), (8.1, False)):
        private = DP(epsilon=epsilon, delta=1e-5, noise_multiplier=1.0).to_json()
        run = replace(agreement, privacy=private)
        if accepted:
            Policy(max_epsilon=8.0).check(run, "site_1")
        else:
            with pytest.raises(FederationError, match="epsilon 8 or less"):
                Policy(max_epsilon=8.0).check(run, "site_1")


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
