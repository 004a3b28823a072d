"""A third party's classifier gets the attacks that ours gets, by what it declares and not by its name."""

import warnings

import pytest
from tests.softmax import Softmax

import infl
from infl.attacks import AuditContext, known_attacks, load_attack
from infl.attacks._kit.classifiers import last_bias
from infl.errors import InflWarning, SettingsError
from infl.models import ClassProbabilities

OURS = {"crafted_model", "file_statistics"}
"""The one crafts weights of the network that our classifier builds; the other reads moments of features, which a task need not keep."""
BETWEEN_MACHINES = "coordinator"
"""Attacks on stations, which start tasks by name: of such the class must be installed."""


@pytest.fixture(scope="module")
def theirs() -> AuditContext:
    sites = {site: adata[:, ::8].copy() for site, adata in infl.datasets.khan_sites().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InflWarning)
        run = infl.tl.fit_federated(
            sites, Softmax(target="tumour_class", lr=0.02), rounds=6, local_epochs=3, progress=False
        )
    return AuditContext(run, sites)


def applying(context: AuditContext) -> set[str]:
    loaded = {name: load_attack(name) for name in known_attacks()}
    return {n for n, a in loaded.items() if a.applies(context) and f".{BETWEEN_MACHINES}." not in type(a).__module__}


def test_attacks_on_classifiers_ask_what_a_task_declares(theirs: AuditContext, default: AuditContext) -> None:
    assert isinstance(theirs.task, ClassProbabilities)
    assert applying(default) - applying(theirs) <= OURS
    assert {"analytic_leak", "ratio", "gradient_inversion", "site_balance", "membership"} < applying(theirs)


@pytest.mark.long
def test_profiles_are_read_from_open_updates_of_a_third_party(theirs: AuditContext) -> None:
    table = infl.tl.audit(theirs.run, theirs.sites, attacks=["analytic_leak", "ratio", "site_balance"], progress=False)
    found = table.set_index("attack")
    assert found.loc["analytic_leak", "control"] > 0.9
    assert found.loc["site_balance", "control"] > 0.5
    assert set(found.loc[["analytic_leak", "ratio"], "status"]) == {"holds"}
    assert found.loc["site_balance", "status"] != "leak"  # its trials are few


@pytest.mark.long
def test_stolen_weights_of_a_third_party_are_worthless(theirs: AuditContext) -> None:
    table = infl.tl.audit(theirs.run, theirs.sites, attacks=["wrong_key", "thief_fine_tuning"], progress=False)
    wrong_key, thief = table.to_dict("records")
    assert wrong_key["status"] == "holds"
    assert thief["status"] != "leak" and thief["value"] < thief["chance"] + 0.1  # its trials are few


def test_a_task_that_names_no_last_layer_is_one_line() -> None:
    class Unnamed(Softmax):
        def units(self, panel):
            return {"entrance.weight": {1: panel["features"]}}

    with pytest.raises(
        SettingsError, match=r"model 'softmax': units\(\) must name the classes along the last layer's bias"
    ):
        last_bias(Unnamed(), {"features": ["g"], "classes": ["a", "b"]})
