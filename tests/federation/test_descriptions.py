"""Every message is described in plain words, whatever the task."""

from dataclasses import replace

import pandas as pd
import pytest

import infl
from infl.errors import SettingsError
from infl.federation.descriptions import UNKNOWN, described, with_descriptions
from infl.governance.what_leaves import EVERY_SUM, PANEL
from infl.models import Classifier
from infl.models.registry import TASKS, make_task

EVERY_RUN = {"count", "train", "judge", "close", "keys", "reveal", "refusal"}
"""Entries that a ledger of any run can have."""


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_sum_says_what_it_tells_under_a_kind_of_its_own(name: str) -> None:
    task = make_task(name, EVERY_SUM.get(name, {}))
    sums = [*task.before(PANEL), *task.after(PANEL)]
    kinds = [kind for one in sums for kind in one.exchanges]
    assert len(set(kinds)) == len(kinds) and not set(kinds) & EVERY_RUN
    assert all(len(one.says.split()) >= 3 and not one.says.endswith(".") for one in sums)
    assert set(described(task, PANEL)) == {*EVERY_RUN, *kinds}


def test_steps_of_a_sum_are_one_kind_and_strangers_are_named_as_such() -> None:
    ledger = pd.DataFrame({"kind": ["count", "axes 1", "axes 2", "from_a_newer_version"]})
    shown = with_descriptions(ledger, infl.models.Spatial(n_domains=3), {"features": ["TP53"]})
    assert shown["sum"].tolist() == ["count", "axes", "axes", "from_a_newer_version"]
    assert shown["says"].iloc[3] == UNKNOWN and shown["says"].iloc[0].startswith("how many training records")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 3, "until": bool}, "steps of its sum 'means' end by what they find"),
        ({"name": "judge"}, "two exchanges are called 'judge': give its sums other names"),
        ({"name": "deviations"}, "two exchanges are called 'deviations'"),
        ({"name": "keys"}, "two exchanges are called 'keys'"),
        ({"name": "replay"}, "two exchanges are called 'replay'"),
        ({"name": "end"}, "two exchanges are called 'end'"),
        ({"name": "reveal means"}, "two exchanges are called 'reveal means'"),
    ],
)
def test_sums_that_cannot_be_agreed_on_or_told_apart_are_refused(
    khan_sites: dict, monkeypatch: pytest.MonkeyPatch, change: dict, says: str
) -> None:
    before = Classifier.before
    monkeypatch.setattr(
        Classifier, "before", lambda task, panel: [replace(before(task, panel)[0], **change), *before(task, panel)[1:]]
    )
    with pytest.raises(SettingsError, match=says):
        infl.tl.fit_federated(khan_sites, target="tumour_class", rounds=1, progress=False)
