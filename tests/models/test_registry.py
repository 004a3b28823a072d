"""A task of a class of one's own works in this process without a package, and nowhere else."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from anndata import AnnData
from tests.softmax import Softmax

import infl
from infl.deploy.runfile import RunFile
from infl.errors import SettingsError
from infl.models import Classifier, known_tasks
from infl.models.registry import make_task

FIT = {"rounds": 8, "local_epochs": 4, "progress": False}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infl.settings, "tasks", {})


def task() -> Softmax:
    return Softmax(target="tumour_class", lr=0.01)


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


def test_another_process_says_how_it_gets_to_know_the_class(khan_sites: dict[str, AnnData], tmp_path: Path) -> None:
    path = infl.tl.fit_federated(khan_sites, task(), rounds=1, progress=False).save(tmp_path / "own.safetensors")
    code = f"import infl; infl.load_model({str(path)!r}).header.build_task()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "model='softmax' is not known: one of 'adapter'" in done.stderr
    assert "infl.settings.tasks['softmax']" in done.stderr


def test_between_machines_a_task_must_be_installed(khan_sites: dict[str, AnnData], tmp_path: Path) -> None:
    class Engine:
        def panel(self) -> dict:
            raise AssertionError("nothing may be asked for")

        fit = panel

    message = "model 'softmax' is a class of this process, and no code travels.* entry point infl.tasks"
    key = infl.keys.Keyring.create()
    with pytest.raises(SettingsError, match=message) as error:
        infl.tl.fit_federated(khan_sites, task(), key=key, engine=Engine())
    assert "\n" not in str(error.value)
    text = RunFile.template("classifier").replace('name = "classifier"', 'name = "softmax"')
    (tmp_path / "run.toml").write_text(text.replace('fingerprint = ""', 'fingerprint = "abcd-efgh"'))
    with pytest.raises(SettingsError, match=message):
        RunFile.read(tmp_path / "run.toml").agreement()


def test_a_name_that_is_taken_and_a_class_without_one_are_refused(khan_sites: dict[str, AnnData]) -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine(Classifier):
        pass

    with pytest.raises(
        SettingsError, match="Mine.name is 'classifier', which is an installed task: give the class another"
    ):
        infl.tl.fit_federated(khan_sites, Mine(target="tumour_class"), **FIT)

    @dataclasses.dataclass(frozen=True)
    class Nameless(Softmax):
        name: ClassVar[str] = ""

    with pytest.raises(SettingsError, match="Nameless has no name: .* set one in the class, name = 'mine'"):
        make_task(Nameless(target="tumour_class"), {})
    assert infl.settings.tasks == {}


def test_a_class_that_is_defined_again_takes_the_place_of_the_one_before() -> None:
    make_task(Softmax(), {})
    again = dataclasses.make_dataclass("Softmax", [], bases=(Softmax,), frozen=True)
    make_task(again(), {})
    assert infl.settings.tasks == {"softmax": again}
