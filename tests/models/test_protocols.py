"""What tasks declare beside the base class: attacks and functions ask for it, whatever a task is called."""

import pytest

from infl.models import ClassProbabilities
from infl.models.protocols import Embeds, PatchData
from infl.models.registry import known_tasks, task_class


class Foreign:
    """A classifier of a third party that knows nothing of ours."""

    target = "diagnosis"

    def scaled(self, x, private):
        return x


@pytest.mark.parametrize(
    ("protocol", "tasks"),
    [(ClassProbabilities, {"classifier"}), (Embeds, {"classifier", "mosaic", "scvi", "scanvi", "spatial", "adapter"})],
)
def test_our_tasks_declare_what_they_can(protocol, tasks):
    needed = [name for name in dir(protocol) if not name.startswith("_") and name not in ("target",)]
    declared = {name for name in known_tasks() if all(hasattr(task_class(name), method) for method in needed)}
    assert tasks <= declared and declared < set(known_tasks())


def test_a_class_of_somebody_else_is_one_by_what_it_has():
    assert isinstance(Foreign(), ClassProbabilities) and not isinstance(Foreign(), Embeds | PatchData)
    assert not isinstance(object(), ClassProbabilities)
