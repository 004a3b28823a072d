"""Results know which code measured them."""

import importlib
import json
import os
import subprocess
import sys

import pytest

import _origin
import _table

PATH = os.pathsep.join([str(_origin.ROOT / "benchmarks"), *sys.path])
ENV = os.environ | {"PYTHONPATH": PATH}


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


MODULE = """
import sys

LEAST = 1


class Sum:
    size: int = 0

    def add(self, x):
        \"\"\"Doc.\"\"\"
        return x + LEAST

    def other(self):
        return 0


def called(x):
    return Sum().add(x)


def never(x):
    return x


called_later = [called]
"""


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """What is remembered of a module of which two functions were called; a function writes it anew, in other words."""
    path = tmp_path / "of_a_figure.py"
    path.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    calls = _origin.Calls(tmp_path)
    monkeypatch.setattr("sys.meta_path", [calls, *sys.meta_path])
    module = importlib.import_module("of_a_figure")
    assert module.called(2) == 3
    yield calls, path
    del sys.modules["of_a_figure"]


def differs(path, files, before, after) -> bool:
    assert before in MODULE
    path.write_text(MODULE.replace(before, after))
    for cached in (_origin.digest_of, _origin.parts, _origin.digest_of_parts):
        cached.cache_clear()
    return _origin.changed(files, path.parent) == ["of_a_figure.py"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x + LEAST", "x - LEAST"),
        ("LEAST = 1", "LEAST = 2"),
        ("size: int = 0", "size: int = 1"),
        ("Sum().add(x)", "x"),
        ("def called(x)", "def called(x, y=0)"),
        ("def called(x)", "@cache\ndef called(x)"),
        ("[called]", "[]"),
        ("def called(x)", "def renamed(x)"),
        ("class Sum:", "class Sum(dict):"),
    ],
)
def test_what_was_called_and_constants_are_looked_at(noted, before, after) -> None:
    assert differs(noted[1], noted[0].used(), before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return x\n", "return -x\n"),
        ("return 0", "return 1"),
        ("Doc.", "Other."),
        ("import sys", "import os"),
        ("def never(x)", "def new():\n    pass\n\n\nNEW = 1\n\n\ndef never(x)"),
        ("LEAST = 1", "LEAST = 1  # said"),
    ],
)
def test_what_was_never_called_and_what_is_new_are_not(noted, before, after) -> None:
    assert not differs(noted[1], noted[0].used(), before, after)


def test_whole_files_count_where_other_processes_were_started(noted) -> None:
    calls, path = noted
    calls._audit("subprocess.Popen", ("/bin/uname", ["uname"], None, None))
    assert not calls.processes
    calls._audit("subprocess.Popen", (sys.executable, [sys.executable, "-c", ""], None, None))
    assert differs(path, calls.used(), "return x\n", "return -x\n")


@pytest.mark.parametrize(("script", "noted"), [("demo.py", True), ("../tests/conftest.py", False)])
def test_a_benchmark_notes_calls_of_its_own_process(script, noted) -> None:
    code = """
import sys
sys.modules["__main__"].__file__ = sys.argv[1]
import infl
from _origin import CALLS
infl.keys.Keyring.create()
used = CALLS.used()["src/infl/keys/keyring.py"].split(" ")
print("Keyring.create" in used, "Keyring.revoke" in used)
"""
    main = str(_origin.ROOT / "benchmarks" / script)
    ran = subprocess.run([sys.executable, "-c", code, main], capture_output=True, text=True, env=ENV)
    assert ran.stdout.split() == [str(noted), "False"], ran.stderr
