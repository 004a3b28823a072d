"""Results know which code measured them."""

import json

import pytest

import _origin
import _table


@pytest.fixture
def tree(tmp_path):
    _origin.digest_of.cache_clear()
    (tmp_path / "a.py").write_text('"""Doc."""\n\ndef f(x):\n    """Doc."""\n    return x + 1\n')
    yield tmp_path
    _origin.digest_of.cache_clear()


def content(tree):
    files = {"a.py": _origin.digest_of(tree / "a.py")}
    return {"rows": [{"what": "new", "code": "c"}, {"what": "old"}], "code": {"c": files}}


def test_comments_and_docstrings_are_no_other_code(tree) -> None:
    found = content(tree)
    _origin.digest_of.cache_clear()
    (tree / "a.py").write_text('"""Other."""\n\n\ndef f(x):  # said\n    """Other."""\n    return x + 1\n')
    assert _origin.of_other_code(found, tree) == {"old": []}


@pytest.mark.parametrize("after", ["def f(x):\n    return x + 2\n", None])
def test_another_number_or_no_file_is_other_code(tree, after) -> None:
    found = content(tree)
    _origin.digest_of.cache_clear()
    (tree / "a.py").unlink() if after is None else (tree / "a.py").write_text(after)
    assert _origin.of_other_code(found, tree) == {"new": ["a.py"], "old": []}


def test_saved_rows_keep_the_code_that_measured_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_table, "RESULTS", tmp_path)
    before = {
        "rows": [{"what": "kept", "code": "b"}, {"what": "again", "code": "a"}],
        "code": {"a": {}, "b": {"x": "1"}},
    }
    (tmp_path / "name.json").write_text(json.dumps(before))
    table = _table.Table("name")
    table.add("again", "", 1.0)
    table.save()
    saved = json.loads((tmp_path / "name.json").read_text())
    codes = {row["what"]: row["code"] for row in saved["rows"]}
    assert codes["kept"] == "b" and set(saved["code"]) == {"b", codes["again"]}
    assert "benchmarks/_table.py" in saved["code"][codes["again"]]
    assert not any("site-packages" in path for path in saved["code"][codes["again"]])


def test_loaded_files_are_those_of_the_repository() -> None:
    found = _origin.loaded()
    assert "src/infl/__init__.py" in found and all((_origin.ROOT / path).exists() for path in found)
