"""Shared by the tests of this folder."""

import pytest
from tests.softmax import Softmax

import infl

FIT = {"rounds": 8, "local_epochs": 4, "progress": False}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infl.settings, "tasks", {})


def task() -> Softmax:
    return Softmax(target="tumour_class", lr=0.01)
