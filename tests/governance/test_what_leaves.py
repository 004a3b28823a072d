"""The page for the data steward cannot go stale."""

import dataclasses
import re
from pathlib import Path

import pytest

import infl
from infl.federation import messages
from infl.federation.messages import MESSAGE_TYPES, Visibility, shown
from infl.governance.what_leaves import what_leaves

PAGE = Path(__file__).parents[2] / "docs" / "what_leaves.md"


def test_page_is_what_the_messages_say() -> None:
    assert PAGE.read_text() == what_leaves(), "run: python -m infl.governance.what_leaves > docs/what_leaves.md"


def test_every_function_that_runs_between_hospitals_is_on_the_page() -> None:
    page = PAGE.read_text()
    functions = {
        name for room in (infl.pp, infl.tl) for name in room.__all__ if getattr(getattr(room, name), "between", 0)
    }
    assert len(functions) > 20
    missing = {name for name in functions if not re.search(rf"`(tl\.)?{name}[`(]", page)}
    assert missing == {"fit_federated"}, "add a line to infl.governance.what_leaves"  # its sums are those of its task


def test_every_message_class_is_on_the_page() -> None:
    classes = {c for c in vars(messages).values() if dataclasses.is_dataclass(c) and c.__module__ == messages.__name__}
    assert classes == set(MESSAGE_TYPES)


def test_field_without_visibility_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Leaky:
        """A message."""

        age: int

    monkeypatch.setattr("infl.governance.what_leaves.MESSAGE_TYPES", (*MESSAGE_TYPES, Leaky))
    with pytest.raises(TypeError, match=r"Leaky\.age"):
        what_leaves()


def test_updates_counts_and_metrics_are_sealed_everywhere() -> None:
    for message in MESSAGE_TYPES:
        for field in dataclasses.fields(message):
            if field.type == "MaskedArrays":
                assert field.metadata["visible"] is Visibility.SEALED, f"{message.__name__}.{field.name}"


def test_shown_records_who_reads() -> None:
    assert shown("x").metadata["visible"] is Visibility.PUBLIC
