"""Panels of several sites are joined by names, and refused where they are of different kinds."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from tests.softmax import Softmax

import infl
from infl.errors import DataError
from infl.models.options import Choice, Kind, Text
from infl.models.panels import columns_of_task, join_panels
from infl.models.registry import make_task


def test_panels_of_sites_are_joined() -> None:
    one = {"features": ["g2", "g1"], "classes": ["b", "c"]}
    assert join_panels({"a": one, "b": one}) == one
    other = {"features": ["g3", "g1", "g2"], "classes": ["a", "b"]}
    assert join_panels({"a": one, "b": other}) == {"features": ["g1", "g2"], "classes": ["a", "b", "c"]}
    with pytest.raises(DataError, match="no features that all of a, b have"):
        join_panels({"a": one, "b": {"features": ["g9"], "classes": []}})
    with pytest.raises(DataError, match="the panel of b has genes, others have features, classes"):
        join_panels({"a": one, "b": {"genes": ["g1"]}})


def test_parts_that_must_be_the_same_everywhere() -> None:
    one = {"features": ["g1"], "patch": [8, 8]}
    with pytest.raises(DataError, match=r"^patch is \[8, 8\] in the panel of a, \[16, 16\] in that of b$"):
        join_panels({"a": one, "b": one | {"patch": [16, 16]}})
    two = {"features": ["m:g"], "modalities": {"m": ["g"]}}
    with pytest.raises(DataError, match="no modalities m that all of a, b have"):
        join_panels({"a": two, "b": {"features": ["m:h"], "modalities": {"m": ["h"]}}})


def test_text_in_an_option_that_a_task_does_not_describe_counts_as_a_column() -> None:
    """A policy that lists columns must not depend on the care of who wrote the task."""

    @dataclass(frozen=True)
    class Staged(Softmax):
        name: ClassVar[str] = "staged"
        parameters: ClassVar[dict[str, Kind]] = Softmax.parameters | {"panel": Text(), "how": Choice(("a", "b"))}

        stage: str = "stage"
        others: tuple[str, ...] = ()
        panel: str = "lung"
        how: str = "a"
        mode: Literal["fast", "slow"] = "fast"
        depth: int = 3

    make_task(Staged(), {})
    assert columns_of_task("staged", {"target": "grade"}, {}) == {"grade", "stage"}
    assert columns_of_task("staged", {"stage": "hiv", "others": ["age", "sex"]}, {}) == {"hiv", "age", "sex"}
    assert infl.settings.tasks["staged"] is Staged
