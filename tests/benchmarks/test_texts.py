"""Figures in texts are those of the results."""

import json
import re

import pytest

import _texts
import _tutorial_figures


@pytest.mark.parametrize("page", _texts.PAGES, ids=lambda page: str(page.relative_to(_texts.ROOT)))
def test_blocks_are_what_the_results_say(page) -> None:
    text = page.read_text()
    assert _texts.filled(text) == text, "python benchmarks/_texts.py writes them"


def test_the_page_on_the_published_method_has_its_figures() -> None:
    assert _texts.published() in (_texts.ROOT / "docs/concepts/published.md").read_text()


def test_each_result_is_on_one_page_of_evidence_and_each_page_is_reachable() -> None:
    pages = sorted((_texts.ROOT / "docs" / "evidence").glob("*.md"))
    shown = [name for page in pages for name in re.findall(r"<!-- section of benchmark (\w+) -->", page.read_text())]
    assert sorted(shown) == sorted(path.stem for path in _texts.RESULTS.glob("*.json"))
    listed = (_texts.ROOT / "docs" / "benchmarks.md").read_text()
    assert [page.stem for page in pages if f"\nevidence/{page.stem}\n" not in listed] == []


def test_pages_on_models_lead_to_their_evidence() -> None:
    """How-to pages have no tables of results; a page beside them does."""
    models = ("perturbation", "spatial", "histology", "scvi", "mosaic", "preprocessing", "markers", "survival")
    texts = {name: (_texts.ROOT / "docs" / f"{name}.md").read_text() for name in models}
    assert [name for name, text in texts.items() if "](evidence/" not in text or "<!-- " in text] == []


@pytest.mark.parametrize("name", _tutorial_figures.FIGURES)
def test_a_figure_of_a_tutorial_is_the_one_that_is_stored_there(name) -> None:
    figure = _tutorial_figures.ROOT / "docs" / "_static" / f"{name}.png"
    assert figure.read_bytes() == _tutorial_figures.picture(*_tutorial_figures.FIGURES[name]), (
        "python benchmarks/_tutorial_figures.py writes them"
    )


def test_no_figure_is_typed_that_is_in_no_result() -> None:
    """The list is of what was typed before; it may get shorter, and not longer."""
    assert _texts.new_untied(json.loads(_texts.UNTIED.read_text()), _texts.all_untied()) == {}


def test_list_of_untied_figures_has_no_more_than_there_are() -> None:
    assert _texts.new_untied(_texts.all_untied(), json.loads(_texts.UNTIED.read_text())) == {}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(_texts, "RESULTS", tmp_path)
    rows = [{"what": "a", "measured": 0.8765, "interval": [0.81, 0.94]}]
    (tmp_path / "lock.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(_texts, "BLOCKS", {"lock": lambda: _texts.with_half_width(_texts.rows_of("lock")["a"]) + "\n"})


def test_a_changed_result_changes_the_block(results) -> None:
    page = "<!-- figures lock -->\n0.123 ± 0.010\n<!-- end of figures -->\n"
    new = _texts.filled(page)
    assert new == "<!-- figures lock -->\n0.876 ± 0.065\n<!-- end of figures -->\n" and _texts.filled(new) == new


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("It gets 0.88 [0.81, 0.94] (`benchmarks/lock.py`).", []),
        ("It gets 0.877 (`benchmarks/lock.py`).", []),
        ("It gets 0.875 (`benchmarks/lock.py`).", ["0.875"]),
        ("It gets 0.88.", ["0.88"]),
        ("# T\n## A\n0.88\n## B\n`benchmarks/lock.py` 0.88", ["0.88"]),  # named in another section
        ("# T\nAll from `benchmarks/lock.py`.\n## A\n0.88\n", []),
        ("`benchmarks/lock.py` loses −0.88, version 1.2.34, 0.5", []),
        ("<!-- figures lock -->\n0.123\n<!-- end of figures -->\n```\n0.456\n```\n", []),
    ],
)
def test_figures_are_found_in_the_result_that_their_section_names(results, text: str, left: list[str]) -> None:
    assert _texts.untied(text) == left


def test_what_is_new_is_counted() -> None:
    assert _texts.new_untied({"a": ["0.12"]}, {"a": ["0.12", "0.12"], "b": ["0.50"]}) == {"a": ["0.12"], "b": ["0.50"]}
