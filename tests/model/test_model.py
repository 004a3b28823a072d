"""The model of the pairwise seal's attempts: small cases are searched whenever spin is there; all of them in `make model-check`."""

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("model_check", Path(__file__).with_name("check.py"))
assert _spec is not None and _spec.loader is not None
check = importlib.util.module_from_spec(_spec)
sys.modules["model_check"] = check
_spec.loader.exec_module(check)

SMALL = [
    case
    for case in check.CASES
    if case.define in (("N=3", "RESTART"), ("N=3", "RESTORE", "NO_EPOCH"), ("N=4", "TWO_LISTS"))
]


@pytest.mark.skipif(bool(check.missing()), reason="needs spin and gcc: apt install spin gcc")
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.what)
def test_the_model_is_safe_and_its_mutants_are_not(case) -> None:
    errors, states = check.search(case.define)
    assert (errors == 0) == case.safe
    assert states > 1


def test_the_small_cases_are_there() -> None:
    assert [case.safe for case in SMALL] == [True, False, False]


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(check.shutil, "which", lambda name: None)
    assert check.main() == 1
    assert capsys.readouterr().out == "model-check: spin and gcc not found: apt-get install spin gcc\n"
