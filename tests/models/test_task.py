"""A task of somebody's own: an instance is fitted, locked, saved, used and compared like ours."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from tests.models.conftest import FIT, task
from tests.softmax import Softmax

import infl
from infl.errors import SettingsError
from infl.models import Task, known_tasks


def test_a_task_of_ones_own_is_fitted_locked_saved_used_and_compared(
    khan_sites: dict[str, AnnData], tmp_path: Path
) -> None:
    assert "softmax" not in known_tasks()
    run = infl.tl.fit_federated(khan_sites, task(), **FIT)
    assert run.model.header.task == "softmax" and isinstance(run.model.header.build_task(), Softmax)
    assert run.history["val_accuracy"].max() > 0.8
    query = khan_sites["site_1"].copy()
    infl.tl.predict(query, infl.load_model(run.save(tmp_path / "own.infl.safetensors")), key=run.key)
    assert (query.obs["infl_prediction"] == khan_sites["site_1"].obs["infl_prediction"]).all()
    assert (infl.tl.site_metrics(run, khan_sites)["n_obs"] == [a.n_obs for a in khan_sites.values()]).all()
    assert infl.tl.personalise(khan_sites, run, epochs=2).table["epochs"].max() <= 2
    again = infl.tl.fit_federated(khan_sites, "softmax", target="tumour_class", lr=0.01, **FIT)  # by name from now on
    assert again.history["loss"].tolist() == run.history["loss"].tolist()


def _made(**wrong: object) -> Softmax:
    """A task whose author made a mistake."""
    return dataclass(frozen=True)(type("Made", (Softmax,), {"name": "made", "__annotations__": {}} | wrong))(
        target="tumour_class"
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"summarise": lambda task, sums: {"auc": 1.0}},
            "summarise returns auc, without 'loss', by which the best round is",
        ),
        (
            {"agree": lambda task, sites: {"features": np.array(["a"])}},
            r"agree returns what cannot be sent \(Object of type ndarray is not JSON serializable\): give text, numbers and",
        ),
        ({"agree": lambda task, sites: ["a"]}, "agree returns list, and a dict of names is needed"),
        (
            {"losses": lambda task, module, batch: Softmax.losses(task, module, batch).mean()},
            r"losses returns shape \(\), and a loss for each observation, \(n,\), is needed",
        ),
    ],
)
def test_a_mistake_of_an_author_is_said_by_the_name_of_the_method(
    khan_sites: dict[str, AnnData], wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError, match=f"^model 'made': {said}"):
        infl.tl.fit_federated(khan_sites, _made(**wrong), rounds=1, progress=False)


def test_a_class_and_a_class_that_is_no_dataclass_are_refused_with_what_to_write(
    khan_sites: dict[str, AnnData],
) -> None:
    class Plain(Softmax):
        name = "plain"
        depth: int = 2

    with pytest.raises(SettingsError, match=r"^model=Plain is a class: give an object of it, Plain\(…\)$"):
        infl.tl.fit_federated(khan_sites, Plain, target="tumour_class")
    with pytest.raises(
        SettingsError, match=r"no option 'depth' yet: write @dataclasses.dataclass\(frozen=True\) above class Plain"
    ):
        infl.tl.fit_federated(khan_sites, Plain(target="tumour_class"), depth=3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda task: Task.hold_out(task, None, 0.2, None), "cannot be compared: its class must define hold_out"),
        (lambda task: Task.score(task, None, {}, {}), "cannot be compared: its class must define score"),
        (lambda task: Task.baseline(task, None, {}, seed=0), "has no baseline: its class must define one"),
    ],
)
def test_what_a_task_leaves_out_is_said_by_the_name_of_the_method(call: Callable[[Task], object], said: str) -> None:
    with pytest.raises(SettingsError, match=f"^model 'softmax' {said}$"):
        call(task())
