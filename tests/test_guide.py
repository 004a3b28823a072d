"""README, the first page and the user guide run as they are, each block after the one before."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import infl

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LONG = {"lock", "rules"}
"""Pages that fit and attack for ten seconds; what they call is tested where it is."""
PAGES = [ROOT / "README.md", DOCS / "getting_started.md", *sorted((DOCS / "guide").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.long] if page.stem in LONG else []) for page in PAGES if blocks(page)],
    ids=lambda page: page.stem,
)
def test_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_by_hand: Callable[[bytes, str], bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("infl.keys.age.encrypt_under", age_by_hand)  # not stretched for seconds
    monkeypatch.setattr(infl.tl, "compare", partial(infl.tl.compare, seeds=1, rounds=2))  # all of them take minutes
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(page), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    plt.close("all")


@pytest.mark.slow
def test_what_the_first_pages_show_is_what_comes_out() -> None:
    shown = [
        re.search(
            r"^```text\n(classifier on 5 sites.*?\n)(?:\n|```)", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
        )
        for page in ("README.md", "docs/getting_started.md")
    ]
    run = infl.tl.fit_federated(infl.datasets.khan_sites(), target="tumour_class", rounds=20, progress=False)
    keyless = [
        re.sub(r"key [a-z0-9-]+", "key", text)
        for text in [run.summary(), *(found[1].strip() for found in shown if found)]
    ]
    assert len(keyless) == 3 and len({*keyless}) == 1


def test_each_question_has_code() -> None:
    without = {page.stem for page in PAGES if not blocks(page)}
    assert without == {"index", "faq"}
    assert len(PAGES) >= 10
