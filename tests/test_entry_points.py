"""Tasks, attacks and rules of other packages: found by their entry points, under names that are not ours."""

from collections.abc import Callable
from pathlib import Path

import pytest

import infl
from infl.attacks import known_attacks, load_attack
from infl.attacks.ratio import Ratio
from infl.errors import SettingsError
from infl.federation.rules import fedprox, known_rules, rule
from infl.models.registry import known_tasks, task_class


def install(tmp_path: Path) -> None:
    """Write a package's metadata, as an installer does: good entries, bad ones, and names that are taken."""
    folder = tmp_path / "theirs-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[infl.tasks]\nlost = theirs.nowhere:Task\nclassifier = theirs:Evil\nmine = theirs_task:Mine\n"
        "other = theirs_task:Mine\nnameless = theirs_task:Nameless\npath = pathlib:Path\n"
        "[infl.attacks]\nmissing = pathlib:Nothing\nratio = theirs:Evil\nopen = builtins:open\n"
        "[infl.rules]\npulled = infl.federation.rules:fedprox\nfedavg = theirs:evil\nlisted = builtins:list\n"
    )
    (tmp_path / "theirs_task.py").write_text(
        "from infl.models import Classifier, Task\n\n\nclass Mine(Classifier):\n    name = 'mine'\n\n\nclass Nameless(Task):\n    pass\n"
    )


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of another author is there when a name is looked up first."""
    install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_package_that_is_installed_meanwhile_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert "mine" not in known_tasks()
    install(tmp_path)
    assert "mine" in known_tasks()


@pytest.mark.usefixtures("installed")
def test_what_is_registered_is_known() -> None:
    assert {"lost", "mine"} <= set(known_tasks())
    assert "missing" in known_attacks()
    assert "pulled" in known_rules()
    assert task_class("mine").name == "mine"
    assert rule("pulled", {"mu": 0.5}).name == fedprox().name


@pytest.mark.usefixtures("installed")
def test_nobody_can_replace_ours() -> None:
    assert known_tasks()["classifier"] == "infl.models.classifier:Classifier"
    assert task_class("classifier") is infl.models.Classifier
    assert type(load_attack("ratio")) is Ratio
    assert rule("fedavg", {}).name == "fedavg"


@pytest.mark.usefixtures("installed")
def test_what_cannot_be_imported_is_one_line() -> None:
    with pytest.raises(
        SettingsError, match=r"'lost' is registered as 'theirs.nowhere:Task', which cannot be imported: No mod"
    ):
        task_class("lost")
    with pytest.raises(
        SettingsError, match=r"'missing' is registered as 'pathlib:Nothing', which cannot be imported: mod"
    ):
        load_attack("missing")


@pytest.mark.parametrize(
    ("find", "name", "said"),
    [
        (task_class, "path", r"'path' is registered as 'pathlib:Path', which is not a subclass of Task"),
        (load_attack, "open", r"'open' is registered as 'builtins:open', which is not a subclass of Attack"),
        (
            task_class,
            "other",
            r"'other' is registered as 'theirs_task:Mine': give that class the same name, name = 'other'",
        ),
        (
            task_class,
            "nameless",
            r"'nameless' is registered as 'theirs_task:Nameless': give that class the same name, ",
        ),
        (lambda name: rule(name, {}), "listed", r"aggregation='listed': what is registered returns list, not a Rule"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_what_is_registered_and_is_something_else_is_one_line(
    find: Callable[[str], object], name: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        find(name)


def test_without_a_package_the_names_are_ours() -> None:
    with pytest.raises(SettingsError, match="model='mine' is not known: one of 'adapter'"):
        task_class("mine")
    with pytest.raises(SettingsError, match="aggregation='pulled' is not known: one of 'fedavg'"):
        rule("pulled", {})
