"""On narrow screens the cells of a table show the name of their column, which the built pages carry for each."""

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[1] / "docs" / "extensions" / "narrow_tables.py"
SPEC = importlib.util.spec_from_file_location("narrow_tables", PATH)
assert SPEC is not None and SPEC.loader is not None
narrow_tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(narrow_tables)

HEAD = '<thead><tr><th class="head"><p>set</p></th><th class="head"><p>R<sup>2</sup> &gt; 0</p></th></tr></thead>'
BODY = "<tbody><tr><td><p>Khan</p></td><td><p>0.9</p></td></tr><tr><td><p>breast</p></td><td></td></tr></tbody>"


def test_each_cell_has_the_name_of_its_column() -> None:
    page = narrow_tables.labelled(f'<p>before</p><table class="table">{HEAD}{BODY}</table><p>after</p>')
    assert page.count('data-label="set"') == 2 and page.count('data-label="R2 &gt; 0"') == 2
    assert '<td role="cell" data-label="set"><p>breast</p></td>' in page
    assert page.startswith('<p>before</p><table class="table labelled" role="table">') and page.endswith("<p>after</p>")


def test_tables_without_a_head_with_joined_cells_or_of_notebooks_stay_as_they_are() -> None:
    for table in (
        f'<table class="table">{BODY}</table>',
        f'<table class="table">{HEAD}{BODY.replace("<td>", "<td colspan=2>", 1)}</table>',
        f'<table border="1" class="dataframe">{HEAD}{BODY}</table>',
    ):
        assert narrow_tables.labelled(table) == table
