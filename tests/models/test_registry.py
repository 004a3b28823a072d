"""A task of a class of one's own works in this process without a package, and nowhere else."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from anndata import AnnData
from tests.models.conftest import FIT, task
from tests.softmax import Softmax

import infl
from infl.deploy.runfile import RunFile
from infl.errors import SettingsError
from infl.models import Classifier
from infl.models.registry import TASKS, make_task


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


@pytest.mark.parametrize("name", sorted(TASKS))
def test_each_task_is_public_under_its_own_name(name: str) -> None:
    place = TASKS[name].partition(":")[2]
    assert getattr(infl.models, place).name == name and place in infl.models.__all__


def test_a_class_that_is_defined_again_takes_the_place_of_the_one_before() -> None:
    make_task(Softmax(), {})
    again = dataclasses.make_dataclass("Softmax", [], bases=(Softmax,), frozen=True)
    make_task(again(), {})
    assert infl.settings.tasks == {"softmax": again}
