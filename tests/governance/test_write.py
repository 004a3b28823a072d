"""A report is written whole or not at all, and over nothing."""

from pathlib import Path
from typing import Any

import pytest

import infl
from infl.errors import FileError


def test_nothing_is_overwritten_and_nothing_is_half_written(usual: Any, tmp_path: Path) -> None:
    card = tmp_path / "report.model_card.json"
    card.write_text("mine")
    with pytest.raises(FileError, match=r"report\.model_card\.json exists: choose another name or pass overwrite=True"):
        infl.governance.report(usual.run, tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == [card.name] and card.read_text() == "mine"
    infl.governance.report(usual.run, tmp_path / "report.html", overwrite=True)
    assert len(list(tmp_path.iterdir())) == 3 and card.read_text() != "mine"
    with pytest.raises(FileError, match=r"ends in \.html"):
        infl.governance.report(usual.run, tmp_path / "report.pdf")
    with pytest.raises(FileError, match="cannot write"):
        infl.governance.report(usual.run, tmp_path / "nowhere" / "report.html")
