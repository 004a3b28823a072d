"""Each tutorial begins with what one will have at the end, ends with one's own data, and is stored with what it showed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_says_what_one_will_have_and_ends_on_own_data(notebook: Path) -> None:
    first, last = ("".join(cells(notebook)[i]["source"]) for i in (0, -1))
    assert first.startswith("# ") and "**At the end you have** " in first
    assert last.startswith("## On your own data\n")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_is_stored_as_it_ran_from_top_to_bottom(notebook: Path) -> None:
    counts = [cell["execution_count"] for cell in cells(notebook) if cell["cell_type"] == "code" and cell["source"]]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [out for cell in cells(notebook) for out in cell.get("outputs", [])]
    assert not [out["ename"] for out in outputs if out["output_type"] == "error"]
    text = json.dumps(outputs)
    assert "/root/" not in text and "/home/" not in text and "site-packages" not in text  # of somebody's machine


def test_all_tutorials_are_listed() -> None:
    listed = re.findall(r"^tutorials/(\w+)$", (ROOT / "docs" / "tutorials.md").read_text(), re.M)
    assert sorted(listed) == [path.stem for path in NOTEBOOKS]
