"""Kinds of options are public, and a task of another package is checked by them as one of ours is."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from tests.softmax import Softmax

from infl.errors import SettingsError
from infl.models import options
from infl.models.options import COLUMN, OPTIONAL_COLUMN, Kind, Whole
from infl.models.panels import columns_of_task
from infl.models.registry import make_task


@dataclass(frozen=True)
class Staged(Softmax):
    name: ClassVar[str] = "staged"
    parameters: ClassVar[dict[str, Kind]] = Softmax.parameters | {
        "target": COLUMN,
        "stage": OPTIONAL_COLUMN,
        "depth": Whole(1),
    }

    stage: str | None = None
    depth: int = 2


def test_options_are_checked_by_their_kinds() -> None:
    with pytest.raises(SettingsError, match=r"^depth=0: give a whole number of at least 1$"):
        Staged(depth=0)
    with pytest.raises(SettingsError, match=r"^stage=3: give the name of one obs column, or None$"):
        Staged(stage=3)


@pytest.mark.parametrize("kind", [options.COLUMN, options.OPTIONAL_COLUMN, options.COLUMNS])
def test_columns_are_known_by_their_kind(kind: Kind) -> None:
    made = type("Made", (Staged,), {"parameters": Staged.parameters | {"stage": kind}})
    make_task(made(stage="hiv"), {})
    assert columns_of_task("staged", {"target": "grade", "stage": "hiv"}, {}) == {"grade", "hiv"}


def test_all_kinds_that_are_promised_are_there() -> None:
    assert all(hasattr(options, name) for name in options.__all__)
    assert all(
        name in (options.__doc__ or "") for name in ("Whole", "Real", "Flag", "Choice", "Text", "Names", "COLUMN")
    )
